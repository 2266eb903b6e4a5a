package laptop

import (
	"context"
	"net/netip"
	"time"

	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/egress"
	"penstock/router/hostnet"
	"penstock/router/pathmon"
	"penstock/router/transport"
)

// longSleep is the length of a sleep after which all state shared with the network counts as stale.
const longSleep = time.Minute

// Follower tells the transports about path changes, sleep and waking, and the core about captive portals and trusted networks.
type Follower struct {
	l        *Laptop
	core     Core
	egress   *egress.Egress
	captive  *captive
	onDemand *onDemand // nil without on_demand
	lan      *lanNames
	monitors []*pathmon.Monitor
	long     chan struct{} // capacity 1: the machine slept for longSleep or more
}

// Follow returns a Follower of this machine. It does nothing before Run.
func (l *Laptop) Follow(core Core, e *egress.Egress) *Follower {
	f := &Follower{l: l, core: core, egress: e, captive: newCaptive(l, core, e), lan: newLANNames(l, core), long: make(chan struct{}, 1)}
	if len(l.cfg.OnDemand) > 0 && !l.lab {
		f.onDemand = newOnDemand(l, core, e)
	}
	return f
}

// Run starts the goroutines of the Follower.
func (f *Follower) Run(start func(name string, run func(context.Context) error)) {
	if !f.l.lab {
		if f.l.cfg.CaptivePortal.Detect {
			start("captive portal", f.captive.run)
		}
		for _, t := range f.egress.Transports() {
			m := f.newMonitor(t)
			f.monitors = append(f.monitors, m)
			start("path of "+t.Name, f.tolerant(m.Run))
		}
	}
	if f.onDemand != nil {
		c := f.monitorConfig()
		c.Changed, c.Changing = f.onDemand.changed, f.onDemand.changing
		m := pathmon.New(c)
		f.monitors = append(f.monitors, m)
		start("network", f.tolerant(m.Run))
		start("on demand", f.onDemand.run)
	}
	if f.l.net != nil && !f.l.lab {
		c := f.monitorConfig()
		c.Changed = func(pathmon.Path, bool) { f.lan.again() }
		m := pathmon.New(c)
		f.monitors = append(f.monitors, m)
		start("path of the LAN", f.tolerant(m.Run))
		start("names of the LAN", f.lan.run)
	}
	sleep := pathmon.NewSleep(pathmon.SleepConfig{Log: f.l.log, Sleeping: f.sleeping, Woke: f.woke})
	start("sleep", sleep.Run)
	start("wake", f.freshen)
}

// TransportChanged reports that a transport's state has changed. It does not block.
func (f *Follower) TransportChanged() { f.captive.changed() }

// Reloaded reports that a new configuration is in force. It does not block.
func (f *Follower) Reloaded() {
	f.lan.again() // the LAN may be open now, or closed
	if f.onDemand != nil {
		f.onDemand.note(func() {}) // the list may have changed
	}
}

// Override lets an order of the user override on_demand: for d or, if d is 0, until the network changes. It reports whether
// on_demand will revert the order.
func (f *Follower) Override(d time.Duration) bool {
	if f.onDemand == nil {
		return false
	}
	f.onDemand.override(d)
	return true
}

// OnDemand returns the action of on_demand for the status line, or "" if there is none.
func (f *Follower) OnDemand() string { return f.onDemand.words() }

// Explains adds the captive portal as the reason to a state that it causes.
func (f *Follower) Explains(h transport.Health) transport.Health { return f.captive.explains(h) }

// Access returns what the network that the host is in resolves: the name of an open captive portal, and those of the LAN.
func (f *Follower) Access() *edition.Access {
	return &edition.Access{Portal: f.captive.zone.Load(), LAN: f.lan.now()}
}

func (f *Follower) sleeping() {
	f.l.log.Info("machine is about to sleep")
	for _, t := range f.egress.Transports() {
		t.Quiesce()
	}
}

func (f *Follower) woke(slept time.Duration) {
	f.l.log.Info("machine woke", "slept", slept)
	if slept >= longSleep {
		f.l.names.outdated() // before the transports look them up
		select {
		case f.long <- struct{}{}:
		default:
		}
	}
	for _, m := range f.monitors {
		m.Check()
	}
	f.captive.moves() // perhaps it has
	f.lan.again()
	if f.onDemand != nil {
		f.onDemand.again()
	}
	for _, t := range f.egress.Transports() {
		t.Reactivate(slept)
	}
}

// freshen replaces what is stale after a long sleep: connections to DNS upstreams, and resolver settings that others may have
// changed.
func (f *Follower) freshen(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.long:
		}
		f.core.FreshenDNS()
		if err := f.l.Apply(ctx); err != nil && ctx.Err() == nil {
			f.l.log.Warn("cannot apply the host's settings after a sleep", "err", err)
		}
	}
}

// tolerant turns a failure of run into a warning. Without run, transports still notice a change, but later, by their timeouts.
func (f *Follower) tolerant(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil {
			f.l.log.Warn("cannot watch the network; changes will be noticed later", "err", err)
		}
		return nil
	}
}

// newMonitor returns the monitor of a transport's path.
func (f *Follower) newMonitor(t *egress.Transport) *pathmon.Monitor {
	c := f.monitorConfig()
	c.Endpoint = func() netip.Addr { return endpointOf(t.Health()) }
	c.Named = t.Named()
	var was pathmon.Path
	known, lost := false, false
	c.Changed = func(p pathmon.Path, ok bool) {
		f.captive.moves()
		switch {
		case !ok:
			t.PathChanged(false)
		case known || lost: // the first path is not a change
			if p.Is6() != was.Is6() || p.Gateway != was.Gateway {
				f.l.names.outdated()
			}
			t.PathChanged(true)
		}
		known, lost = known || ok, !ok
		if ok {
			was = p
		}
	}
	return pathmon.New(c)
}

// monitorConfig returns the settings that all monitors share.
func (f *Follower) monitorConfig() pathmon.Config {
	return pathmon.Config{Mark: f.l.mark(), Ignore: f.l.Interface(), IgnoreProtocol: hostnet.RouteProtocol, Log: f.l.log}
}

// endpointOf returns the address of a transport's server; invalid if unknown.
func endpointOf(h transport.Health) netip.Addr {
	a, err := netip.ParseAddrPort(h.Stats.Endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// Resolvers returns the DNS servers of the network that the host is in, or nil if penstock leaves the host's resolver alone.
func (f *Follower) Resolvers(ctx context.Context) []netip.Addr {
	if f.l.net == nil {
		return nil
	}
	servers, err := f.l.net.OriginalResolvers(ctx)
	if err != nil {
		f.l.log.Warn("cannot find out which DNS servers this network has", "err", err)
	}
	return servers
}
