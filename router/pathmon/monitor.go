package pathmon

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

const (
	quiet = 250 * time.Millisecond // another path is told when nothing has changed for so long
	storm = time.Second            // or, when changes do not end, so long after the first
)

// Path is the way that our own packets to an endpoint take. Equal paths need no reaction.
type Path struct {
	Interface string
	Gateway   netip.Addr // invalid: the endpoint is on the link
	Source    netip.Addr // that the kernel chooses for our packets
	Default4  bool       // the host has a default route for IPv4
	Default6  bool       // and one for IPv6
}

// Is6 reports the path's family.
func (p Path) Is6() bool { return p.Source.Is6() }

// Config says what is followed, and for whom.
type Config struct {
	// Endpoint is asked for each lookup: the address to find the path to. An invalid one stands for the default route, of
	// IPv4 first. Nil: always that.
	Endpoint func() netip.Addr
	// Named says that the endpoint has, or may have, other addresses: while the host has any default route there is a path.
	Named bool
	// Mark is what our own sockets carry; 0 for none.
	Mark uint32
	// Ignore is the name of our own TUN. What changes on it, or by it, is not looked at. May be empty.
	Ignore string
	// IgnoreProtocol is the origin that our own routes and rules carry. What changes with it is not looked at; 0 is none.
	IgnoreProtocol int
	// Changed is called with the first path when Run begins, and with every other one. ok is false, and the path without
	// meaning, when there is none. It is called by Run's goroutine and must not block.
	Changed func(p Path, ok bool)
	// Changing, if set, is called with true at once when there is another path than was told: who trusts the network stops
	// here. What follows is Changed, or, if the path turns out to be the old one, Changing with false. The rules are those
	// of Changed.
	Changing func(bool)
	// Log may be nil.
	Log *slog.Logger
}

// Monitor follows the path to one endpoint.
type Monitor struct {
	Config
	again chan struct{} // of capacity 1: ask again
}

// New makes a monitor. Nothing happens before Run. Changed must be set.
func New(c Config) *Monitor {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Endpoint == nil {
		c.Endpoint = func() netip.Addr { return netip.Addr{} }
	}
	if c.Changing == nil {
		c.Changing = func(bool) {}
	}
	return &Monitor{Config: c, again: make(chan struct{}, 1)}
}

// Check asks again, as if something had changed: after a sleep, whose changes may have been missed.
func (m *Monitor) Check() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// answer is one answer of the kernel's.
type answer struct {
	endpoint netip.Addr
	path     Path
	ok       bool
}

// follow tells of paths until ctx ends. A value from events, or one from Check, means that something has changed.
func (m *Monitor) follow(ctx context.Context, events <-chan struct{}, lookup func(netip.Addr) (Path, bool)) {
	ask := func() answer {
		a := answer{endpoint: m.Endpoint()}
		a.path, a.ok = lookup(a.endpoint)
		return a
	}
	told := ask()
	m.tell(told)
	var first time.Time // of the changes that are not yet told; zero: there are none
	timer := time.NewTimer(storm)
	timer.Stop()
	defer timer.Stop()
	for {
		settled := false
		select {
		case <-ctx.Done():
			return
		case <-events:
		case <-m.again:
		case <-timer.C:
			settled = !first.IsZero()
		}
		now := ask()
		switch {
		case now.ok == told.ok && (!now.ok || now.path == told.path):
			if !first.IsZero() { // back where we were
				first = time.Time{}
				m.Changing(false)
			}
		case !now.ok:
			first, told = time.Time{}, now
			m.tell(now)
		case told.ok && now.endpoint != told.endpoint:
			told = now // another way because it leads elsewhere: whoever goes there found it himself
			if !first.IsZero() {
				first = time.Time{}
				m.Changing(false)
			}
		case settled:
			first, told = time.Time{}, now
			m.tell(now)
		default:
			if first.IsZero() {
				first = time.Now()
				m.Changing(true)
			}
			timer.Reset(min(quiet, time.Until(first.Add(storm))))
		}
	}
}

func (m *Monitor) tell(a answer) {
	if a.ok {
		m.Log.Debug("path", "endpoint", a.endpoint, "interface", a.path.Interface, "gateway", a.path.Gateway, "source", a.path.Source)
	} else {
		m.Log.Debug("no path", "endpoint", a.endpoint)
	}
	m.Changed(a.path, a.ok)
}
