package hostnet

import (
	"net/netip"
	"slices"

	"penstock/policy/iprange"
)

// linkScope are the destinations that never leave the link and that programs on a LAN use: mDNS, LLMNR, SSDP, broadcast.
var linkScope = [...]netip.Prefix{
	netip.MustParsePrefix("224.0.0.0/24"),
	netip.MustParsePrefix("239.255.255.250/32"),
	netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("ff02::/16"),
}

// connected returns the networks of the other interfaces' addresses that are believed to be a LAN: see Settings.LAN.
func connected(addresses, capture []netip.Prefix) []netip.Prefix {
	var lan []netip.Prefix
	for _, a := range addresses {
		p := a.Masked()
		if p.IsSingleIP() || !inLANRange(p) {
			continue
		}
		claimed := slices.ContainsFunc(capture, func(c netip.Prefix) bool { return c.Bits() > 0 && c.Overlaps(p) })
		if !claimed {
			lan = append(lan, p)
		}
	}
	return sorted(lan)
}

func inLANRange(p netip.Prefix) bool {
	return slices.ContainsFunc(iprange.LAN(), func(r netip.Prefix) bool {
		return r.Bits() <= p.Bits() && r.Contains(p.Addr())
	})
}

// sorted returns the prefixes masked, in order, each once.
func sorted(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		out[i] = p.Masked()
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// ofFamily returns those of IPv4, or those of IPv6.
func ofFamily(prefixes []netip.Prefix, v4 bool) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range prefixes {
		if p.Addr().Is4() == v4 {
			out = append(out, p)
		}
	}
	return out
}
