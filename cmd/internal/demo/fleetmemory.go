package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/daemon"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

// fleetMemory is the world of a fleet without namespaces. The gateways are processes of their own, so that one can be killed, and each
// has an internet in its memory.
//
//	programs -- pipe -- laptop's penstock == WireGuard, 127.0.0.1 == gateway's process: penstock -- stack -- pipe -- internet
type fleetMemory struct {
	*memoryWorld
	self     string
	gateways map[string]*child
}

// child is a gateway's process. It ends when its standard input does, which it does at the end of this process at the latest.
type child struct {
	*proc
	input io.Closer
}

// build publishes the first bundle and starts everything.
func (w *fleetMemory) build(ctx context.Context, s *site, engine string) (err error) {
	ctx, w.cancel = context.WithCancel(ctx)
	if w.self, err = os.Executable(); err != nil {
		return err
	}
	if w.files.dir, err = os.MkdirTemp("", "penstock-demo-"); err != nil {
		return err
	}
	ports, err := freePorts(2 * len(s.members))
	if err != nil {
		return err
	}
	for i := range s.members {
		g := &s.members[i]
		g.endpoint, g.pulse = loopback(ports[2*i]), loopback(ports[2*i+1])
		g.listen = listenConfig(ports[2*i], "site.key") // on one machine, each needs another port
	}
	s.dir, s.tun, s.engine = w.files.dir, memoryTUN, engine
	if err := s.open(ctx, engine); err != nil {
		return err
	}
	if err := runAll(ctx, w, s); err != nil {
		return err
	}
	w.files.laptop = s.file("laptop.yaml")
	return w.startLaptop(ctx)
}

func (w *fleetMemory) trust() *trust { return new(trust) }

func (w *fleetMemory) run(ctx context.Context, g member) error {
	file := filepath.Join(w.files.dir, g.name+".yaml")
	cmd := exec.Command(w.self, GatewayArgs(file)...)
	input, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	p, err := begin(g.name, cmd, cmd.Start)
	if err != nil {
		return err
	}
	w.gateways[g.name] = &child{p, input}
	return p.awaitSocket(ctx, w.socket(g.name))
}

func (w *fleetMemory) kill(g member) error {
	c := w.gateways[g.name]
	if c == nil {
		return fmt.Errorf("%s does not run", g.name)
	}
	delete(w.gateways, g.name)
	return c.kill()
}

func (w *fleetMemory) close() error {
	var errs []error
	for name, c := range w.gateways {
		c.input.Close()
		select {
		case <-c.over:
		case <-time.After(5 * time.Second):
			errs = append(errs, fmt.Errorf("the penstock of %s did not stop", name), c.kill())
		}
	}
	return errors.Join(append(errs, w.memoryWorld.close())...)
}

// GatewayArgs are the arguments with which the demo of a fleet starts its own program again where there are no namespaces, as the
// gateway whose configuration is in a file. A program with these arguments is to call RunGateway.
func GatewayArgs(file string) []string { return []string{"demo", "--fleet", "--gateway", file} }

// RunGateway is one of the processes of the demo of a fleet. It runs until ctx or input ends. Its way to the internet leads into its
// own memory.
func RunGateway(ctx context.Context, file string, input io.Reader, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // it ends with the process at the latest
		_, _ = io.Copy(io.Discard, input)
		cancel()
	}()
	own, err := config.LoadFleet(file)
	if err != nil {
		return err
	}
	if _, err := (bundle.Disk{Dir: own.Fleet.Folder}).Current(); errors.Is(err, store.ErrNone) {
		check := func(ctx context.Context, c *config.Config) error {
			_, err := daemon.Check(ctx, c)
			return err
		}
		if err := fleet.First(ctx, file, check, log); err != nil {
			return err
		}
	}
	cfg, err := config.LoadServing(file, nil)
	if err != nil {
		return err
	}
	var outer netip.Addr
	for _, g := range newMembers() {
		if g.name == own.Fleet.Gateway {
			outer = g.outer
		}
	}
	n, err := newInternet(netip.PrefixFrom(outer, 24).String())
	if err != nil {
		return err
	}
	err = daemon.Run(ctx, cfg, daemon.Options{Socket: strings.TrimSuffix(file, ".yaml") + ".sock", Direct: n.direct(), Log: log})
	return errors.Join(err, n.close())
}
