package laptop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/clients"
	"penstock/stack"
	"penstock/stack/link"
)

// device is the TUN with the stack behind it. If somebody deletes the TUN, device makes a new one and keeps the stack.
type device struct {
	*stack.Stack
	cfg    *config.TUN
	name   string
	given  bool // the TUN was passed in, so penstock cannot make a new one
	log    *slog.Logger
	port   atomic.Pointer[link.Port] // nil while the TUN is gone
	failed chan error                // capacity 1: the TUN is gone
	trouble
}

// openDevice creates the TUN, unless one was passed in, and attaches a stack to it.
func (l *Laptop) openDevice(handle stack.Handler, limits stack.Limits, metrics *stack.Metrics) (*device, error) {
	t := l.networks.tun()
	d := &device{cfg: t, name: t.Name, given: l.given != nil || t.FD != nil, log: l.log, failed: make(chan error, 1)}
	port := l.given
	if port == nil {
		tun, err := openTUN(t, t.Name)
		if err != nil {
			return nil, fmt.Errorf("listen.tun: %w", err)
		}
		d.name, port = tun.Name(), tun
	}
	var err error
	d.Stack, err = stack.New(stack.Config{
		Name: d.name, MTU: max(port.MTU(), 1280), Addrs: t.ServiceAddrs(), Handle: handle,
		Client:     func(netip.Addr) (uint64, bool) { return clients.Machine, true }, // everything that comes out of the TUN
		LinkFailed: d.lose, Lossless: true, Limits: limits, Log: l.log, Metrics: metrics,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen.tun: %w", err), port.Close())
	}
	d.port.Store(&port)
	return d, d.Attach(port)
}

// lose gives up the TUN. It acts once per TUN.
func (d *device) lose(err error) {
	port := d.port.Swap(nil)
	if port == nil {
		return
	}
	if closeErr := (*port).Close(); closeErr != nil {
		d.log.Debug("cannot close the lost TUN", "interface", d.name, "err", closeErr)
	}
	d.failed <- err // does not block: one TUN is lost at a time, and revive receives this before it makes the next
}

func openTUN(t *config.TUN, name string) (*link.TUN, error) {
	c := link.TUNConfig{Name: name, MTU: t.MTU}
	if t.FD != nil {
		c.FD, c.HasFD = *t.FD, true
	}
	return link.OpenTUN(c)
}

// reviveEvery is the pause between attempts to recreate the TUN.
const reviveEvery = time.Second

// revive recreates the TUN whenever it is gone, until ctx ends. Nothing leaks in between: routes into a missing TUN block
// packets. lead sets the routes into the new one.
func (d *device) revive(ctx context.Context, lead func(context.Context) error) {
	for {
		var failure error
		select {
		case <-ctx.Done():
			return
		case failure = <-d.failed:
		}
		if d.given {
			d.set("the TUN that was passed to penstock has failed: restart penstock with a new one")
			continue
		}
		d.log.Error("the TUN is gone; recreating it", "interface", d.name, "err", failure)
		d.set("the TUN " + d.name + " is gone; penstock is recreating it")
		for err := d.remake(ctx, lead); err != nil; err = d.remake(ctx, lead) {
			d.log.Error("cannot recreate the TUN; trying again", "interface", d.name, "err", err)
			d.set("the TUN " + d.name + " is gone and cannot be recreated: " + err.Error())
			select {
			case <-ctx.Done():
				return
			case <-time.After(reviveEvery):
			}
		}
		d.log.Info("the TUN is back", "interface", d.name)
		d.set("")
	}
}

// remake recreates the TUN under its old name, unless it exists already, and calls lead.
func (d *device) remake(ctx context.Context, lead func(context.Context) error) error {
	if d.port.Load() != nil {
		return lead(ctx)
	}
	tun, err := openTUN(d.cfg, d.name)
	if err != nil {
		return err
	}
	var port link.Port = tun
	d.port.Store(&port) // before it is read: a link that fails at once is given up by lose
	if err := d.Attach(tun); err != nil {
		d.port.Store(nil)
		return errors.Join(err, tun.Close())
	}
	return lead(ctx)
}

// trouble says what is wrong and how to fix it, for the status.
type trouble struct{ what atomic.Pointer[string] }

func (t *trouble) set(what string) { t.what.Store(&what) }

// String returns "" if nothing is wrong.
func (t *trouble) String() string {
	if what := t.what.Load(); what != nil {
		return *what
	}
	return ""
}

// troubles are several, each under its own key.
type troubles struct {
	mu  sync.Mutex // guards below
	all map[string]error
}

// note records a trouble, or with nil that it is over.
func (t *troubles) note(key string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = make(map[string]error)
	}
	t.all[key] = err
}

// String returns "" if nothing is wrong.
func (t *troubles) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var texts []string
	for _, key := range slices.Sorted(maps.Keys(t.all)) {
		if err := t.all[key]; err != nil {
			texts = append(texts, err.Error())
		}
	}
	return strings.Join(texts, "; ")
}
