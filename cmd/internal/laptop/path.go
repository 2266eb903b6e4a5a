package laptop

import (
	"context"
	"net/netip"
	"time"

	"penstock/cmd/internal/egress"
	"penstock/router/hostnet"
	"penstock/router/pathmon"
	"penstock/router/transport"
)

// longSleep is a sleep after which nothing that was agreed with the network is believed any more.
const longSleep = time.Minute

// follower keeps transports and core informed of what happens to this machine.
type follower struct {
	l        *Laptop
	core     Core
	egress   *egress.Egress
	captive  *captive
	onDemand *onDemand // nil without on_demand
	monitors []*pathmon.Monitor
	long     chan struct{} // of one: the machine slept for long
}

// Follow makes what keeps the transports informed of paths that change, sleep and waking, and core of captive portals
// and trusted networks. Nothing happens before RunFollow.
func (l *Laptop) Follow(core Core, e *egress.Egress) {
	l.follower = &follower{l: l, core: core, egress: e, long: make(chan struct{}, 1)}
	l.follower.captive = newCaptive(l, core, e)
	if len(l.cfg.OnDemand) > 0 && !l.lab {
		l.follower.onDemand = newOnDemand(l, core, e)
	}
}

// RunFollow starts it.
func (l *Laptop) RunFollow(start func(name string, run func(context.Context) error)) {
	f := l.follower
	if !l.lab {
		if l.cfg.CaptivePortal.Detect {
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
	sleep := pathmon.NewSleep(pathmon.SleepConfig{Log: l.log, Sleeping: f.sleeping, Woke: f.woke})
	start("sleep", sleep.Run)
	start("wake", f.freshen)
}

// TransportChanged tells that a transport's state has changed. It does not block.
func (l *Laptop) TransportChanged() {
	if l.follower != nil {
		l.follower.captive.changed()
	}
}

// Reloaded tells that another configuration is in force. It does not block.
func (l *Laptop) Reloaded() {
	if l.follower != nil && l.follower.onDemand != nil {
		l.follower.onDemand.note(func() {}) // the list may be another one
	}
}

// Override lets the user's word about transports count, instead of on_demand: for a while, or with 0 until the network
// changes. It reports whether on_demand is in charge of taking the order back.
func (l *Laptop) Override(d time.Duration) bool {
	if l.follower == nil || l.follower.onDemand == nil {
		return false
	}
	l.follower.onDemand.override(d)
	return true
}

// OnDemand says for the status line what the network made of the transports; empty if nothing.
func (l *Laptop) OnDemand() string {
	if l.follower == nil {
		return ""
	}
	return l.follower.onDemand.words()
}

// Explains gives a state that a captive portal is behind its reason.
func (l *Laptop) Explains(h transport.Health) transport.Health {
	if l.follower == nil {
		return h
	}
	return l.follower.captive.explains(h)
}

func (f *follower) sleeping() {
	f.l.log.Info("the machine is about to sleep")
	for _, t := range f.egress.Transports() {
		t.Quiesce()
	}
}

func (f *follower) woke(slept time.Duration) {
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
func (f *follower) freshen(ctx context.Context) error {
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
func (f *follower) tolerant(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil {
			f.l.log.Warn("changes of the network are not noticed at once", "err", err)
		}
		return nil
	}
}

// newMonitor makes the monitor of a transport's path.
func (f *follower) newMonitor(t *egress.Transport) *pathmon.Monitor {
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
func (f *follower) monitorConfig() pathmon.Config {
	return pathmon.Config{Mark: f.l.mark(), Ignore: f.l.name, IgnoreProtocol: hostnet.RouteProtocol, Log: f.l.log}
}

// endpointOf is the address that a transport talks to; invalid while that is not known.
func endpointOf(h transport.Health) netip.Addr {
	a, err := netip.ParseAddrPort(h.Stats.Endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}
