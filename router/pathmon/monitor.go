package pathmon

import (
	"context"
	"log/slog"
	"net/netip"
	"time"
)

const (
	quiet = 250 * time.Millisecond // a new path is reported when nothing has changed for this long
	storm = time.Second            // or, if changes do not end, this long after the first
)

// Path is how our own packets reach an endpoint. Equal paths need no reaction.
type Path struct {
	Interface string
	Gateway   netip.Addr // invalid: the endpoint is on the link
	Source    netip.Addr // source address of our packets
	Default4  bool       // the host has a default route for IPv4
	Default6  bool       // and one for IPv6
}

// Is6 reports the path's family.
func (p Path) Is6() bool { return p.Source.Is6() }

// Config configures a Monitor.
type Config struct {
	// Endpoint returns the address whose path is looked up. It is called for each lookup. An invalid address stands for
	// the default route, that of IPv4 first. Nil always means the default route.
	Endpoint func() netip.Addr
	// Named says that the endpoint may have other addresses, so there is a path as long as the host has a default route.
	Named bool
	// Mark is the mark of our own sockets; 0 for none.
	Mark uint32
	// Ignore is the name of our own TUN. Changes to it and to routes by it are ignored. May be empty.
	Ignore string
	// IgnoreProtocol is the protocol of our own routes and rules, whose changes are ignored; 0 for none.
	IgnoreProtocol int
	// Changed is called with the first path when Run begins, and with each new one. If there is no path, ok is false. It is
	// called by Run's goroutine and must not block.
	Changed func(p Path, ok bool)
	// Changing, if set, is called with true as soon as the path differs from the one that was reported: a network must not
	// be trusted from then on. Then either Changed is called, or, if the old path comes back, Changing with false. Like
	// Changed it must not block.
	Changing func(bool)
	// Log may be nil.
	Log *slog.Logger
}

// Monitor follows the path to one endpoint.
type Monitor struct {
	Config
	again chan struct{} // of capacity 1: look again
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

// Check looks the path up again, as after a change. Call it after sleep, when changes may have been missed.
func (m *Monitor) Check() {
	select {
	case m.again <- struct{}{}:
	default:
	}
}

// answer is the result of one lookup.
type answer struct {
	endpoint netip.Addr
	path     Path
	ok       bool
}

// follow reports paths until ctx ends. A value from events or from Check means that something may have changed.
func (m *Monitor) follow(ctx context.Context, events <-chan struct{}, lookup func(netip.Addr) (Path, bool)) {
	ask := func() answer {
		a := answer{endpoint: m.Endpoint()}
		a.path, a.ok = lookup(a.endpoint)
		return a
	}
	told := ask()
	m.tell(told)
	var first time.Time // of the changes that were not reported yet; zero: there are none
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
			told = now           // perhaps to another endpoint
			if !first.IsZero() { // the old path is back
				first = time.Time{}
				m.Changing(false)
			}
		case !now.ok:
			first, told = time.Time{}, now
			m.tell(now)
		case told.ok && now.endpoint != told.endpoint && m.stands(told, lookup):
			told = now // the endpoint changed, and whoever changed it knows
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

// stands reports whether a path that was told is still that to its endpoint, as far as is known: who leaves an endpoint may do so
// because there is no path to it. The default route is no endpoint, and stands in until there is one.
func (m *Monitor) stands(told answer, lookup func(netip.Addr) (Path, bool)) bool {
	if told.endpoint.IsValid() {
		return true
	}
	path, ok := lookup(netip.Addr{})
	return ok && path == told.path
}

func (m *Monitor) tell(a answer) {
	if a.ok {
		m.Log.Debug("path", "endpoint", a.endpoint, "interface", a.path.Interface, "gateway", a.path.Gateway, "source", a.path.Source)
	} else {
		m.Log.Debug("no path", "endpoint", a.endpoint)
	}
	m.Changed(a.path, a.ok)
}
