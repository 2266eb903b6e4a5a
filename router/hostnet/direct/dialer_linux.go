package direct

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/policy/iprange"
	"penstock/stack/localport"
)

// Dialer dials from the host, outside our TUN. Its sockets carry the mark or, where marks are not permitted or SelfTest
// found that they do not help, are bound to the uplink. It is safe for concurrent use.
type Dialer struct {
	cfg    Config
	nl     *netlink.Handle
	routes *routes
	ioctl  int                            // a socket for asking for interface indexes
	bind   atomic.Bool                    // marks are not permitted, or no rule routes by them
	own    atomic.Pointer[[]netip.Prefix] // the networks of our TUN
	pingID atomic.Uint32
}

// NewDialer opens what route lookups need, and finds out whether sockets may be marked.
func NewDialer(c Config) (*Dialer, error) {
	if c.Mark == 0 && c.MarkMask == 0 {
		c.Mark, c.MarkMask = DefaultMark, DefaultMarkMask
	}
	if c.Mark == 0 || c.Mark&^c.MarkMask != 0 {
		return nil, fmt.Errorf("direct: mark %#x does not fit in mask %#x", c.Mark, c.MarkMask)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("direct: open netlink: %w", err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("direct: open socket: %w", err)
	}
	routes, err := openRoutes()
	if err != nil {
		nl.Close()
		unix.Close(fd)
		return nil, err
	}
	d := &Dialer{cfg: c, nl: nl, routes: routes, ioctl: fd}
	d.SetPrefixes(c.Prefixes)
	d.pingID.Store(rand.Uint32())
	if err := setMark(fd, c.Mark, c.MarkMask); errors.Is(err, unix.EPERM) {
		d.bind.Store(true)
		c.Log.Warn("sockets may not be marked without CAP_NET_ADMIN: binding them to the uplink instead", "err", err)
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("direct: mark a socket: %w", err), d.Close())
	}
	return d, nil
}

// SetPrefixes replaces the networks of our TUN.
func (d *Dialer) SetPrefixes(own []netip.Prefix) { d.own.Store(&own) }

// Marks reports whether sockets are marked. If not, they are bound to the uplink.
func (d *Dialer) Marks() bool { return !d.bind.Load() }

// Close closes what NewDialer opened. Connections stay open; no dial may follow.
func (d *Dialer) Close() error {
	d.nl.Close()
	return errors.Join(d.routes.Close(), unix.Close(d.ioctl))
}

// DialContext connects from the host. network is tcp or udp, each with an optional 4 or 6, or ping4 or
// ping6; address is an IP address and a port, 0 for ping. A destination that is in the TUN's prefixes,
// or whose route leaves by the TUN, is refused with a RefusedError, which matches ErrLoop. If the host could send only from
// an address of the TUN, because the uplink has none of this family, the error matches unix.ENETUNREACH.
//
// A ping connection carries ICMP echo. Each Write is the body of one request: identifier and sequence number, two bytes
// each in network order, then the payload. Each Read returns the body of one reply, cut off at the end of the buffer, with
// the identifier that the request had. Replies that come more than 256 requests late are dropped. An ICMP error is the
// error of the next Read or Write; the connection can be used further. Only one goroutine may Read at a time.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := parseTarget(network, address)
	if err != nil {
		return nil, err
	}
	if err := d.refuseLoop(target.Addr()); err != nil {
		return nil, err
	}
	if strings.HasPrefix(network, "ping") {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return d.dialPing(target.Addr())
	}
	nd := net.Dialer{
		Control:         d.Control,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval},
	}
	if strings.HasPrefix(network, "udp") {
		nd.Control = d.controlDatagrams
	}
	if port, shared := localport.Of(ctx); shared && strings.HasPrefix(network, "udp") {
		return d.dialShared(ctx, &nd, network, target, port)
	}
	return nd.DialContext(ctx, network, target.String())
}

