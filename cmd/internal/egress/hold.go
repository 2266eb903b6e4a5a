package egress

import (
	"context"
	"net/netip"
	"time"

	"penstock/router/transport"
	"penstock/stack"
)

// holds resets the flows of a transport that stays down for too long. One goroutine owns it.
type holds struct {
	hold   time.Duration
	health func() []transport.Health // of all transports
	expire func(name string)
	kick   chan struct{} // capacity 1: a transport's state has changed

	lost map[string]time.Time // since when each lost transport is down
	gone map[string]bool      // transports whose flows were reset
}

func newHolds(hold time.Duration, health func() []transport.Health, expire func(name string)) *holds {
	return &holds{
		hold: hold, health: health, expire: expire, kick: make(chan struct{}, 1),
		lost: make(map[string]time.Time), gone: make(map[string]bool),
	}
}

// changed tells the goroutine that a transport's state has changed. It never blocks.
func (h *holds) changed() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// run resets flows until ctx ends.
func (h *holds) run(ctx context.Context) error {
	timer := time.NewTimer(h.hold)
	defer timer.Stop()
	for {
		if next := h.look(time.Now()); next > 0 {
			timer.Reset(next)
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-h.kick:
		case <-timer.C:
		}
	}
}

// look resets the flows that are due. It returns the time until the next reset, or 0 if none is pending.
func (h *holds) look(now time.Time) (next time.Duration) {
	for _, t := range h.health() {
		if t.State == transport.Connected {
			delete(h.lost, t.Name)
			delete(h.gone, t.Name)
			continue
		}
		since, ok := h.lost[t.Name]
		if !ok {
			since = now
			h.lost[t.Name] = now
		}
		left := h.hold - now.Sub(since)
		switch {
		case h.gone[t.Name]:
		case left <= 0:
			h.gone[t.Name] = true
			h.expire(t.Name)
		case next == 0 || left < next:
			next = left
		}
	}
	return next
}

// resetFlows resets the flows of a stack by removing its addresses for a moment.
func resetFlows(s *stack.Stack, addrs []netip.Prefix) error {
	if err := s.SetAddrs(nil); err != nil {
		return err
	}
	return s.SetAddrs(addrs)
}
