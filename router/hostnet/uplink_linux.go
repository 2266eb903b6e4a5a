package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// uplink returns the interface by which main would send to addr if our TUN were not there: of the
// routes that contain it the longest, then the one with the lowest metric. An unspecified addr asks
// for the default route.
func (d *Dialer) uplink(addr netip.Addr) (string, error) {
	tun, _ := d.indexOf(d.cfg.Interface) // 0, no interface's index, without a TUN
	family := familyOf(addr)
	routes, err := dump(func() ([]netlink.Route, error) {
		return d.nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return "", fmt.Errorf("list routes: %w", err)
	}
	best, bestBits := netlink.Route{}, -1
	for _, r := range routes {
		p := prefixOf(r.Dst, family)
		if r.LinkIndex == 0 || r.LinkIndex == tun || r.Type != unix.RTN_UNICAST || !p.Contains(addr.WithZone("")) {
			continue
		}
		if p.Bits() > bestBits || p.Bits() == bestBits && r.Priority < best.Priority {
			best, bestBits = r, p.Bits()
		}
	}
	if bestBits < 0 {
		return "", unix.ENETUNREACH
	}
	link, err := d.nl.LinkByIndex(best.LinkIndex)
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// Documentation addresses (RFC 5737, RFC 3849): nobody's, so they go where everything else goes.
var (
	somewhere4 = netip.MustParseAddr("192.0.2.1")
	somewhere6 = netip.MustParseAddr("2001:db8::1")
)

// SelfTest returns nil if our sockets stay out of our TUN: in each family, the route that a socket of
// ours has does not leave by the TUN. No route at all is no failure. If the marked route leads into the
// TUN, as where the user routes by hand and not by mark, sockets are bound to the uplink from then on,
// and tested again. It returns ErrNoEscape, wrapped, if that is not permitted, and a RefusedError if it
// does not help. No packet is sent.
func (d *Dialer) SelfTest(ctx context.Context) error {
	err := d.testSockets(ctx)
	if errors.Is(err, ErrLoop) && !d.bind.Load() {
		d.cfg.Log.Warn("marked packets are routed into our own TUN, binding sockets to the uplink instead", "err", err)
		d.bind.Store(true)
		err = d.testSockets(ctx)
	}
	return err
}

func (d *Dialer) testSockets(ctx context.Context) error {
	for _, test := range []struct {
		network string
		addr    netip.Addr
	}{{"udp4", somewhere4}, {"udp6", somewhere6}} {
		if err := d.refuseLoop(test.addr); err != nil {
			return err
		}
		dialer := net.Dialer{Control: d.Control}
		c, err := dialer.DialContext(ctx, test.network, netip.AddrPortFrom(test.addr, 9).String())
		if err != nil && noRoute(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("hostnet: self-test: %w", err)
		}
		local := c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		c.Close()
		for _, p := range d.cfg.Prefixes {
			if p.Contains(local) {
				return &RefusedError{Destination: test.addr, Reason: "loop", Interface: d.cfg.Interface}
			}
		}
	}
	return nil
}

func noRoute(err error) bool {
	for _, e := range []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL, unix.EAFNOSUPPORT, unix.EACCES} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