// dialShared dials UDP from a port that several of our sockets share, each connected to another destination. If the port cannot be
// had, it leaves from another.
func (d *Dialer) dialShared(ctx context.Context, nd *net.Dialer, network string, target netip.AddrPort, port uint16) (net.Conn, error) {
	if port != 0 {
		same := *nd
		same.LocalAddr = &net.UDPAddr{Port: int(port)}
		same.Control = func(network, address string, c syscall.RawConn) error {
			if err := onSocket(c, share); err != nil {
				return err
			}
			return d.controlDatagrams(network, address, c)
		}
		if c, err := same.DialContext(ctx, network, target.String()); err == nil || !errors.Is(err, unix.EADDRINUSE) {
			return c, err
		}
	}
	c, err := nd.DialContext(ctx, network, target.String())
	if err != nil {
		return nil, err
	}
	// Only now: with it from the start, the kernel could give us the port of another client.
	raw, err := c.(*net.UDPConn).SyscallConn()
	if err == nil {
		err = onSocket(raw, share)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// datagramQueue is how much of what has come a socket of datagrams keeps until it is read, in bytes that count twice. The usual 208 KiB
// are full after 90 large datagrams: a download of 20,000 a second lost some whenever its sender or we had not run for a few
// milliseconds.
const datagramQueue = 1 << 20

// controlDatagrams is Control for a socket of datagrams.
func (d *Dialer) controlDatagrams(network, address string, c syscall.RawConn) error {
	err := onSocket(c, func(fd int) error {
		if has, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err == nil && has >= 2*datagramQueue {
			return nil // a host of somebody who knows has more for every socket
		}
		for _, option := range []int{unix.SO_RCVBUF, unix.SO_RCVBUFFORCE} {
			// As large as anybody may have it, and beyond that with CAP_NET_ADMIN.
			_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, datagramQueue)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.Control(network, address, c)
}

// share lets other sockets of our user have the same port.
func share(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }

// refuseLoop returns a RefusedError for a destination whose packets would come back to us, and another error for one whose
// answers would: the kernel sends from our TUN's address if the uplink has none of its family, for example on a network with
// a router for IPv6 that hands out no addresses.
func (d *Dialer) refuseLoop(addr netip.Addr) error {
	refused := &RefusedError{Destination: addr, Reason: "loop", Interface: d.cfg.Interface}
	for _, p := range *d.own.Load() {
		if p.Contains(addr.WithZone("")) {
			return refused
		}
	}
	if d.cfg.Interface == "" || d.bind.Load() {
		return nil // a bound socket leaves by its interface or not at all
	}
	tun, err := d.indexOf(d.cfg.Interface)
	if err != nil {
		return nil // no TUN, no loop
	}
	r, err := d.routeOf(addr)
	if err != nil {
		return nil // no route: the dial itself fails, with the kernel's error
	}
	if r.index == tun {
		return refused
	}
	if d.isOwn(r.source) {
		return fmt.Errorf("direct: dial %s: the uplink has no address to send from: %w", addr, unix.ENETUNREACH)
	}
	return nil
}

// isOwn reports whether addr is an address of our TUN.
func (d *Dialer) isOwn(addr netip.Addr) bool {
	return slices.ContainsFunc(*d.own.Load(), func(p netip.Prefix) bool { return p.Addr() == addr })
}

// routeOf asks the kernel for the route that a dial to addr would take: see lead.
func (d *Dialer) routeOf(addr netip.Addr) (foundRoute, error) {
	if other, ok := d.cfg.Others.Of(addr); ok {
		if index, err := d.indexOf(other.Interface); err == nil {
			return d.routes.lookup(addr, d.cfg.Mark, index)
		}
	}
	return d.lookup(addr)
}

// lookup asks the kernel for the route of a marked packet to addr.
func (d *Dialer) lookup(addr netip.Addr) (foundRoute, error) {
	oif := 0
	if zone := addr.Zone(); zone != "" {
		if index, err := d.indexOf(zone); err == nil {
			oif = index
		}
	}
	return d.routes.lookup(addr.WithZone(""), d.cfg.Mark, oif)
}

// indexOf asks for the index each time, because a TUN that was made again has another.
func (d *Dialer) indexOf(name string) (int, error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(d.ioctl, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// Reserved reports whether addr is an address that a flow must not reach through us unless a rule names it: one that
// iprange.IsReserved, such as loopback or a cloud's metadata service, or one of the host's own. It is false for an address
// that no route leads to.
func (d *Dialer) Reserved(addr netip.Addr) bool {
	addr = addr.Unmap()
	if iprange.IsReserved(addr) {
		return true
	}
	r, err := d.lookup(addr)
	return err == nil && (r.kind == unix.RTN_LOCAL || r.kind == unix.RTN_BROADCAST || r.kind == unix.RTN_ANYCAST)
}

// Routed reports whether packets to addr leave this machine by its own uplink and a router there: neither by an interface of another
// program, such as another VPN, nor to a neighbour, such as a container.
func (d *Dialer) Routed(addr netip.Addr) bool {
	addr = addr.Unmap()
	if _, other := d.cfg.Others.Of(addr); other {
		return false
	}
	r, err := d.lookup(addr)
	return err == nil && r.kind == unix.RTN_UNICAST && r.router && !d.isOwn(r.source)
}

// isHosts reports whether addr is loopback or another address of the host itself.
func (d *Dialer) isHosts(addr netip.Addr) bool {
	if addr.IsUnspecified() { // to the kernel that is the host, to us a socket without a target
		return false
	}
	r, err := d.lookup(addr)
	return err == nil && r.kind == unix.RTN_LOCAL
}

// Control marks or binds a socket of our own before it is used. It fits net.Dialer.Control and net.ListenConfig.Control.
func (d *Dialer) Control(network, address string, c syscall.RawConn) error {
	target := netip.IPv4Unspecified()
	if strings.HasSuffix(network, "6") {
		target = netip.IPv6Unspecified()
	}
	if ap, err := netip.ParseAddrPort(address); err == nil {
		target = ap.Addr().Unmap()
	}
	return onSocket(c, func(fd int) error { return d.guard(fd, target) })
}

// guard keeps a socket that will send to target out of the TUN.
func (d *Dialer) guard(fd int, target netip.Addr) error {
	marked := setMark(fd, d.cfg.Mark, d.cfg.MarkMask)
	if !d.bind.Load() {
		if marked != nil {
			return fmt.Errorf("direct: mark socket: %w", marked)
		}
		return d.lead(fd, target)
	}
	if d.isHosts(target) {
		return nil // its packets never leave the host, and bound to the uplink they would not arrive
	}
	uplink, err := d.uplink(target)
	if err != nil {
		return fmt.Errorf("direct: find the uplink to %s: %w", target, err)
	}
	if err := unix.BindToDevice(fd, uplink); err != nil {
		return fmt.Errorf("direct: bind to %s: %w (%w)", uplink, ErrNoEscape, err)
	}
	return nil
}

// lead binds a socket to the interface of another program if its target is in that program's networks: a mark alone would
// lead past them. Only sockets with a target are bound, so transports on unconnected sockets stay on the uplink.
func (d *Dialer) lead(fd int, target netip.Addr) error {
	other, ok := d.cfg.Others.Of(target)
	if !ok {
		return nil
	}
	if err := unix.BindToDevice(fd, other.Interface); err != nil {
		return fmt.Errorf("direct: bind to %s, which has the route to %s: %w", other.Interface, target, err)
	}
	return nil
}

func onSocket(c syscall.RawConn, set func(fd int) error) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = set(int(fd)) }); controlErr != nil {
		return controlErr
	}
	return err
}

func setMark(fd int, mark, mask uint32) error {
	old, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil {
		return err
	}
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(uint32(old)&^mask|mark))
}
