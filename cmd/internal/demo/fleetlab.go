package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"

	"penstock/e2e/netlab"
)

// fleetLab is the world of a fleet in network namespaces. Each gateway has a host of its own, and so has the NATS server as they see
// it: what reaches that host goes on to this process.
type fleetLab struct {
	*labWorld
	hosts  map[string]*netlab.Host
	relays sync.WaitGroup
	stop   context.CancelFunc // nil before there are relays
}

// engineThere is where the gateways reach the NATS server.
const engineThere = "203.0.113.10:4222"

// build makes the hosts, publishes the first bundle and starts everything.
func (w *fleetLab) build(ctx context.Context, s *site, engine string) error {
	if err := w.open(ctx); err != nil {
		return err
	}
	more, err := w.lab.AddGateway(ctx, 2)
	if err != nil {
		return err
	}
	var endpoints []netip.AddrPort
	for i, host := range []*netlab.Host{w.lab.Gateway, more.Host} {
		g := &s.members[i]
		w.hosts[g.name] = host
		g.endpoint, g.pulse = netip.AddrPortFrom(g.outer, 51820), netip.AddrPortFrom(g.outer, 51821)
		endpoints = append(endpoints, g.endpoint)
	}
	l, err := w.lab.Internet.Listen(ctx, "tcp", engineThere)
	if err != nil {
		return err
	}
	relaying, stop := context.WithCancel(ctx)
	w.stop = stop
	w.relays.Go(func() { relay(relaying, l, engine) })
	s.dir, s.tun, s.engine = w.files.dir, w.tun(), engineThere
	if err := s.open(ctx, engine); err != nil {
		return err
	}
	if err := w.watch(ctx, endpoints...); err != nil {
		return err
	}
	fmt.Fprintln(w.progress, "starting the penstocks of two gateways and the laptop")
	if err := runAll(ctx, w, s); err != nil {
		return err
	}
	return w.start(ctx, w.lab.Laptop, "laptop", s.file("laptop.yaml"))
}

func (w *fleetLab) run(ctx context.Context, g member) error {
	return w.start(ctx, w.hosts[g.name], g.name, w.files.dir+"/"+g.name+".yaml")
}

func (w *fleetLab) kill(g member) error {
	i := slices.IndexFunc(w.procs, func(p *proc) bool { return p.name == g.name })
	if i < 0 {
		return fmt.Errorf("%s does not run", g.name)
	}
	p := w.procs[i]
	w.procs = slices.Delete(w.procs, i, i+1)
	return p.kill()
}

func (w *fleetLab) close() error {
	err := w.labWorld.close()
	if w.stop != nil {
		w.stop()
		w.relays.Wait()
	}
	return err
}

// relay hands the connections that a listener accepts on to an address, until ctx ends. It closes the listener.
func relay(ctx context.Context, l net.Listener, to string) {
	var over sync.WaitGroup
	defer over.Wait()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		a, err := l.Accept()
		if err != nil {
			return
		}
		over.Go(func() {
			defer a.Close()
			b, err := new(net.Dialer).DialContext(ctx, "tcp", to)
			if err != nil {
				return
			}
			defer b.Close()
			ends := func() { _ = errors.Join(a.Close(), b.Close()) }
			defer context.AfterFunc(ctx, ends)()
			over.Go(func() {
				defer ends()
				_, _ = io.Copy(b, a) // one that ends, ends the other
			})
			_, _ = io.Copy(a, b)
		})
	}
}
