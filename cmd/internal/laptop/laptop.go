// Package laptop is this machine: the way out by its own network, the TUN that its packets enter, and what happens to it:
// paths that change, sleep, captive portals, networks that are trusted.
//
// A gateway has one too, without a TUN: its transports follow the paths of the machine that it runs on.
//
// It does not judge flows. What it finds out becomes conditions that the policy is asked with: see Core.
package laptop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/policy"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/stack"
	"penstock/stack/link"
)

// Core is the running penstock as the machine sees it. Its methods may be called by several goroutines at once.
type Core interface {
	// Config is the configuration in force.
	Config() *config.Config
	// Change brings other conditions into force: when it returns, flows that would go another way have ended, and DNS
	// follows. It does nothing if nothing changes.
	Change(func(*policy.Conditions))
	// Conditions are those in force.
	Conditions() *policy.Conditions
	// IsInside reports whether a rule or a split zone keeps a host to the transports.
	IsInside(host string) bool
	// Inside are the networks that transports keep to themselves.
	Inside() []netip.Prefix
	// FreshenDNS makes the connections to DNS upstreams anew.
	FreshenDNS()
}

// Config is what New needs. Config must be set.
type Config struct {
	Config *config.Config
	// TUN takes the place of the device that listen.tun describes. The host is left alone then. May be nil.
	TUN link.Port
	// Direct takes the place of the host's own network. May be nil.
	Direct egress.Direct
	Log    *slog.Logger // nil discards
}

// Laptop is this machine.
type Laptop struct {
	cfg    *config.Config
	log    *slog.Logger
	given  link.Port // in place of a TUN of the system; may be nil
	direct egress.Direct
	lab    bool          // Config.Direct was given: the network is not that of this host
	net    *hostnet.Host // nil if nothing of the host is to be changed

	names   *addressBook
	search  atomic.Pointer[[]string] // domains that complete short names
	overlap trouble
	device  *device // nil without a TUN
}

// New opens the way out by the host's own network, and takes the state file if the host is to be changed at all. A
// second instance ends here.
func New(c Config) (*Laptop, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	l := &Laptop{cfg: c.Config, log: c.Log, given: c.TUN, direct: c.Direct, lab: c.Direct != nil}
	if l.direct == nil {
		if err := l.openDirect(); err != nil {
			return nil, err
		}
	}
	if err := l.openHost(); err != nil {
		return nil, errors.Join(err, l.direct.Close())
	}
	book := ""
	if l.net != nil {
		book = filepath.Join(filepath.Dir(l.cfg.Listen.TUN.StateFile), "endpoints.json")
	}
	l.names = openAddressBook(book, l.lookup, l.log)
	return l, nil
}

// openDirect opens the way out by the host's own network.
func (l *Laptop) openDirect() error {
	var c direct.Config
	t := l.cfg.Listen.TUN
	if t != nil {
		c = direct.Config{Interface: t.Name, Prefixes: t.Address, Mark: t.Mark, MarkMask: t.MarkMask}
	}
	c.Log = l.log
	d, err := direct.NewDialer(c)
	switch {
	case err == nil:
		l.direct = d
	case errors.Is(err, errors.ErrUnsupported) && (t == nil || t.FD != nil):
		l.direct = egress.Plain{} // whoever made the descriptor keeps our sockets out of it
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("listen.tun: penstock cannot set routes on this system yet: run it as a gateway here, or hand it a TUN with fd: %w", err)
	default:
		return err
	}
	return nil
}

func (l *Laptop) openHost() error {
	t := l.cfg.Listen.TUN
	if t == nil || l.given != nil || t.Routes == "manual" && t.DNS == "manual" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(t.StateFile), 0o700); err != nil {
		return fmt.Errorf("listen.tun.state_file: %w", err)
	}
	n, err := hostnet.Open(hostnet.Config{
		Interface: t.Name, StateFile: t.StateFile, Mark: t.Mark, MarkMask: t.MarkMask, Log: l.log,
		Repaired: func(kind string, err error) {
			l.log.Warn("put back something that penstock had set and others removed", "what", kind, "err", err)
		},
		Gone: func() {
			if l.device != nil {
				l.device.lose(errors.New("the interface is gone"))
			}
		},
		Overlap: l.overlaps,
		Warning: func(err error) { l.log.Warn("the host could not be configured in full", "err", err) },
	})
	if err != nil {
		return fmt.Errorf("listen.tun.state_file: %w", err)
	}
	l.net = n
	return nil
}

