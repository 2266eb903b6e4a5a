// Package profile looks into a wg-quick or .ovpn file for what the short form of the configuration needs: DNS servers, and
// the networks that go through the tunnel.
//
// It does not check the file. The file's transport reads all of it, and refuses what it does not understand.
package profile

import (
	"net/netip"
	"strings"
)

// Facts are what the short form needs to know about a profile.
type Facts struct {
	DNS      []netip.Addr
	Networks []netip.Prefix // AllowedIPs of wg-quick, as they are written; an .ovpn file has none
}

// Read finds DNS servers and networks in a wg-quick or .ovpn file. It passes over everything else.
func Read(data []byte) Facts {
	var facts Facts
	for line := range strings.Lines(string(data)) { // a line may list thousands of networks
		line, _, _ = strings.Cut(line, "#")
		key, value, isWireGuard := strings.Cut(line, "=")
		switch words := strings.Fields(line); {
		case isWireGuard && strings.EqualFold(strings.TrimSpace(key), "DNS"):
			for item := range strings.SplitSeq(value, ",") {
				if addr, err := netip.ParseAddr(strings.TrimSpace(item)); err == nil { // names are search domains
					facts.DNS = append(facts.DNS, addr)
				}
			}
		case isWireGuard && strings.EqualFold(strings.TrimSpace(key), "AllowedIPs"):
			for item := range strings.SplitSeq(value, ",") {
				if prefix, err := ParsePrefix(strings.TrimSpace(item)); err == nil {
					facts.Networks = append(facts.Networks, prefix)
				}
			}
		case len(words) == 3 && words[0] == "dhcp-option" && strings.HasPrefix(words[1], "DNS"):
			if addr, err := netip.ParseAddr(words[2]); err == nil {
				facts.DNS = append(facts.DNS, addr)
			}
		}
	}
	return facts
}

// Everything reports whether the profile carries all of IPv4 or all of IPv6. Some profiles write them as two halves, so as
// not to replace the default route.
func (f Facts) Everything() bool {
	halves := make(map[netip.Prefix]bool)
	for _, p := range f.Networks {
		if p.Bits() == 0 {
			return true
		}
		halves[p.Masked()] = true
	}
	return halves[netip.MustParsePrefix("0.0.0.0/1")] && halves[netip.MustParsePrefix("128.0.0.0/1")] ||
		halves[netip.MustParsePrefix("::/1")] && halves[netip.MustParsePrefix("8000::/1")]
}

// ParsePrefix reads a network, or an address as the network of itself.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
