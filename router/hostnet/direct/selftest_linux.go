package direct

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// uplink returns the interface by which the main table would send to addr if our TUN were not there: that of the longest
// route that contains addr, of several the one with the lowest metric, and of several ways of one the first. An unspecified addr asks
// for the default route. If the main table does not say, because its routes name nexthop objects or others' tables have them, the kernel
// is asked.
func (d *Dialer) uplink(addr netip.Addr) (string, error) {
	tun, _ := d.indexOf(d.cfg.Interface) // without a TUN 0, which is no interface's index
	family := rtnl.Family(addr)
	routes, err := rtnl.Dump(func() ([]netlink.Route, error) {
		return d.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	best, bestBits, index := netlink.Route{}, -1, 0
	for _, r := range routes {
		p, way := rtnl.Prefix(r.Dst, family), wayPast(r, tun)
		if way == 0 || r.Type != unix.RTN_UNICAST || !p.Contains(addr.WithZone("")) {
			continue
		}
		if p.Bits() > bestBits || p.Bits() == bestBits && r.Priority < best.Priority {
			best, bestBits, index = r, p.Bits(), way
		}
	}
	if bestBits < 0 {
		if addr.IsUnspecified() {
			addr = somewhere(addr.Is4())
		}
		r, err := d.lookup(addr)
		if err != nil || r.kind != unix.RTN_UNICAST || r.index == tun {
			return "", unix.ENETUNREACH
		}
		index = r.index
	}
	link, err := d.nl.LinkByIndex(index)
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// wayPast returns the interface of a route, of several ways the first that is up, or 0 if there is none but the TUN's.
func wayPast(r netlink.Route, tun int) int {
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex}}
	}
	for _, hop := range hops {
		if hop.LinkIndex != 0 && hop.LinkIndex != tun && hop.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) == 0 {
			return hop.LinkIndex
		}
	}
	return 0
}

// Documentation addresses (RFC 5737, RFC 3849). Nobody has them, so they go where everything else goes.
var (
	somewhere4 = netip.MustParseAddr("192.0.2.1")
	somewhere6 = netip.MustParseAddr("2001:db8::1")
)

func somewhere(v4 bool) netip.Addr {
	if v4 {
		return somewhere4
	}
	return somewhere6
}

// SelfTest checks in each family that the route of our own sockets does not lead into our TUN. A family without a route
// passes. If the marked route does lead into the TUN, because the user routes by hand and not by mark, SelfTest binds
// sockets to the uplink from then on and checks again. The error is or wraps
//
//   - an *OverlapError if our sockets have a source address within the TUN's networks, because the host is connected to
//     the same network,
//   - ErrNoEscape if binding is not permitted,
//   - a *RefusedError if it does not help.
//
// No packet is sent.
func (d *Dialer) SelfTest(ctx context.Context) error {
	err := d.testSockets(ctx)
	if errors.Is(err, ErrLoop) && !d.bind.Load() {
		d.cfg.Log.Warn("the host routes marked packets into our own TUN: binding sockets to the uplink instead", "err", err)
		d.bind.Store(true)
		err = d.testSockets(ctx)
	}
	if errors.Is(err, ErrLoop) {
		return fmt.Errorf("the host routes penstock's own packets into %s, whether marked with %#x or bound to the uplink: "+
			"remove the route or the rule that leads there: %w", d.cfg.Interface, d.cfg.Mark, err)
	}
	return err
}

func (d *Dialer) testSockets(ctx context.Context) error {
	for _, test := range []struct {
		network string
		addr    netip.Addr
	}{{"udp4", somewhere4}, {"udp6", somewhere6}} {
		if err := d.refuseLoop(test.addr); err != nil && noRoute(err) {
			continue
		} else if err != nil {
			return err
		}
		dialer := net.Dialer{Control: d.Control}
		c, err := dialer.DialContext(ctx, test.network, netip.AddrPortFrom(test.addr, 9).String())
		if err != nil && noRoute(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("direct: self-test: %w", err)
		}
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		if !slices.ContainsFunc(*d.own.Load(), func(p netip.Prefix) bool { return p.Contains(local) }) {
			continue
		}
		if err := d.overlap(local); err != nil {
			return err
		}
		return &RefusedError{Destination: test.addr, Reason: "loop", Interface: d.cfg.Interface}
	}
	return nil
}

// overlap returns an *OverlapError if local is an address of another interface than our TUN.
func (d *Dialer) overlap(local netip.Addr) error {
	addrs, err := rtnl.Dump(func() ([]netlink.Addr, error) { return d.nl.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("direct: self-test: list addresses: %w", err)
	}
	tun, _ := d.indexOf(d.cfg.Interface)
	var taken []netip.Prefix
	index, network := 0, netip.Prefix{}
	for _, a := range addrs {
		if a.IPNet == nil || a.LinkIndex == tun {
			continue
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		p := rtnl.Prefix(a.IPNet, rtnl.Family(ip.Unmap()))
		taken = append(taken, p)
		if p.Addr() == local {
			index, network = a.LinkIndex, p
		}
	}
	if index == 0 {
		return nil
	}
	link, err := d.nl.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("direct: self-test: %w", err)
	}
	if e := FindOverlap(*d.own.Load(), link.Attrs().Name, []netip.Prefix{network}, taken); e != nil {
		return e
	}
	return nil
}

// noRoute reports whether a dial failed because its family has no route.
func noRoute(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EACCES} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
