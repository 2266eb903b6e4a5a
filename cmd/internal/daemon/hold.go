package daemon

import (
	"context"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/router"
	"penstock/router/transport"
	"penstock/stack"
)

// holds let the flows of a transport that is away wait for it, and reset them when it stays away. One goroutine owns it.
type holds struct {
	hold   time.Duration
	health func() []transport.Health // of all transports
	expire func(name string)
	kick   chan struct{} // of capacity 1: a transport's state changed

	lost map[string]time.Time // since when transports are away
	gone map[string]bool      // whose flows are reset
}

func newHolds(hold time.Duration, health func() []transport.Health, expire func(name string)) *holds {
	return &holds{
		hold: hold, health: health, expire: expire, kick: make(chan struct{}, 1),
		lost: make(map[string]time.Time), gone: make(map[string]bool),
	}
}

// changed tells that a transport's state changed. It never blocks.
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

// look resets what is due and returns the time until the next; 0 if nothing is waited for.
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

// holdFlows makes the holds that always_on.hold describes.
func (d *Daemon) holdFlows() *holds {
	reset := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "penstock_transport_flows_reset_total",
		Help: "Flows that were reset because their transport stayed away for longer than always_on.hold.",
	}, []string{"transport"})
	d.registry.MustRegister(reset)
	for name := range d.egress.tunnels {
		reset.WithLabelValues(name)
	}
	return newHolds(d.cfg.AlwaysOn.Hold, d.egress.health, func(name string) {
		n := d.router.Kill(func(f router.Flow) bool { return f.Egress == name })
		if err := d.egress.tunnels[name].inner.reset(); err != nil { // those that a group sent here, and our own questions
			d.log.Warn("flows of a lost transport could not be reset", "transport", name, "err", err)
		}
		reset.WithLabelValues(name).Add(float64(n))
		if n > 0 {
			d.log.Info("flows of a lost transport are reset", "transport", name, "flows", n)
		}
	})
}

// health is that of every transport.
func (e *egress) health() []transport.Health {
	list := make([]transport.Health, 0, len(e.tunnels))
	for _, t := range e.tunnels {
		list = append(list, t.Health())
	}
	return list
}

func (w *wireguardInner) reset() error { return resetFlows(w.stack, w.conf.Addresses) }

func (o *openvpnInner) reset() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return resetFlows(o.stack, o.settings.Addrs)
}

// resetFlows takes a stack's addresses away for a moment, and with them the flows that left from them.
func resetFlows(s *stack.Stack, addrs []netip.Prefix) error {
	if err := s.SetAddrs(nil); err != nil {
		return err
	}
	return s.SetAddrs(addrs)
}
