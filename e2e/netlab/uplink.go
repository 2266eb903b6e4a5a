package netlab

import (
	"net/netip"
)

// Uplink is one of the laptop's connections to the internet.
type Uplink struct {
	Link     string         // the laptop's interface
	Addrs    []netip.Prefix // the laptop's, one of each family
	Gateways []netip.Addr   // the access router's, one of each family
}

func uplinks() [2]Uplink {
	prefix := func(addr string, bits int) netip.Prefix { return netip.PrefixFrom(netip.MustParseAddr(addr), bits) }
	return [2]Uplink{{
		Link:     "lan0",
		Addrs:    []netip.Prefix{prefix(LaptopIPv4, 24), prefix(LaptopIPv6, 64)},
		Gateways: []netip.Addr{netip.MustParseAddr(AccessIPv4), netip.MustParseAddr(AccessIPv6)},
	}, {
		Link:     "lan1",
		Addrs:    []netip.Prefix{prefix(Laptop2IPv4, 24), prefix(Laptop2IPv6, 64)},
		Gateways: []netip.Addr{netip.MustParseAddr(Access2IPv4), netip.MustParseAddr(Access2IPv6)},
	}}
}

// Connect brings an uplink of the laptop up, with its addresses and with default routes of the given metric (lower wins; 0 is the
// kernel's default). It does not change resolv.conf.
func (l *Lab) Connect(u Uplink, metric int) error {
	if err := l.Laptop.SetLink(u.Link, true); err != nil {
		return err
	}
	for _, a := range u.Addrs {
		if err := l.Laptop.AddAddr(u.Link, a); err != nil {
			return err
		}
	}
	for _, gw := range u.Gateways {
		if err := l.Laptop.AddRoute(Route{Dst: defaultRoute(gw), Via: gw, Link: u.Link, Metric: metric}); err != nil {
			return err
		}
	}
	return nil
}

// Disconnect removes an uplink's addresses and routes and brings its link down.
func (l *Lab) Disconnect(u Uplink) error {
	for _, a := range u.Addrs {
		if err := l.Laptop.DelAddr(u.Link, a); err != nil {
			return err
		}
	}
	return l.Laptop.SetLink(u.Link, false)
}

// defaultRoute returns the prefix of all addresses of the family of addr.
func defaultRoute(addr netip.Addr) netip.Prefix {
	if addr.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
