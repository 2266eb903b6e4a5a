package transport

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what NewTunnel needs. Name and New must be set.
type Config struct {
	Name string
	// New makes a driver that is not connected. It is called again after Down and Up.
	New func() (Driver, error)
	// Changed receives each change of state, in order, in the tunnel's goroutine. It must not block. May be nil.
	Changed func(Health)
	Timing  Timing
	Log     *slog.Logger // nil discards
	Metrics *Metrics     // nil counts nothing
}

// Tunnel supervises one driver. Run's goroutine owns all state; the other methods leave a note and return at once. They
// are level-triggered: what counts is the last word, not how often it was said.
type Tunnel struct {
	Config
	health atomic.Pointer[Health]
	kick   chan struct{} // capacity 1: look at the notes

	mu    sync.Mutex // guards below
	notes notes
	wait  chan struct{} // closed at the next change of state

	// Owned by Run.
	driver     Driver
	base       Stats // of drivers that are gone
	reconnects []time.Time
	jumped     time.Time
	failed     int
}

// notes are what others have asked for since Run looked last.
type notes struct {
	down     bool // the user wants it down
	quiesced bool
	noPath   bool
	wanted   int // dials that wait for the transport
	// The rest is taken away when it is read.
	redo Reason // make a new session
	path Reason // the path is new, or the machine woke: rebind and probe
	slow bool   // the machine slept for long: don't trust the old session
	lost error  // the driver says that the session is over
}

// NewTunnel makes a tunnel that wants to be up. Nothing happens before Run.
func NewTunnel(c Config) *Tunnel {
	c.Timing = c.Timing.withDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	t := &Tunnel{Config: c, kick: make(chan struct{}, 1), wait: make(chan struct{})}
	t.health.Store(&Health{Name: c.Name, State: Down, Since: time.Now()})
	return t
}

// note changes the notes and wakes Run.
func (t *Tunnel) note(change func(*notes)) {
	t.mu.Lock()
	change(&t.notes)
	t.mu.Unlock()
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// Up asks for the transport.
func (t *Tunnel) Up() { t.note(func(n *notes) { n.down, n.redo = false, ReasonManual }) }

// Down ends the session. Dials fail until Up.
func (t *Tunnel) Down() { t.note(func(n *notes) { n.down = true }) }

// Reconnect makes a new session now, also out of Blocked.
func (t *Tunnel) Reconnect() { t.note(func(n *notes) { n.redo = ReasonManual }) }

// Lost tells that the driver's session is over: its Lost callback.
func (t *Tunnel) Lost(err error) { t.note(func(n *notes) { n.lost = err }) }

// PathChanged tells that the way to the endpoint is another one, or that there is none.
func (t *Tunnel) PathChanged(hasPath bool) {
	t.note(func(n *notes) {
		n.noPath = !hasPath
		if hasPath {
			n.path = ReasonPathChange
		}
	})
}

// Quiesce tells that the machine is about to sleep: timers stop, flows stay.
func (t *Tunnel) Quiesce() { t.note(func(n *notes) { n.quiesced = true }) }

// Reactivate tells that the machine woke after about slept.
func (t *Tunnel) Reactivate(slept time.Duration) {
	t.note(func(n *notes) {
		n.quiesced, n.path = false, ReasonWake
		n.slow = n.slow || slept >= 180*time.Second
	})
}

// Health is the current state. It never blocks.
func (t *Tunnel) Health() Health { return *t.health.Load() }

// demand counts a dial that waits for the transport, and takes the count back.
func (t *Tunnel) demand(by int) { t.note(func(n *notes) { n.wanted += by }) }

// WaitUp returns once the transport is connected, or ErrNotUp when it is down or blocked or ctx ends first.
func (t *Tunnel) WaitUp(ctx context.Context) error {
	if t.Health().State == Connected {
		return nil
	}
	t.demand(1)
	defer t.demand(-1)
	for {
		t.mu.Lock()
		wait := t.wait
		t.mu.Unlock()
		switch t.Health().State {
		case Connected:
			return nil
		case Down, Blocked:
			return ErrNotUp
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ErrNotUp
		}
	}
}

// Run keeps the transport as it is wanted until ctx ends, closes the driver and returns nil.
func (t *Tunnel) Run(ctx context.Context) error {
	defer t.closeDriver()
	defer t.set(Down, ReasonManual, nil)
	for ctx.Err() == nil {
		n := t.standing()
		switch {
		case n.down:
			t.closeDriver()
			t.set(Down, ReasonManual, nil)
			t.idle(ctx)
		case n.quiesced:
			t.set(Quiesced, ReasonNone, nil)
			t.idle(ctx)
		case n.noPath:
			t.set(Offline, ReasonPathChange, nil)
			t.idle(ctx)
		default:
			t.live(ctx)
		}
	}
	return nil
}

// standing reads the notes without taking what is taken once.
func (t *Tunnel) standing() notes {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.notes
}

// takeOnce reads the notes and takes away what is to be acted on once.
func (t *Tunnel) takeOnce() notes {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.notes
	t.notes.redo, t.notes.path, t.notes.slow, t.notes.lost = "", "", false, nil
	return n
}

// interrupts says that a session must not go on.
func (n notes) interrupts() bool { return n.down || n.quiesced || n.noPath }

func (t *Tunnel) idle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-t.kick:
	}
}

