// Package laptop handles this machine: the way out through its own network, the TUN that its packets enter, and events such as
// path changes, sleep, captive portals and trusted networks.
//
// A gateway uses it too, without a TUN: its transports follow the path changes of the machine it runs on.
//
// It does not judge flows. It reports conditions, which the policy takes into account: see Core.
package laptop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/policy"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/stack"
	"penstock/stack/link"
)

// Core is what the laptop needs from the running penstock. It must be safe for concurrent use.
type Core interface {
	// Config returns the current configuration.
	Config() *config.Config
	// Change puts new conditions in force. When it returns, flows that would take another way have ended, and the DNS
	// settings match. It does nothing if nothing changes.
	Change(func(*policy.Conditions))
	// Conditions returns the current conditions.
	Conditions() *policy.Conditions
	// IsInside reports whether a rule or a split zone keeps a host to the transports.
	IsInside(host string) bool
	// Inside returns the networks that must be reached through a transport.
	Inside() []netip.Prefix
	// FreshenDNS replaces the connections to DNS upstreams.
	FreshenDNS()
}

// Config is what New needs. Config must be set.
type Config struct {
	Config *config.Config
	// TUN replaces the device that listen.tun describes. The host is then not changed. May be nil.
	TUN link.Port
	// Direct replaces the host's own network. May be nil.
	Direct egress.Direct
	// Inside are the networks behind transports, which the TUN's own stay out of if they can.
	Inside []netip.Prefix
	// MTU is that of the TUN if the configuration does not say one, in bytes; 0 if it does not matter.
	MTU int
	// Moved is called when the TUN's addresses are to be others than those of the configuration or of the last call: by New
	// and by Watch. When it returns, no flow has the old addresses any more. May be nil.
	Moved func(addresses []netip.Prefix)
	Log   *slog.Logger // if nil, nothing is logged
}

// Laptop is this machine.
type Laptop struct {
	// Others are the networks of other VPNs on this machine.
	Others *direct.Others
	// Programs finds the programs on this machine that send flows.
	Programs *Programs

	cfg    *config.Config
	log    *slog.Logger
	given  link.Port // Config.TUN; may be nil
	direct egress.Direct
	lab    bool          // Config.Direct is set, so the network is not that of this host
	net    *hostnet.Host // nil if penstock must not change the host
	always atomic.Pointer[config.AlwaysOn]

	networks *networks
	moved    func([]netip.Prefix)
	names    *addressBook
	applying sync.Mutex               // held from reading the settings until they are applied
	search   atomic.Pointer[[]string] // search domains for short names
	overlap  trouble
	host     troubles // with settings of the host
	device   *device  // nil without a TUN
}

// New opens the way out through the host's own network. If penstock changes the host, it locks the state file; a second
// instance fails here.
func New(c Config) (*Laptop, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Moved == nil {
		c.Moved = func([]netip.Prefix) {}
	}
	l := &Laptop{
		cfg: c.Config, log: c.Log, given: c.TUN, direct: c.Direct, lab: c.Direct != nil,
		networks: newNetworks(sized(c.Config.Listen.TUN, c.MTU), c.Inside, c.Log), moved: c.Moved, Others: new(direct.Others),
	}
	l.always.Store(&c.Config.AlwaysOn)
	if l.direct == nil {
		if err := l.openDirect(); err != nil {
			return nil, err
		}
	}
	if err := l.openHost(); err != nil {
		return nil, errors.Join(err, l.direct.Close())
	}
	if l.net != nil && l.networks.start() {
		l.move()
	}
	book := ""
	if l.net != nil {
		book = filepath.Join(filepath.Dir(l.cfg.Listen.TUN.StateFile), "endpoints.json")
	}
	l.Programs = newPrograms(l)
	l.names = openAddressBook(book, l.lookup, l.log)
	return l, nil
}

// openDirect opens the way out through the host's own network.
func (l *Laptop) openDirect() error {
	var c direct.Config
	t := l.cfg.Listen.TUN
	if t != nil {
		c = direct.Config{Interface: t.Name, Prefixes: t.Address, Mark: t.Mark, MarkMask: t.MarkMask}
	}
	c.Log, c.Others = l.log, l.Others
	d, err := direct.NewDialer(c)
	switch {
	case err == nil:
		l.direct = d
	case errors.Is(err, errors.ErrUnsupported) && (t == nil || t.FD != nil):
		l.direct = egress.Plain{} // the program that made the TUN must keep our sockets out of it
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("listen.tun: penstock cannot set routes on this system yet: run it as a gateway here, or hand it a TUN with fd: %w", err)
	default:
		return err
	}
	return nil
}

// notApplied is the trouble of a host whose routes do not lead to penstock yet: a transport may be connected before that.
const notApplied = "start"

