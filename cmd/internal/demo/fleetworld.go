package demo

import (
	"context"
	"errors"
	"fmt"

	"penstock/cmd/internal/control"
	"penstock/e2e/netlab"
)

// fleetWorld is the network in which the demo of a fleet runs: the two gateways of a site, each a process of its own, and a laptop
// whose file names the first of them.
type fleetWorld interface {
	programs
	control(ctx context.Context) (*control.Client, error)
	// run starts a gateway's process, and waits until its control socket answers.
	run(ctx context.Context, g member) error
	// kill ends a gateway's process with SIGKILL.
	kill(g member) error
	seen() (string, error)
	close() error
}

// buildFleet makes a world in network namespaces if this machine allows it, and otherwise in memory, with gateways and a laptop that
// run. The NATS server is in this process. The caller calls closing, even after an error.
func buildFleet(ctx context.Context, o Options) (w fleetWorld, s *site, closing func() error, err error) {
	engine, stop, err := startEngine()
	if err != nil {
		return nil, nil, func() error { return nil }, err
	}
	s = &site{members: newMembers()}
	closing = func() error {
		s.close()
		var err error
		if w != nil {
			err = w.close()
		}
		return errors.Join(err, stop())
	}
	memory := o.Memory
	if !memory {
		if missing := netlab.Available(ctx); missing != nil {
			memory = true
			fmt.Fprintf(o.Stderr, "network namespaces are not available (%v): running the same daemons over in-memory links\n", missing)
		}
	}
	if memory {
		m := &fleetMemory{memoryWorld: &memoryWorld{failed: make(chan error, 1)}, gateways: make(map[string]*child)}
		w, err = m, m.build(ctx, s, engine)
	} else {
		fmt.Fprintln(o.Stderr, "building a small internet in network namespaces")
		l := &fleetLab{labWorld: &labWorld{progress: o.Stderr}, hosts: make(map[string]*netlab.Host)}
		w, err = l, l.build(ctx, s, engine)
	}
	return w, s, closing, err
}

// runAll starts all gateways.
func runAll(ctx context.Context, w fleetWorld, s *site) error {
	for _, g := range s.members {
		if err := w.run(ctx, g); err != nil {
			return err
		}
	}
	return nil
}
