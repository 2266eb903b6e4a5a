package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"penstock/cmd/internal/config"
	"penstock/router"
	"penstock/router/hostnet"
	"penstock/stack"
	"penstock/stack/link"
)

// host is this machine's side: the way out that is not a tunnel, and, on a laptop, the TUN and what leads to it.
type host struct {
	cfg    *config.Config
	log    *slog.Logger
	given  link.Port // in place of a TUN of the system; may be nil
	dialer DirectDialer
	net    *hostnet.Host // nil if nothing of the host is to be changed
	stack  *stack.Stack  // nil without a TUN
	name   string        // of the TUN

	names  *addressBook
	failed bool // penstock ends because something failed, not because it was asked to
}

// DirectDialer is the egress "direct": the network that this machine is in.
type DirectDialer interface {
	router.Dialer
	// Control prepares a socket of our own so that what it sends stays out of the TUN.
	Control(network, address string, c syscall.RawConn) error
	// Reserved reports addresses that a flow may reach only if a rule names them.
	Reserved(netip.Addr) bool
	Close() error
}

func newHost(cfg *config.Config, o Options) (*host, error) {
	h := &host{cfg: cfg, log: o.Log, given: o.TUN, dialer: o.Direct}
	if cfg.Listen.TUN != nil {
		h.name = cfg.Listen.TUN.Name
	}
	if h.dialer == nil {
		if err := h.openDialer(); err != nil {
			return nil, err
		}
	}
	if err := h.openHost(); err != nil {
		return nil, errors.Join(err, h.dialer.Close())
	}
	book := ""
	if h.net != nil {
		book = filepath.Join(filepath.Dir(cfg.Listen.TUN.StateFile), "endpoints.json")
	}
	h.names = openAddressBook(book, h.lookup, h.log)
	return h, nil
}

// openDialer opens the way out by the host's own network.
func (h *host) openDialer() error {
	cfg := h.cfg
	var c hostnet.DialerConfig
	if t := cfg.Listen.TUN; t != nil {
		c = hostnet.DialerConfig{Interface: t.Name, Prefixes: t.Address, Mark: t.Mark, MarkMask: t.MarkMask}
	}
	c.Log = h.log
	d, err := hostnet.NewDialer(c)
	switch {
	case err == nil:
		h.dialer = d
	case errors.Is(err, errors.ErrUnsupported) && (cfg.Listen.TUN == nil || cfg.Listen.TUN.FD != nil):
		h.dialer = plainDialer{} // whoever made the descriptor keeps our sockets out of it
	case errors.Is(err, errors.ErrUnsupported):
		return fmt.Errorf("listen.tun: this system's routes cannot be set yet: run penstock as a gateway here, or hand it a TUN with fd: %w", err)
	default:
		return err
	}
	return nil
}

// openHost takes the state file, if the host is to be changed at all. A second instance ends here.
func (h *host) openHost() error {
	t := h.cfg.Listen.TUN
	if t == nil || h.given != nil || t.Routes == "manual" && t.DNS == "manual" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(t.StateFile), 0o700); err != nil {
		return fmt.Errorf("listen.tun.state_file: %w", err)
	}
	n, err := hostnet.Open(hostnet.Config{
		Interface: t.Name, StateFile: t.StateFile, Mark: t.Mark, MarkMask: t.MarkMask, Log: h.log,
		Repaired: func(kind string, err error) {
			h.log.Warn("something that penstock had set was removed by others and put back", "what", kind, "err", err)
		},
	})
	if err != nil {
		return fmt.Errorf("listen.tun.state_file: %w", err)
	}
	h.net = n
	return nil
}

// open makes the TUN and attaches a stack to it. Nothing leads into it yet.
func (h *host) open(handle handler, m metrics) error {
	port := h.given
	if port == nil {
		tun, err := openTUN(h.cfg.Listen.TUN)
		if err != nil {
			return fmt.Errorf("listen.tun: %w", err)
		}
		h.name, port = tun.Name(), tun
	}
	s, err := stack.New(stack.Config{
		Name: h.name, MTU: max(port.MTU(), 1280), Addrs: serviceAddrs(h.cfg.Listen.TUN.Address), Handle: handle,
		Lossless: true, Limits: stackLimits(h.cfg.Limits), Log: h.log, Metrics: m.stack,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("listen.tun: %w", err), port.Close())
	}
	h.stack = s
	return s.Attach(port)
}

