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

// longSleep is a sleep after which nothing that was agreed with the network is believed any more.
const longSleep = time.Minute

// Follower keeps the transports informed of paths that change, sleep and waking, and the core of captive portals and
// trusted networks.
type Follower struct {
	l        *Laptop
	core     Core
	egress   *egress.Egress
	captive  *captive
	onDemand *onDemand // nil without on_demand
	monitors []*pathmon.Monitor
	long     chan struct{} // of one: the machine slept for long
}

// Follow makes a follower of this machine. Nothing happens before Run.
func (l *Laptop) Follow(core Core, e *egress.Egress) *Follower {
	f := &Follower{l: l, core: core, egress: e, captive: newCaptive(l, core, e), long: make(chan struct{}, 1)}
	if len(l.cfg.OnDemand) > 0 && !l.lab {
		f.onDemand = newOnDemand(l, core, e)
	}
	return f
}

// Run starts what follows the machine.
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
	sleep := pathmon.NewSleep(pathmon.SleepConfig{Log: f.l.log, Sleeping: f.sleeping, Woke: f.woke})
	start("sleep", sleep.Run)
	start("wake", f.freshen)
}

// TransportChanged tells that a transport's state has changed. It does not block.
func (f *Follower) TransportChanged() { f.captive.changed() }

// Reloaded tells that another configuration is in force. It does not block.
func (f *Follower) Reloaded() {
	if f.onDemand != nil {
		f.onDemand.note(func() {}) // the list may be another one
	}
}

// Override lets the user's word about transports count, instead of on_demand: for a while, or with 0 until the network
// changes. It reports whether on_demand is in charge of taking the order back.
func (f *Follower) Override(d time.Duration) bool {
	if f.onDemand == nil {
		return false
	}
	f.onDemand.override(d)
	return true
}

// OnDemand says for the status line what the network made of the transports; empty if nothing.
func (f *Follower) OnDemand() string { return f.onDemand.words() }

// Explains gives a state that a captive portal is behind its reason.
func (f *Follower) Explains(h transport.Health) transport.Health { return f.captive.explains(h) }

// PortalZone has the name of a captive portal that may be reached now resolved by the access network; nil: none.
func (f *Follower) PortalZone() *edition.PortalZone { return f.captive.zone.Load() }

func (f *Follower) sleeping() {
	f.l.log.Info("the machine is about to sleep")
	for _, t := range f.egress.Transports() {
		t.Quiesce()
	}
}

func (f *Follower) woke(slept time.Duration) {
	f.l.log.Info("the machine woke", "slept", slept)
	if slept >= longSleep {
		f.l.names.outdated() // before the transports ask
		select {
		case f.long <- struct{}{}:
		default:
		}
	}
	for _, m := range f.monitors {
		m.Check()
	}
	f.captive.moves() // perhaps
	if f.onDemand != nil {
		f.onDemand.again()
	}
	for _, t := range f.egress.Transports() {
		t.Reactivate(slept)
	}
}

// freshen drops what a long sleep has made stale: connections to DNS upstreams, and resolver settings that others may
// have changed meanwhile.
func (f *Follower) freshen(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.long:
		}
		f.core.FreshenDNS()
		if err := f.l.Apply(ctx); err != nil && ctx.Err() == nil {
			f.l.log.Warn("the host's settings could not be looked at after a sleep; the watch goes on", "err", err)
		}
	}
}

// tolerant makes a failure a warning: without it a change is noticed by the transports' silence, which takes longer.
func (f *Follower) tolerant(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil {
			f.l.log.Warn("changes of the network are not noticed at once", "err", err)
		}
		return nil
	}
}

// newMonitor makes the monitor of a transport's path.
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
		case known || lost: // the first path is no change
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

// monitorConfig is what monitors have in common.
func (f *Follower) monitorConfig() pathmon.Config {
	return pathmon.Config{Mark: f.l.mark(), Ignore: f.l.Interface(), IgnoreProtocol: hostnet.RouteProtocol, Log: f.l.log}
}

// endpointOf is the address that a transport talks to; invalid while that is not known.
func endpointOf(h transport.Health) netip.Addr {
	a, err := netip.ParseAddrPort(h.Stats.Endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
