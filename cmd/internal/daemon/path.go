package daemon

import (
	"context"
	"net/netip"
	"time"

	"penstock/router/hostnet"
	"penstock/router/pathmon"
	"penstock/router/transport"
)

// longSleep is a sleep after which nothing that was agreed with the network is believed any more.
const longSleep = time.Minute

// follow keeps the transports told of what happens to this machine: paths that change, sleep and waking. It starts what
// that takes.
func (d *Daemon) follow(start func(string, func(context.Context) error)) {
	holds := d.holdFlows()
	start("hold", holds.run)
	for _, t := range d.egress.tunnels {
		t.changed = func(transport.Health) { holds.changed(); d.captive.changed() }
	}
	if d.opts.Direct == nil && d.cfg.CaptivePortal.Detect {
		start("captive portal", d.captive.run)
	}
	var monitors []*pathmon.Monitor
	for name, t := range d.egress.tunnels {
		if d.opts.Direct != nil {
			break // the network is not that of this host
		}
		m := d.newMonitor(t)
		monitors = append(monitors, m)
		start("path of "+name, d.tolerant(m.Run))
	}
	if len(d.cfg.OnDemand) > 0 && d.opts.Direct == nil {
		d.onDemand = d.newOnDemand()
		c := d.monitorConfig()
		c.Changed, c.Changing = d.onDemand.changed, d.onDemand.changing
		m := pathmon.New(c)
		monitors = append(monitors, m)
		start("network", d.tolerant(m.Run))
		start("on demand", d.onDemand.run)
	}
	long := make(chan struct{}, 1)
	sleep := pathmon.NewSleep(pathmon.SleepConfig{
		Log: d.log,
		Sleeping: func() {
			d.log.Info("the machine is about to sleep")
			for _, t := range d.egress.tunnels {
				t.Quiesce()
			}
		},
		Woke: func(slept time.Duration) {
			d.log.Info("the machine woke", "slept", slept)
			if slept >= longSleep {
				d.host.names.outdated() // before the transports ask
				select {
				case long <- struct{}{}:
				default:
				}
			}
			for _, m := range monitors {
				m.Check()
			}
			d.captive.moves() // perhaps
			if d.onDemand != nil {
				d.onDemand.again()
			}
			for _, t := range d.egress.tunnels {
				t.Reactivate(slept)
			}
		},
	})
	start("sleep", sleep.Run)
	start("wake", func(ctx context.Context) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-long:
				d.freshen(ctx)
			}
		}
	})
}

// tolerant makes a failure a warning: without it a change is noticed by the transports' silence, which takes longer.
func (d *Daemon) tolerant(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if err := run(ctx); err != nil {
			d.log.Warn("changes of the network are not noticed at once", "err", err)
		}
		return nil
	}
}

// newMonitor makes the monitor of a transport's path.
func (d *Daemon) newMonitor(t *tunnel) *pathmon.Monitor {
	c := d.monitorConfig()
	c.Endpoint = func() netip.Addr { return endpointOf(t.Health()) }
	c.Named = t.inner.named()
	var was pathmon.Path
	known, lost := false, false
	c.Changed = func(p pathmon.Path, ok bool) {
		d.captive.moves()
		switch {
		case !ok:
			t.PathChanged(false)
		case known || lost: // the first path is no change
			if p.Is6() != was.Is6() || p.Gateway != was.Gateway {
				d.host.names.outdated()
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
func (d *Daemon) monitorConfig() pathmon.Config {
	return pathmon.Config{Mark: d.host.mark(), Ignore: d.host.name, IgnoreProtocol: hostnet.RouteProtocol, Log: d.log}
}

// endpointOf is the address that a transport talks to; invalid while that is not known.
func endpointOf(h transport.Health) netip.Addr {
	a, err := netip.ParseAddrPort(h.Stats.Endpoint)
	if err != nil {
		return netip.Addr{}
	}
	return a.Addr().Unmap()
}

// isName says that an endpoint's host may have more addresses than one.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}

func (w *wireguardInner) named() bool {
	for _, p := range w.conf.Peers {
		if p.Endpoint.Host != "" && isName(p.Endpoint.Host) {
			return true
		}
	}
	return false
}

func (o *openvpnInner) named() bool {
	for _, r := range o.profile.Remotes {
		if isName(r.Host) {
			return true
		}
	}
	return len(o.profile.Remotes) > 1
}

// freshen drops what a long sleep has made stale: connections to DNS upstreams, and resolver settings that others may
// have changed meanwhile.
func (d *Daemon) freshen(ctx context.Context) {
	if err := d.setDNS(nil); err != nil { // the same again: queries that follow make connections of their own
		d.log.Warn("connections to DNS upstreams were kept over a sleep", "err", err)
	}
	if err := d.host.apply(ctx); err != nil && ctx.Err() == nil {
		d.log.Warn("the host's settings could not be looked at after a sleep; the watch goes on", "err", err)
	}
}
