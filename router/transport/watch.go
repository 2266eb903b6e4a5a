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
	answered uint64    // tx when rx grew last
	rxAt     time.Time // when rx grew last
	txAt     time.Time // when tx first grew after rx did; zero: nothing is unanswered
	wantAt   time.Time // the same, but for more than a keepalive; zero also if the peer has one endpoint
	probing  time.Time // when the first probe went out; zero: none has
	window   time.Duration
	calls    calls
	lastLook time.Time
	busy     bool // the last look saw traffic, so look often: silence may begin any moment
}

// sight is what a look finds.
type sight struct {
	probe bool // a probe is due
	call  bool // a call is due
	who   int  // whom to call, as Caller says
	dead  bool // the transport is lost
	slept bool // the last look was so long ago that the machine must have slept, and silence proves nothing
}

// keepalive is the size of a packet that wants no answer: a WireGuard message without content (whitepaper 5.4.6).
const keepalive = 32 // bytes

func newLiveness(timing Timing, s Stats, now time.Time) *liveness {
	return &liveness{timing: timing, rx: s.RxBytes, tx: s.TxBytes, answered: s.TxBytes, rxAt: now, lastLook: now}
}

// look takes one sample.
func (l *liveness) look(s Stats, now time.Time) (see sight) {
	busy := s.RxBytes != l.rx || s.TxBytes != l.tx
	defer func() { l.busy = busy }()
	gap := now.Round(0).Sub(l.lastLook.Round(0)) // wall clock: the monotonic clock may stop during sleep
	l.lastLook = now
	if gap >= l.timing.SleepGap || gap < -l.timing.SleepGap {
		*l = *newLiveness(l.timing, s, now)
		return sight{probe: true, slept: true}
	}
	if s.RxBytes != l.rx {
		*l = *newLiveness(l.timing, s, now)
		return sight{}
	}
	if s.TxBytes != l.tx && l.probing.IsZero() {
		l.tx = s.TxBytes
		if l.txAt.IsZero() {
			l.txAt = now
		}
		if s.Others > 0 && l.wantAt.IsZero() && s.TxBytes-l.answered > keepalive {
			l.wantAt = now
		}
	}
	if l.probing.IsZero() {
		t := l.timing
		switch {
		case !l.wantAt.IsZero() && now.Sub(l.wantAt) >= t.Doubt:
			l.window = t.ProbeWindow + max(0, t.Traffic-t.Doubt) // the transport is lost no sooner for having other endpoints
		case !l.txAt.IsZero() && now.Sub(l.txAt) >= t.Traffic:
			l.window = t.ProbeWindow
		case now.Sub(l.rxAt) >= t.Idle:
			l.window = t.IdleWindow
		default:
			return sight{}
		}
		l.probing = now
		if l.wantAt.IsZero() {
			l.wantAt = now // a probe wants an answer
		}
		return sight{probe: true}
	}
	see = sight{probe: true, dead: now.Sub(l.probing) >= l.window}
	if s.Others > 0 && now.Sub(l.wantAt) >= l.timing.CallAfter {
		see.who, see.call = l.calls.next(l.timing, s.Others, now)
	}
	return see
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
	where := place{endpoint: s.stats().Endpoint}
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
			if n.slow || !s.rebound(ctx, n.path, &where) {
				return s.gone(n.path, errPath)
			}
			live = newLiveness(s.Timing, s.stats(), time.Now())
		}
		now := time.Now()
		sample := s.stats()
		see := live.look(sample, now)
		s.sampled(sample, now)
		if from, moved := where.look(sample, now); moved {
			s.moved(from, sample.Endpoint)
		}
		if see.slept {
			s.orders.change(func(n *notes) { n.path = ReasonWake })
		}
		if see.dead {
			err := ErrKeepaliveTimeout{Transport: s.Name, LastReceived: sample.LastRx, LastSent: sample.LastTx}
			s.Log.Warn("keepalive timeout", "transport", s.Name, "last_received", sample.LastRx, "last_sent", sample.LastTx)
			return s.gone(ReasonKeepaliveTimeout, err)
		}
		if see.call {
			where.called = now
			s.call(see.who)
		}
		if see.probe {
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
// time. If the endpoint in use does not answer soon, the others are asked as well: on the new path they may be much nearer.
func (s *supervisor) rebound(ctx context.Context, reason Reason, where *place) bool {
	s.gone(reason, nil)
	first := s.stats()
	if err := s.driver.Rebind(); err != nil {
		s.Log.Warn("cannot reopen the transport's sockets", "transport", s.Name, "err", err)
		return false
	}
	limit := time.NewTimer(s.Timing.Rebind)
	defer limit.Stop()
	again := time.NewTicker(s.Timing.ProbeEvery)
	defer again.Stop()
	others := time.NewTimer(s.Timing.HeadStart)
	defer others.Stop()
	if first.Others > 0 {
		where.called = time.Now()
		s.call(0)
	}
	if err := s.driver.Probe(ctx); err != nil {
		s.Log.Debug("probe was not sent", "transport", s.Name, "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return false
		case <-others.C:
			if s.stats().RxBytes == first.RxBytes {
				for i := range first.Others {
					s.call(i + 1)
				}
			}
			continue
		case <-again.C:
		}
		if s.stats().RxBytes != first.RxBytes {
			s.arrived()
			return true
		}
		if err := s.driver.Probe(ctx); err != nil {
			s.Log.Debug("probe was not sent", "transport", s.Name, "err", err)
		}
	}
}
