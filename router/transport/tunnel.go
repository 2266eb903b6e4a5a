package transport

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what NewTunnel needs. Name and New must be set.
type Config struct {
	Name string
	// New makes a driver that is not connected. It is called again after Down and Up.
	New func() (Driver, error)
	// Changed is called with each change of state, in order, by the tunnel's goroutine. It must not block. May be nil.
	Changed func(Health)
	Timing  Timing
	Log     *slog.Logger // nil discards
	Metrics *Metrics     // nil counts nothing
}

// Tunnel is a supervised transport. Run's goroutine owns all state; the other methods leave an order for it and return at
// once.
type Tunnel struct {
	Config
	orders *orders
	health atomic.Pointer[Health]

	mu   sync.Mutex    // guards below
	wait chan struct{} // closed at the next change of state
}

// NewTunnel makes a tunnel that wants to be up. Nothing happens before Run.
func NewTunnel(c Config) *Tunnel {
	c.Timing = c.Timing.withDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tunnel{Config: c, orders: newOrders(), wait: make(chan struct{})}
	t.health.Store(&Health{Name: c.Name, State: Down, Since: time.Now()})
	return t
}

// Up asks for the transport, until Down.
func (t *Tunnel) Up() { t.orders.steer(false, 0) }

// UpFor asks for the transport for d; after that it goes down. Any later Up, Down, UpFor or DownFor replaces the order
// and its time. A d that is not positive means for good.
func (t *Tunnel) UpFor(d time.Duration) { t.orders.steer(false, d) }

// Down ends the session. Dials fail until Up.
func (t *Tunnel) Down() { t.orders.steer(true, 0) }

// DownFor ends the session for d; after that the transport comes up again. Any later Up, Down, UpFor or DownFor replaces
// the order and its time. A d that is not positive means for good.
func (t *Tunnel) DownFor(d time.Duration) { t.orders.steer(true, d) }

// Reconnect makes a new session now, also out of Blocked. It does not bring up a transport that is down.
func (t *Tunnel) Reconnect() { t.orders.change(func(n *notes) { n.redo = ReasonManual }) }

// Lost reports that the driver's session is over. It fits a driver's Lost callback.
func (t *Tunnel) Lost(err error) { t.orders.change(func(n *notes) { n.lost = err }) }

// AwaitSignIn reports that the attempt under way waits for the user to sign in, or that it does no longer.
func (t *Tunnel) AwaitSignIn(yes bool) { t.orders.change(func(n *notes) { n.signIn = yes }) }

// PathChanged reports that the path to the endpoint is a new one, or that there is none.
func (t *Tunnel) PathChanged(hasPath bool) {
	t.orders.change(func(n *notes) {
		n.noPath = !hasPath
		if hasPath {
			n.path = ReasonPathChange
		}
	})
}

// Quiesce reports that the machine is about to sleep: timers stop, flows stay.
func (t *Tunnel) Quiesce() { t.orders.change(func(n *notes) { n.quiesced = true }) }

// Reactivate reports that the machine woke after a sleep of about slept.
func (t *Tunnel) Reactivate(slept time.Duration) {
	t.orders.change(func(n *notes) {
		n.quiesced, n.path = false, ReasonWake
		n.slow = n.slow || slept >= longSleep
	})
}

// longSleep is a sleep after which the session is given up at once: WireGuard's keys are dead after 180 s (whitepaper 6.1).
const longSleep = 180 * time.Second

// Health is the current state. It never blocks.
func (t *Tunnel) Health() Health { return *t.health.Load() }

// WaitUp returns once the transport is connected, or ErrNotUp when it is down, blocked or waiting or ctx ends first.
func (t *Tunnel) WaitUp(ctx context.Context) error {
	if t.Health().State == Connected {
		return nil
	}
	t.orders.change(func(n *notes) { n.wanted++ })
	defer t.orders.change(func(n *notes) { n.wanted-- })
	for {
		t.mu.Lock()
		wait := t.wait
		t.mu.Unlock()
		switch t.Health().State {
		case Connected:
			return nil
		case Down, Blocked, Waiting:
			return ErrNotUp
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ErrNotUp
		}
	}
}

// Run keeps the transport as it is wanted until ctx ends, closes the driver and returns nil. It is called once.
func (t *Tunnel) Run(ctx context.Context) error {
	defer t.orders.close()
	s := &supervisor{Tunnel: t}
	s.run(ctx)
	return nil
}

// publish makes h the tunnel's health. If changed is true, the state is a new one, and WaitUp is woken.
func (t *Tunnel) publish(h Health, changed bool) {
	t.health.Store(&h)
	t.Metrics.state(&h)
	if !changed {
		return
	}
	t.mu.Lock()
	close(t.wait)
	t.wait = make(chan struct{})
	t.mu.Unlock()
	t.Log.Info("transport is "+h.State.String(), "transport", t.Name, "state", h.State.String(), "reason", string(h.Reason), "err", h.Err)
	if t.Changed != nil {
		t.Changed(h)
	}
}
