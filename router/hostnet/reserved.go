package hostnet

import (
	"net/netip"
	"slices"
)

// reservedRanges are never a destination on somebody else's machine, or one that answers with secrets:
// RFC 6890 and, where a cloud's metadata service is not on 169.254.169.254, the address its
// documentation names (2026-11).
var reservedRanges = [...]netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud
	netip.MustParsePrefix("::/127"),             // unspecified and loopback
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("ff00::/8"),
	netip.MustParsePrefix("fd00:ec2::254/128"), // AWS
	netip.MustParsePrefix("fd20:ce::254/128"),  // Google Cloud
}

// embedded are the IPv6 prefixes whose addresses lead to an IPv4 address in them, at the byte given.
var embedded = [...]struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12}, // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},     // 6to4, RFC 3056
	{netip.MustParsePrefix("::/96"), 12},        // IPv4-compatible, RFC 4291
}

// inReservedRange reports whether addr is reserved wherever the host stands.
func inReservedRange(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return true
	}
	if slices.ContainsFunc(reservedRanges[:], func(p netip.Prefix) bool { return p.Contains(addr) }) {
		return true
	}
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			raw := addr.As16()
			return inReservedRange(netip.AddrFrom4([4]byte(raw[e.at : e.at+4])))
		}
	}
	return false
}
