package transport

import (
	"context"
	"time"
)

// liveness looks at a connected driver's counters and says when silence is death. Any received byte clears it.
type liveness struct {
	timing   Timing
	rx, tx   uint64
	rxAt     time.Time // when rx grew last
	txAt     time.Time // when tx first grew after rx did; zero: nothing is unanswered
	probing  time.Time // since when probes go out; zero: none do
	window   time.Duration
	lastLook time.Time
	busy     bool // the last look saw traffic: silence that begins is worth noticing at once
}

func newLiveness(timing Timing, s Stats, now time.Time) *liveness {
	return &liveness{timing: timing, rx: s.RxBytes, tx: s.TxBytes, rxAt: now, lastLook: now}
}

// look takes one sample. probe says that a probe is to be sent; dead that the transport is lost; slept that so much time
// has passed since the last look that silence proves nothing.
func (l *liveness) look(s Stats, now time.Time) (probe, dead, slept bool) {
	busy := s.RxBytes != l.rx || s.TxBytes != l.tx
	defer func() { l.busy = busy }()
	gap := now.Round(0).Sub(l.lastLook.Round(0)) // wall clock: the monotonic one may stand still in sleep
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
	if l.busy || !l.probing.IsZero() || !l.txAt.IsZero() { // something is unanswered, or may be: the next look may decide
		return l.timing.ProbeEvery
	}
	return l.timing.Sample
}

// watch looks after a connected driver. It returns the reason and cause of a loss, or a nil cause when the notes forbid to
// go on.
func (t *Tunnel) watch(ctx context.Context) (Reason, error) {
	t.arrived()
	live := newLiveness(t.Timing, t.Stats(), time.Now())
	timer := time.NewTimer(live.every())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ReasonManual, nil
		case <-t.kick:
		case <-timer.C:
		}
		n := t.takeOnce()
		switch {
		case n.interrupts():
			return ReasonManual, nil
		case n.lost != nil:
			return t.gone(reasonOf(n.lost), n.lost)
		case n.redo != "":
			return t.gone(n.redo, errAsked)
		case n.path != "":
			if n.slow || !t.rebound(ctx, n.path) {
				return t.gone(n.path, errPath)
			}
			live = newLiveness(t.Timing, t.Stats(), time.Now())
		}
		now := time.Now()
		s := t.Stats()
		probe, dead, slept := live.look(s, now)
		t.sampled(s, now)
		if slept {
			t.note(func(n *notes) { n.path = ReasonWake })
		}
		if dead {
			err := ErrKeepaliveTimeout{Transport: t.Name, LastReceived: s.LastRx, LastSent: s.LastTx}
			t.Log.Warn("keepalive timeout", "transport", t.Name, "last_received", s.LastRx, "last_sent", s.LastTx)
			return t.gone(ReasonKeepaliveTimeout, err)
		}
		if probe {
			if err := t.driver.Probe(ctx); err != nil {
				t.Log.Debug("probe was not sent", "transport", t.Name, "err", err)
			}
		}
		timer.Reset(live.every())
	}
}

// arrived notes that bytes have come through.
func (t *Tunnel) arrived() {
	h, now := t.Health(), time.Now()
	t.reconnects = append(t.reconnects, now)
	for len(t.reconnects) > 0 && now.Sub(t.reconnects[0]) > t.Timing.FlapWindow {
		t.reconnects = t.reconnects[1:]
	}
	reason := h.Reason
	h.Degraded = len(t.reconnects) > t.Timing.FlapCount
	if h.Degraded {
		reason = ReasonFlapping
	}
	h.State, h.Reason, h.Err, h.Since, h.Stats, h.Retry = Connected, reason, "", now, t.Stats(), time.Time{}
	t.publish(h, true)
}

// sampled publishes the counters, and forgets failures after a while of peace.
func (t *Tunnel) sampled(s Stats, now time.Time) {
	h := t.Health()
	h.Stats = s
	if now.Sub(h.Since) >= t.Timing.Settled {
		t.failed = 0
		h.Attempt = 0
		if h.Degraded && len(t.reconnects) > 0 && now.Sub(t.reconnects[len(t.reconnects)-1]) >= t.Timing.FlapWindow {
			h.Degraded = false
		}
	}
	t.health.Store(&h)
	t.Metrics.state(&h)
}

// gone notes a loss.
func (t *Tunnel) gone(reason Reason, cause error) (Reason, error) {
	if t.Health().State == Reconnecting { // a rebind that failed is one loss, not two
		return reason, cause
	}
	t.Metrics.reconnect(t.Name, reason)
	if reason == ReasonPathChange || reason == ReasonWake || reason == ReasonManual {
		t.failed = 0
	}
	t.set(Reconnecting, reason, cause)
	h := t.Health()
	h.Reconnects++
	t.health.Store(&h)
	return reason, cause
}

// rebound moves the session to a new path: new sockets, same keys. It reports whether anything came back in time.
func (t *Tunnel) rebound(ctx context.Context, reason Reason) bool {
	t.gone(reason, nil)
	before := t.Stats().RxBytes
	if err := t.driver.Rebind(); err != nil {
		t.Log.Warn("the transport's sockets could not be made anew", "transport", t.Name, "err", err)
		return false
	}
	limit := time.NewTimer(t.Timing.Rebind)
	defer limit.Stop()
	again := time.NewTicker(t.Timing.ProbeEvery)
	defer again.Stop()
	for {
		if err := t.driver.Probe(ctx); err != nil {
			t.Log.Debug("probe was not sent", "transport", t.Name, "err", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return false
		case <-again.C:
		}
		if t.Stats().RxBytes != before {
			t.arrived()
			return true
		}
	}
}