// live connects and watches over the connection until the notes forbid it.
func (t *Tunnel) live(ctx context.Context) {
	reason, cause := t.Health().Reason, error(nil)
	for ctx.Err() == nil && !t.standing().interrupts() {
		if !t.connect(ctx, reason, cause) {
			return
		}
		reason, cause = t.watch(ctx)
		if cause == nil {
			return
		}
	}
}

// connect makes attempts until one succeeds (true) or the notes forbid it.
func (t *Tunnel) connect(ctx context.Context, reason Reason, cause error) bool {
	state := Reconnecting
	if h := t.Health(); h.State == Down || h.State == Connecting {
		state = Connecting
	} else if h.State != Reconnecting && cause == nil {
		reason = h.Reason
	}
	for ctx.Err() == nil {
		t.set(state, reason, cause)
		if !t.pause(ctx, backoff(t.failed)) {
			return false
		}
		n := t.takeOnce() // an attempt is as good a reaction as any
		if n.interrupts() {
			return false
		}
		err := t.attempt(ctx)
		if err == nil {
			return true
		}
		if t.standing().interrupts() || ctx.Err() != nil {
			return false
		}
		t.failed++
		reason, cause = reasonOf(err), err
		t.Log.Warn("transport did not connect", "transport", t.Name, "reason", reason, "attempt", t.failed, "err", err)
		var blocked *BlockedError
		if errors.As(err, &blocked) {
			t.set(Blocked, reason, err)
			if !t.awaitRedo(ctx) {
				return false
			}
			t.failed = 0
		}
	}
	return false
}

// attempt connects once.
func (t *Tunnel) attempt(ctx context.Context) error {
	if t.driver == nil {
		d, err := t.New()
		if err != nil {
			return err
		}
		t.driver = d
	}
	limit := min(t.Timing.ConnectFirst<<min(t.failed, 4), t.Timing.ConnectMost)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	before := t.Stats().RxBytes
	done := make(chan error, 1)
	go func() { done <- t.driver.Connect(ctx) }()
	for {
		select {
		case err := <-done:
			if err == nil && t.Stats().RxBytes == before {
				return &ReasonedError{Reason: ReasonHandshakeFailed, Err: errors.New("nothing was received")}
			}
			return err
		case <-t.kick:
			if n := t.standing(); n.interrupts() || n.redo != "" || n.path != "" {
				cancel() // the world has changed: what this attempt would find out is stale
			}
		}
	}
}

// Stats are the counters over all drivers so far. Run's goroutine only.
func (t *Tunnel) Stats() Stats {
	s := t.base
	if t.driver == nil {
		return s
	}
	d := t.driver.Stats()
	d.RxBytes += s.RxBytes
	d.TxBytes += s.TxBytes
	return d
}

func (t *Tunnel) closeDriver() {
	if t.driver == nil {
		return
	}
	t.base = t.Stats()
	if err := t.driver.Close(); err != nil {
		t.Log.Debug("closing the driver failed", "transport", t.Name, "err", err)
	}
	t.driver = nil
}

// pause waits for the back-off; a note that asks for action ends it early. It reports false when the notes forbid to go on.
func (t *Tunnel) pause(ctx context.Context, d time.Duration) bool {
	d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d)) // +-20 %: servers must not be met in step
	timer := time.NewTimer(d)
	defer timer.Stop()
	begun := time.Now()
	t.schedule(begun.Add(d))
	hurry := time.NewTimer(min(d, t.Timing.Demand))
	defer hurry.Stop()
	for {
		n := t.standing()
		switch {
		case n.wanted > 0 && time.Since(begun) >= t.Timing.Demand && !n.interrupts() && ctx.Err() == nil:
			return true
		case n.interrupts() || ctx.Err() != nil:
			return false
		case n.redo != "":
			t.failed = 0
			return true
		case n.path != "" && time.Since(t.jumped) >= t.Timing.JumpQueue:
			t.jumped = time.Now()
			t.failed = 0
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-t.kick:
		case <-hurry.C:
		case <-timer.C:
			return true
		}
	}
}

// awaitRedo waits in Blocked for the user.
func (t *Tunnel) awaitRedo(ctx context.Context) bool {
	for {
		n := t.standing()
		if n.interrupts() || ctx.Err() != nil {
			return false
		}
		if n.redo != "" {
			return true
		}
		t.idle(ctx)
	}
}

// schedule publishes when the next attempt is due.
func (t *Tunnel) schedule(at time.Time) {
	h := t.Health()
	h.Retry, h.Attempt = at, t.failed
	t.health.Store(&h)
}

// set publishes a state.
func (t *Tunnel) set(s State, reason Reason, cause error) {
	h := t.Health()
	changed := h.State != s || h.Reason != reason
	if h.State != s {
		h.Since = time.Now()
	}
	h.State, h.Reason, h.Attempt, h.Stats, h.Retry = s, reason, t.failed, t.Stats(), time.Time{}
	h.Err = ""
	if cause != nil {
		h.Err = cause.Error()
	}
	if s != Connected {
		h.Degraded = false
	}
	t.publish(h, changed)
}

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

// reasonOf is an error's place in the closed set.
func reasonOf(err error) Reason {
	var r *ReasonedError
	var b *BlockedError
	var k ErrKeepaliveTimeout
	switch {
	case errors.As(err, &b):
		return b.Reason
	case errors.As(err, &r):
		return r.Reason
	case errors.As(err, &k):
		return ReasonKeepaliveTimeout
	case errors.Is(err, context.DeadlineExceeded):
		return ReasonHandshakeFailed
	}
	return ReasonError
}