// Open makes the TUN and attaches a stack to it. Nothing leads into it yet. It does nothing without listen.tun.
func (l *Laptop) Open(handle func(context.Context, *stack.Request), limits stack.Limits, metrics *stack.Metrics) (err error) {
	if l.cfg.Listen.TUN != nil {
		l.device, err = l.openDevice(handle, limits, metrics)
	}
	return err
}

// Outside is the machine's own network as transports use it.
func (l *Laptop) Outside() egress.Outside {
	return egress.Outside{Direct: l.direct, Mark: l.mark(), Resolve: l.names.resolve}
}

// mark is what our own sockets carry; 0 without a TUN to keep out of.
func (l *Laptop) mark() uint32 {
	if l.cfg.Listen.TUN == nil || l.given != nil {
		return 0
	}
	return l.cfg.Listen.TUN.Mark
}

// Interface is the name of the TUN; empty without one.
func (l *Laptop) Interface() string {
	switch {
	case l.device != nil:
		return l.device.name // which the system may have chosen
	case l.cfg.Listen.TUN != nil:
		return l.cfg.Listen.TUN.Name
	}
	return ""
}

// OwnsHost reports whether penstock changes the host's routes or resolver.
func (l *Laptop) OwnsHost() bool { return l.net != nil }

// Trouble says what is wrong with the TUN or the host's settings, and how to mend it; empty if nothing is.
func (l *Laptop) Trouble() string {
	if l.device != nil && l.device.String() != "" {
		return l.device.String()
	}
	return l.overlap.String()
}

// overlaps notes that a network of the TUN is also one that the host is connected to, or with nil that it is not.
func (l *Laptop) overlaps(err *direct.OverlapError) {
	if err == nil {
		l.overlap.set("")
		l.log.Info("the TUN's networks are free again")
		return
	}
	l.overlap.set(err.Error())
	l.log.Error("a network of the TUN is in use elsewhere: packets go astray", "err", err)
}

// Close gives the host back: first the routes, so that nothing is led into a device that is going, then the device.
// failed says that penstock ends because something failed, not because it was asked to: under lockdown the host stays
// closed then.
func (l *Laptop) Close(failed bool) error {
	var errs []error
	errs = append(errs, l.leave(failed))
	if l.device != nil {
		errs = append(errs, l.device.Close())
	}
	return errors.Join(append(errs, l.direct.Close())...)
}

// Touch opens a socket in the stack behind the TUN and closes it again. It returns late, or never, where the stack
// hangs: it is for a watchdog.
func (l *Laptop) Touch(ctx context.Context, dst netip.AddrPort) {
	if l.device == nil {
		return
	}
	if c, err := l.device.DialContext(ctx, "udp", dst.String()); err == nil {
		c.Close()
	}
}

// lookup finds the addresses of a name outside ourselves and outside every tunnel: with the resolvers that the host had
// before us, by sockets that stay out of the TUN.
func (l *Laptop) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if l.net == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
	servers, err := l.net.OriginalResolvers(ctx)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("resolve %s: the host has no resolver of its own: write the endpoint as an address", name)
	}
	resolvers := make([]netip.AddrPort, len(servers))
	for i, server := range servers {
		resolvers[i] = netip.AddrPortFrom(server, 53)
	}
	return egress.LookUp(ctx, name, resolvers, l.direct.DialContext)
}

// lookupHost resolves a name by the network that the host is in, now: nothing is remembered of it.
func (l *Laptop) lookupHost(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	return l.lookup(ctx, name)
}
