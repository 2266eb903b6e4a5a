package egress

import (
	"context"
	"net/netip"
	"time"

	"penstock/router/transport"
	"penstock/stack"
)

// holds keeps the flows of a lost transport for a while, and resets them if it stays away. One goroutine owns it.
type holds struct {
	hold   time.Duration
	health func() []transport.Health // of all transports
	expire func(name string)
	kick   chan struct{} // of capacity 1: a transport's state changed

	lost map[string]time.Time // since when transports are away
	gone map[string]bool      // whose flows were reset
}

func newHolds(hold time.Duration, health func() []transport.Health, expire func(name string)) *holds {
	return &holds{
		hold: hold, health: health, expire: expire, kick: make(chan struct{}, 1),
		lost: make(map[string]time.Time), gone: make(map[string]bool),
	}
}

// changed reports that a transport's state has changed. It never blocks.
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

// look resets what is due and returns the time until the next reset; 0: none is pending.
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

// resetFlows takes a stack's addresses away for a moment, and with them the flows that left from them.
func resetFlows(s *stack.Stack, addrs []netip.Prefix) error {
	if err := s.SetAddrs(nil); err != nil {
		return err
	}
	return s.SetAddrs(addrs)
}
