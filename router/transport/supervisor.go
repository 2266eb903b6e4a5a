package transport

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// supervisor is the running part of a tunnel. Everything in it belongs to Run's goroutine.
type supervisor struct {
	*Tunnel
	driver     Driver      // nil while there is none
	base       Stats       // of drivers that were closed
	reconnects []time.Time // within the last FlapWindow
	jumped     time.Time   // when a path change last ended a back-off early
	failed     int         // attempts in a row
	unsigned   error       // why the peer waits for its user, until somebody acts; nil: it does not wait
}

// run keeps the transport as it is wanted until ctx ends.
func (s *supervisor) run(ctx context.Context) {
	defer s.closeDriver()
	defer s.set(Down, ReasonManual, nil)
	for ctx.Err() == nil {
		n := s.orders.read()
		switch {
		case n.down:
			s.closeDriver()
			s.unsigned = nil
			s.set(Down, ReasonManual, nil)
			s.idle(ctx)
		case n.quiesced:
			s.set(Quiesced, ReasonNone, nil)
			s.idle(ctx)
		case n.noPath:
			s.set(Offline, ReasonPathChange, nil)
			s.idle(ctx)
		default:
			s.live(ctx)
		}
	}
}

// idle waits for an order.
func (s *supervisor) idle(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.orders.kick:
	}
}

// live connects and watches the connection until the orders forbid it.
func (s *supervisor) live(ctx context.Context) {
	reason, cause := s.Health().Reason, error(nil)
	for ctx.Err() == nil && !s.orders.read().interrupts() {
		if !s.connect(ctx, reason, cause) {
			return
		}
		reason, cause = s.watch(ctx)
		if cause == nil {
			return
		}
	}
}

// connect makes attempts until one succeeds and returns true, or false once the orders forbid it.
func (s *supervisor) connect(ctx context.Context, reason Reason, cause error) bool {
	state := Reconnecting
	if h := s.Health(); h.State == Down || h.State == Connecting {
		state = Connecting
	} else if h.State != Reconnecting && cause == nil {
		reason = h.Reason
	}
	if s.unsigned != nil && !s.awaitSignIn(ctx) { // another network is no reason to bother the user again
		return false
	}
	for ctx.Err() == nil {
		s.set(state, reason, cause)
		if !s.pause(ctx, backoff(s.failed)) {
			return false
		}
		n := s.orders.take() // a fresh attempt answers all of them
		if n.interrupts() {
			return false
		}
		err := s.attempt(ctx)
		if err == nil {
			return true
		}
		if s.orders.read().interrupts() || ctx.Err() != nil {
			return false
		}
		s.failed++
		reason, cause = reasonOf(err), err
		s.Log.Warn("transport did not connect", "transport", s.Name, "reason", reason, "attempt", s.failed, "err", err)
		var blocked *BlockedError
		if errors.As(err, &blocked) {
			if reason == ReasonSignIn {
				s.unsigned = err
				if !s.awaitSignIn(ctx) {
					return false
				}
				continue
			}
			s.set(Blocked, reason, err)
			if !s.awaitRedo(ctx) {
				return false
			}
			s.failed = 0
		}
	}
	return false
}

