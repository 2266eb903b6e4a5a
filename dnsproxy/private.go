package dnsproxy

import "net/netip"

// privateNets are addresses that no public name has a reason to have: with them a site could reach into the network of its
// visitor (DNS rebinding). Sources: RFC 6890 and the IANA special-purpose registries, 2026-11.
var privateNets = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("::/127"), // unspecified and loopback
	netip.MustParsePrefix("fc00::/7"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fec0::/10"),
}

var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// private says whether addr is private, also where it is mapped or translated into IPv6.
func private(addr netip.Addr) bool {
	if nat64.Contains(addr) {
		b := addr.As16()
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	addr = addr.Unmap()
	for _, p := range privateNets {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