func openTUN(t *config.TUN) (*link.TUN, error) {
	c := link.TUNConfig{Name: t.Name, MTU: t.MTU}
	if t.FD != nil {
		c.FD, c.HasFD = *t.FD, true
	}
	return link.OpenTUN(c)
}

// serviceAddrs are the addresses inside the TUN that we answer on: the one behind each of the device's own, because
// the device's own belong to the host, whose packets to itself never reach the TUN.
func serviceAddrs(own []netip.Prefix) []netip.Prefix {
	var list []netip.Prefix
	for _, p := range own {
		next := p.Addr().Next()
		if !p.Contains(next) {
			next = p.Addr().Prev()
		}
		if p.Contains(next) {
			list = append(list, netip.PrefixFrom(next, p.Bits()))
		}
	}
	return list
}

func stackLimits(l config.Limits) stack.Limits {
	return stack.Limits{
		Dials: l.Dials, TCPFlows: l.TCPFlows, UDPFlows: l.UDPFlows, UDPPerClient: l.UDPFlowsPerClient,
		UDPIdle: l.UDPIdle, UDPIdleShort: l.UDPIdleShort, UDPIdleQUIC: l.UDPIdleQUIC,
		KeepaliveIdle: l.TCPKeepalive, KeepaliveEvery: l.TCPKeepaliveInterval,
	}
}

// apply leads the host's packets and questions into the TUN.
func (h *host) apply(ctx context.Context) error {
	if h.net == nil {
		return nil
	}
	if err := h.net.Apply(ctx, h.settings()); err != nil {
		return fmt.Errorf("configure the host: %w", err)
	}
	if h.cfg.Listen.TUN.Routes != "auto" {
		return nil
	}
	if d, ok := h.dialer.(*hostnet.Dialer); ok {
		if err := d.SelfTest(ctx); err != nil {
			return fmt.Errorf("our own packets would come back to us: %w", err)
		}
	}
	return nil
}

func (h *host) watch(ctx context.Context) error {
	if h.net == nil {
		<-ctx.Done()
		return nil
	}
	return h.net.Watch(ctx)
}

// close gives the host back: first the routes, so that nothing is led into a device that is going, then the device.
func (h *host) close() error {
	var errs []error
	errs = append(errs, h.leave())
	if h.stack != nil {
		errs = append(errs, h.stack.Close())
	}
	return errors.Join(append(errs, h.dialer.Close())...)
}

// mark is what our own sockets carry; 0 without a TUN to keep out of.
func (h *host) mark() uint32 {
	if h.cfg.Listen.TUN == nil || h.given != nil {
		return 0
	}
	return h.cfg.Listen.TUN.Mark
}

// inside reports addresses within the TUN's networks that nobody answers on.
func (h *host) inside(a netip.Addr) bool {
	return h.cfg.Listen.TUN != nil && within(h.cfg.Listen.TUN.Address, a) && !h.service(a)
}

// service reports the addresses that we answer on.
func (h *host) service(a netip.Addr) bool {
	return h.cfg.Listen.TUN != nil && isOneOf(serviceAddrs(h.cfg.Listen.TUN.Address), a)
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func isOneOf(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Addr() == a {
			return true
		}
	}
	return false
}

// resolve finds the addresses of an endpoint's name outside ourselves and outside every tunnel: with the resolvers that
// the host had before us, by sockets that stay out of the TUN. When that fails, the last good answer stands.
func (h *host) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	return h.names.resolve(ctx, name)
}

func (h *host) lookup(ctx context.Context, name string) ([]netip.Addr, error) {
	if h.net == nil {
		return net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	}
	servers, err := h.net.OriginalResolvers(ctx)
	if err != nil {
		return nil, err
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("resolve %s: the host has no resolver of its own: write the endpoint as an address", name)
	}
	var errs []error
	for _, server := range servers {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return h.dialer.DialContext(ctx, network, netip.AddrPortFrom(server, 53).String())
		}}
		addrs, err := r.LookupNetIP(ctx, "ip", name)
		if err == nil {
			return addrs, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// plainDialer is the egress "direct" where sockets cannot be marked and need not be.
type plainDialer struct{ net.Dialer }

func (plainDialer) Control(string, string, syscall.RawConn) error { return nil }
func (plainDialer) Close() error                                  { return nil }

// Reserved knows the addresses that no flow may be dialled to, but not the host's own.
func (plainDialer) Reserved(a netip.Addr) bool {
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast()
}

func (d plainDialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return d.Dialer.DialContext(ctx, network, address)
}