func (l *Laptop) openHost() error {
	t := l.cfg.Listen.TUN
	if t == nil || l.given != nil || t.Routes == "manual" && t.DNS == "manual" {
		return nil
	}
	c := hostnet.Config{
		Interface: t.Name, StateFile: t.StateFile, Mark: t.Mark, MarkMask: t.MarkMask, Others: l.Others, Log: l.log,
		Repaired: func(kind string, err error) {
			if err != nil {
				err = fmt.Errorf("cannot set up the host's %s: %w", kind, err)
			}
			l.host.note(kind, err)
		},
		Gone: func() {
			if l.device != nil {
				l.device.lose(errors.New("the interface is gone"))
			}
		},
		Overlap: l.overlaps,
		Warning: func(err error) { l.log.Warn("cannot apply all settings to the host", "err", err) },
	}
	err := os.MkdirAll(filepath.Dir(t.StateFile), 0o700)
	if err == nil {
		l.net, err = hostnet.Open(c)
	}
	mend := mendOf(err)
	switch {
	case err == nil:
		l.host.note(notApplied, errors.New("penstock has not configured the host yet"))
		return nil
	case l.always.Load().Lockdown && !errors.Is(err, hostnet.ErrInUse): // a host that should be closed must not stay open
		if failed := hostnet.Seal(c, l.settings()); !errors.Is(failed, fs.ErrPermission) { // who may not close it cannot open it either
			err = errors.Join(err, failed)
		}
	}
	return fmt.Errorf("listen.tun.state_file: %w%s", err, mend)
}

// Open creates the TUN and attaches a stack to it. No route leads into it yet. Without listen.tun it does nothing.
func (l *Laptop) Open(handle stack.Handler, limits stack.Limits, metrics *stack.Metrics) (err error) {
	if l.cfg.Listen.TUN != nil {
		l.device, err = l.openDevice(handle, limits, metrics)
	}
	return err
}

// Outside returns the machine's own network for the use of transports.
func (l *Laptop) Outside() egress.Outside {
	return egress.Outside{Direct: l.direct, Mark: l.mark(), Resolve: l.names.resolve}
}

// mark returns the mark of our own sockets, which keeps them out of the TUN. Without a TUN that is the default mark, if it is
// permitted: it keeps them out of the TUN of another penstock on this machine, which would send a gateway's answers to its
// peers another way.
func (l *Laptop) mark() uint32 {
	switch d, ok := l.direct.(*direct.Dialer); {
	case l.given != nil:
		return 0
	case l.cfg.Listen.TUN != nil:
		return l.cfg.Listen.TUN.Mark
	case ok && d.Marks():
		return direct.DefaultMark
	}
	return 0
}

// Interface returns the name of the TUN, or "" without one.
func (l *Laptop) Interface() string {
	switch {
	case l.device != nil:
		return l.device.name // the system may have chosen it
	case l.cfg.Listen.TUN != nil:
		return l.cfg.Listen.TUN.Name
	}
	return ""
}

// Trouble says what is wrong with the TUN or the host's settings, and how to fix it. It returns "" if all is well.
func (l *Laptop) Trouble() string {
	if l.device != nil && l.device.String() != "" {
		return l.device.String()
	}
	if what := l.overlap.String(); what != "" {
		return what
	}
	return l.host.String()
}

// overlaps records that the host is also connected to a network of the TUN. With nil it records that it is not.
func (l *Laptop) overlaps(err *direct.OverlapError) {
	if err == nil {
		l.overlap.set("")
		l.log.Info("the networks of the TUN no longer overlap with another interface")
		return
	}
	l.overlap.set(err.Error())
	if l.networks.crowd() {
		return
	}
	l.log.Error("a network of the TUN is also in use on another interface: packets go to the wrong place", "err", err)
}

// move puts the addresses of the TUN in force, except on the host. Flows from other addresses of it end, because nothing can
// answer them any more.
func (l *Laptop) move() {
	addresses := l.networks.tun().Address
	if d, ok := l.direct.(*direct.Dialer); ok {
		d.SetPrefixes(addresses)
	}
	l.moved(addresses)
}

// Close restores the host. It removes the routes first and then the device, so that no route leads into a missing device. failed
// reports whether penstock ends because of a failure; under lockdown the host then stays closed.
func (l *Laptop) Close(failed bool) error {
	var errs []error
	errs = append(errs, l.leave(failed))
	if l.device != nil {
		errs = append(errs, l.device.Close())
	}
	return errors.Join(append(errs, l.direct.Close())...)
}

// Touch opens and closes a socket in the stack behind the TUN, for a watchdog. If the stack hangs, it returns late or never.
func (l *Laptop) Touch(ctx context.Context, dst netip.AddrPort) {
	if l.device == nil {
		return
	}
	if c, err := l.device.DialContext(ctx, "udp", dst.String()); err == nil {
		c.Close()
	}
}

// lookup resolves a name without our DNS server and outside every tunnel. It uses the resolvers that the host had before
// penstock started, and sockets that stay out of the TUN.
func (l *Laptop) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if l.net == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
	servers, err := l.net.OriginalResolvers(ctx)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("resolve %s: the host has no other resolver: write the endpoint as an address", name)
	}
	resolvers := make([]netip.AddrPort, len(servers))
	for i, server := range servers {
		resolvers[i] = netip.AddrPortFrom(server, 53)
	}
	return egress.LookUp(ctx, name, resolvers, l.direct.DialContext)
}

// lookupHost resolves a name through the current network of the host. It caches nothing.
func (l *Laptop) lookupHost(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	return l.lookup(ctx, name)
}
