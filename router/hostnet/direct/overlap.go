package direct

import (
	"net/netip"
	"slices"
)

// OverlapError says that a network of our TUN is also a network that the host is connected to. Each host in it then has
// two ways, and one of them, perhaps the gateway, has the TUN's own address: connections come and go without a visible
// reason.
type OverlapError struct {
	Own       netip.Prefix // the TUN's address with its prefix length
	Interface string       // that the other network is connected to
	Network   netip.Prefix // the other network
	Free      netip.Prefix // what Own could be instead; invalid if none was found
}

// Error names both networks and how to fix it.
func (e *OverlapError) Error() string {
	text := "the TUN's network " + e.Own.Masked().String() + " overlaps " + e.Network.String() + ", which " + e.Interface +
		" is connected to: set listen.tun.address to a network that is free"
	if e.Free.IsValid() {
		text += ", for example " + e.Free.String()
	}
	return text
}

// FindOverlap returns how a network of our TUN overlaps one of an interface's, or nil. taken are the networks that a
// proposal must stay out of. A network of a link (fe80::/10) overlaps nothing: every link has its own.
func FindOverlap(own []netip.Prefix, iface string, networks, taken []netip.Prefix) *OverlapError {
	for _, o := range own {
		for _, n := range networks {
			if o.Overlaps(n) && !n.Addr().IsLinkLocalUnicast() {
				return &OverlapError{Own: o, Interface: iface, Network: n.Masked(), Free: free(o, slices.Concat(own, taken))}
			}
		}
	}
	return nil
}

// free returns a private network as large as own that overlaps nothing of taken, or an invalid prefix.
func free(own netip.Prefix, taken []netip.Prefix) netip.Prefix {
	first := netip.AddrFrom4([4]byte{10, 77, 0, 1})
	if own.Addr().Is6() {
		first = netip.MustParseAddr("fd77::1")
	}
	if own.Bits() < 16 {
		return netip.Prefix{}
	}
	for step := range 100 { // 10.78 to 10.177, or fd78 to fddb
		raw := first.AsSlice()
		raw[1] += byte(step + 1)
		a, _ := netip.AddrFromSlice(raw)
		p := netip.PrefixFrom(a, own.Bits())
		if !slices.ContainsFunc(taken, p.Overlaps) {
			return p
		}
	}
	return netip.Prefix{}
}
