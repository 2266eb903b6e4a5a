package iprange

import "net/netip"

// Coverage says how much of an address family some networks hold.
type Coverage uint8

const (
	Part   Coverage = iota // less than Nearly
	Nearly                 // what is left out is of special use, such as private networks, or less than an eighth of the family
	Whole                  // every address
)

// mostLeftOut is how much Nearly may leave out. The addresses of the largest networks that people leave out, those of a
// country, are less: China has a twelfth of IPv4. Whoever names a half of it, and no more, wants the other half elsewhere.
const mostLeftOut = 1.0 / 8

// Covered4 returns how much of IPv4 the networks hold, in any order and any parts.
func Covered4(networks []netip.Prefix) Coverage {
	all, special := netip.PrefixFrom(netip.IPv4Unspecified(), 0), of(internal)
	return coverage(networks, all, all, append(special, netip.MustParsePrefix("240.0.0.0/4"))) // RFC 1112, 4: in use nowhere
}

// Covered6 returns how much of IPv6 the networks hold, in any order and any parts.
func Covered6(networks []netip.Prefix) Coverage {
	global := netip.MustParsePrefix("2000::/3") // RFC 4291, 2.4: the other public addresses are not assigned
	return coverage(networks, netip.PrefixFrom(netip.IPv6Unspecified(), 0), global, nil)
}

func coverage(networks []netip.Prefix, all, public netip.Prefix, special []netip.Prefix) Coverage {
	switch {
	case missing(all, networks) == 0:
		return Whole
	case missing(public, append(special, networks...)) < mostLeftOut:
		return Nearly
	}
	return Part
}

// missing returns how much of p is in none of the networks, from 0 to 1.
func missing(p netip.Prefix, networks []netip.Prefix) float64 {
	var inside []netip.Prefix
	for _, n := range networks {
		switch {
		case !n.Overlaps(p):
		case n.Bits() <= p.Bits():
			return 0
		default:
			inside = append(inside, n)
		}
	}
	if len(inside) == 0 {
		return 1
	}
	lower, upper := halves(p)
	return (missing(lower, inside) + missing(upper, inside)) / 2
}

// halves returns the two networks of which p consists. It must be more than one address.
func halves(p netip.Prefix) (lower, upper netip.Prefix) {
	bits := p.Bits()
	raw := p.Addr().AsSlice()
	raw[bits/8] |= 0x80 >> (bits % 8)
	second, _ := netip.AddrFromSlice(raw) // of the same family
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(second, bits+1)
}