// attempt connects once. Its limit is for the peer's first answer. What comes after it, such as a check of who the user
// is, takes as long as the driver allows: to start over would ask the server to check anew.
func (s *supervisor) attempt(ctx context.Context) error {
	if s.driver == nil {
		d, err := s.New()
		if err != nil {
			return err
		}
		s.driver = d
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	limited := newLimitedContext(ctx)
	limit := time.NewTimer(min(s.Timing.ConnectFirst<<min(s.failed, 4), s.Timing.ConnectMost))
	defer limit.Stop()
	look := time.NewTicker(s.Timing.Sample)
	defer look.Stop()
	before, from := s.stats().RxBytes, s.Health()
	done := make(chan error, 1)
	go func() { done <- s.driver.Connect(limited) }()
	for {
		select {
		case err := <-done:
			if err == nil && s.stats().RxBytes == before {
				return &ReasonedError{Reason: ReasonHandshakeFailed, Err: errors.New("nothing was received")}
			}
			return err
		case <-look.C:
			h := s.Health()
			h.Stats = s.stats() // so that a server that answers, but takes long to agree, is seen
			s.health.Store(&h)
		case <-limit.C:
			if s.stats().RxBytes == before {
				limited.exceeded.Store(true)
				cancel()
			}
		case <-s.orders.kick:
			n := s.orders.read()
			if n.interrupts() || n.redo != "" || n.path != "" {
				cancel() // whatever this attempt finds out is stale
			}
			switch waits := s.Health().State == Waiting; {
			case n.signIn && !waits:
				s.set(Waiting, ReasonSignIn, nil)
			case !n.signIn && waits:
				s.set(from.State, from.Reason, nil)
			}
		}
	}
}

// limitedContext is a context whose limit can be lifted. To drivers it looks like one with a deadline.
type limitedContext struct {
	context.Context // ends it, by a cancellation
	done            chan struct{}
	exceeded        atomic.Bool // set before the cancellation
}

func newLimitedContext(ctx context.Context) *limitedContext {
	c := &limitedContext{Context: ctx, done: make(chan struct{})}
	context.AfterFunc(ctx, func() { close(c.done) })
	return c
}

// Done is a channel of its own: contexts made from this one then ask its Err, and not that of the context inside.
func (c *limitedContext) Done() <-chan struct{} { return c.done }

// Err tells a limit that was exceeded from a cancellation.
func (c *limitedContext) Err() error {
	select {
	case <-c.done:
		if c.exceeded.Load() {
			return context.DeadlineExceeded
		}
		return c.Context.Err()
	default:
		return nil
	}
}

// pause waits for the back-off. An order that asks for action ends it early. It returns false once the orders forbid
// another attempt.
func (s *supervisor) pause(ctx context.Context, d time.Duration) bool {
	d += time.Duration((rand.Float64() - 0.5) * 0.4 * float64(d)) // +-20 %, so that clients of one server do not come in step
	timer := time.NewTimer(d)
	defer timer.Stop()
	begun := time.Now()
	s.schedule(begun.Add(d))
	hurry := time.NewTimer(min(d, s.Timing.Demand))
	defer hurry.Stop()
	for {
		n := s.orders.read()
		switch {
		case n.wanted > 0 && time.Since(begun) >= s.Timing.Demand && !n.interrupts() && ctx.Err() == nil:
			return true
		case n.interrupts() || ctx.Err() != nil:
			return false
		case n.redo != "":
			s.failed = 0
			return true
		case n.path != "" && time.Since(s.jumped) >= s.Timing.JumpQueue:
			s.jumped = time.Now()
			s.failed = 0
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-s.orders.kick:
		case <-hurry.C:
		case <-timer.C:
			return true
		}
	}
}

// awaitSignIn waits in Waiting until the user asks for another attempt. It returns false once the orders forbid one.
func (s *supervisor) awaitSignIn(ctx context.Context) bool {
	s.set(Waiting, ReasonSignIn, s.unsigned)
	if !s.awaitRedo(ctx) {
		return false
	}
	s.failed, s.unsigned = 0, nil
	return true
}

// awaitRedo waits in Blocked until the user asks for another attempt. It returns false once the orders forbid one.
func (s *supervisor) awaitRedo(ctx context.Context) bool {
	for {
		n := s.orders.read()
		if n.interrupts() || ctx.Err() != nil {
			return false
		}
		if n.redo != "" {
			return true
		}
		s.idle(ctx)
	}
}

// stats are the counters over all drivers so far, those that were closed included.
func (s *supervisor) stats() Stats {
	if s.driver == nil {
		return s.base
	}
	d := s.driver.Stats()
	d.RxBytes += s.base.RxBytes
	d.TxBytes += s.base.TxBytes
	if d.LastRx.IsZero() {
		d.LastRx = s.base.LastRx
	}
	return d
}

func (s *supervisor) closeDriver() {
	if s.driver == nil {
		return
	}
	s.base = s.stats()
	if err := s.driver.Close(); err != nil {
		s.Log.Debug("closing the driver failed", "transport", s.Name, "err", err)
	}
	s.driver = nil
}

// schedule publishes when the next attempt is due.
func (s *supervisor) schedule(at time.Time) {
	h := s.Health()
	h.Retry, h.Attempt = at, s.failed
	s.health.Store(&h)
}

// set publishes a state.
func (s *supervisor) set(state State, reason Reason, cause error) {
	h := s.Health()
	changed := h.State != state || h.Reason != reason
	if h.State != state {
		h.Since = time.Now()
	}
	h.State, h.Reason, h.Attempt, h.Stats, h.Retry = state, reason, s.failed, s.stats(), time.Time{}
	h.Err = ""
	if cause != nil {
		h.Err = cause.Error()
	}
	if state != Connected {
		h.Degraded = false
	}
	s.publish(h, changed)
}

// reasonOf returns the reason that status and metrics show for an error.
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
