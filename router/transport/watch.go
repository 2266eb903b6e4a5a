package transport

import (
	"context"
	"time"
)

// liveness judges from a connected driver's counters whether the transport is dead. Any received byte proves that it
// is not.
type liveness struct {
	timing   Timing
	rx, tx   uint64
	rxAt     time.Time // when rx grew last
	txAt     time.Time // when tx first grew after rx did; zero: nothing is unanswered
	probing  time.Time // when the first probe went out; zero: none has
	window   time.Duration
	lastLook time.Time
	busy     bool // the last look saw traffic, so look often: silence may begin any moment
}

func newLiveness(timing Timing, s Stats, now time.Time) *liveness {
	return &liveness{timing: timing, rx: s.RxBytes, tx: s.TxBytes, rxAt: now, lastLook: now}
}

// look takes one sample. probe asks for a probe to be sent; dead means that the transport is lost; slept means that the
// last look was so long ago that the machine must have slept, and silence proves nothing.
func (l *liveness) look(s Stats, now time.Time) (probe, dead, slept bool) {
	busy := s.RxBytes != l.rx || s.TxBytes != l.tx
	defer func() { l.busy = busy }()
	gap := now.Round(0).Sub(l.lastLook.Round(0)) // wall clock: the monotonic clock may stop during sleep
	l.lastLook = now
	if gap >= l.timing.SleepGap || gap < -l.timing.SleepGap {
		*l = *newLiveness(l.timing, s, now)
		return true, false, true
	}
	if s.RxBytes != l.rx {
		*l = *newLiveness(l.timing, s, now)
		return false, false, false
	}
	if s.TxBytes != l.tx && l.probing.IsZero() {
		l.tx = s.TxBytes
		if l.txAt.IsZero() {
			l.txAt = now
		}
	}
	if l.probing.IsZero() {
		switch {
		case !l.txAt.IsZero() && now.Sub(l.txAt) >= l.timing.Traffic:
			l.window = l.timing.ProbeWindow
		case now.Sub(l.rxAt) >= l.timing.Idle:
			l.window = l.timing.IdleWindow
		default:
			return false, false, false
		}
		l.probing = now
		return true, false, false
	}
	return true, now.Sub(l.probing) >= l.window, false
}

// every is how long to wait until the next look.
func (l *liveness) every() time.Duration {
	if l.busy || !l.probing.IsZero() || !l.txAt.IsZero() { // the next look may decide
		return l.timing.ProbeEvery
	}
	return l.timing.Sample
}

// watch supervises a connected driver. It returns the reason and cause of a loss, or a nil cause once the orders forbid
// the session.
func (s *supervisor) watch(ctx context.Context) (Reason, error) {
	s.arrived()
	live := newLiveness(s.Timing, s.stats(), time.Now())
	timer := time.NewTimer(live.every())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ReasonManual, nil
		case <-s.orders.kick:
		case <-timer.C:
		}
		n := s.orders.take()
		switch {
		case n.interrupts():
			return ReasonManual, nil
		case n.lost != nil:
			return s.gone(reasonOf(n.lost), n.lost)
		case n.redo != "":
			return s.gone(n.redo, errAsked)
		case n.path != "":
			if n.slow || !s.rebound(ctx, n.path) {
				return s.gone(n.path, errPath)
			}
			live = newLiveness(s.Timing, s.stats(), time.Now())
		}
		now := time.Now()
		sample := s.stats()
		probe, dead, slept := live.look(sample, now)
		s.sampled(sample, now)
		if slept {
			s.orders.change(func(n *notes) { n.path = ReasonWake })
		}
		if dead {
			err := ErrKeepaliveTimeout{Transport: s.Name, LastReceived: sample.LastRx, LastSent: sample.LastTx}
			s.Log.Warn("keepalive timeout", "transport", s.Name, "last_received", sample.LastRx, "last_sent", sample.LastTx)
			return s.gone(ReasonKeepaliveTimeout, err)
		}
		if probe {
			if err := s.driver.Probe(ctx); err != nil {
				s.Log.Debug("probe was not sent", "transport", s.Name, "err", err)
			}
		}
		timer.Reset(live.every())
	}
}

// arrived enters Connected: bytes were received.
func (s *supervisor) arrived() {
	h, now := s.Health(), time.Now()
	s.reconnects = append(s.reconnects, now)
	for len(s.reconnects) > 0 && now.Sub(s.reconnects[0]) > s.Timing.FlapWindow {
		s.reconnects = s.reconnects[1:]
	}
	reason := h.Reason
	h.Degraded = len(s.reconnects) > s.Timing.FlapCount
	if h.Degraded {
		reason = ReasonFlapping
	}
	h.State, h.Reason, h.Err, h.Since, h.Stats, h.Retry = Connected, reason, "", now, s.stats(), time.Time{}
	s.publish(h, true)
}

// sampled publishes the counters, and forgets earlier failures once the transport has been connected for a while.
func (s *supervisor) sampled(sample Stats, now time.Time) {
	h := s.Health()
	h.Stats = sample
	if now.Sub(h.Since) >= s.Timing.Settled {
		s.failed = 0
		h.Attempt = 0
		if h.Degraded && len(s.reconnects) > 0 && now.Sub(s.reconnects[len(s.reconnects)-1]) >= s.Timing.FlapWindow {
			h.Degraded = false
		}
	}
	s.health.Store(&h)
	s.Metrics.state(&h)
}

// gone enters Reconnecting: the session is lost.
func (s *supervisor) gone(reason Reason, cause error) (Reason, error) {
	if s.Health().State == Reconnecting { // a failed rebind is part of the same loss
		return reason, cause
	}
	s.Metrics.reconnect(s.Name, reason)
	if reason == ReasonPathChange || reason == ReasonWake || reason == ReasonManual {
		s.failed = 0
	}
	s.set(Reconnecting, reason, cause)
	h := s.Health()
	h.Reconnects++
	s.health.Store(&h)
	return reason, cause
}

// rebound moves the session to a new path, with new sockets and the same keys. It returns whether anything came back in
// time.
func (s *supervisor) rebound(ctx context.Context, reason Reason) bool {
	s.gone(reason, nil)
	before := s.stats().RxBytes
	if err := s.driver.Rebind(); err != nil {
		s.Log.Warn("the transport's sockets could not be made anew", "transport", s.Name, "err", err)
		return false
	}
	limit := time.NewTimer(s.Timing.Rebind)
	defer limit.Stop()
	again := time.NewTicker(s.Timing.ProbeEvery)
	defer again.Stop()
	for {
		if err := s.driver.Probe(ctx); err != nil {
			s.Log.Debug("probe was not sent", "transport", s.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return false
		case <-again.C:
		}
		if s.stats().RxBytes != before {
			s.arrived()
			return true
		}
	}
}
