package hostnet

import (
	"net/netip"
	"slices"
)

// Choice says which networks a TUN may have.
type Choice struct {
	// Forward asks for the two-address networks of a TUN whose packets are forwarded: see Settings.Forward. They are out of
	// 198.18.0.0/15, which is for use between two machines in a laboratory (RFC 2544). Other programs have TUNs there, too, and addresses
	// that they give out for names, and begin with the first: so these are the last.
	Forward bool
	// Interface is the name of our TUN. What it uses itself is free.
	Interface string
	// Table is our routing table, whose routes do not count. Default DefaultTable.
	Table int
	// ResolvConf is the path of the resolver file. Default DefaultResolvConf.
	ResolvConf string
	// Kept are the addresses of an earlier choice, which come first. What is not in the sequence is left out.
	Kept []netip.Prefix
	// Avoid are networks that should stay reachable, such as those behind a transport. They are used only if nothing else
	// is free.
	Avoid []netip.Prefix
}

// used are the networks that a choice stays out of.
type used struct {
	taken  []netip.Prefix // connected networks, gateways, DNS servers: never
	routed []netip.Prefix // what has a route or is to be avoided: only if nothing else is left
}

// The sequence of networks for a TUN: 10.77.0.1/24 to 10.127.0.1/24, 172.16.77.1/24 to 172.31.77.1/24, 192.168.77.1/24 to
// 192.168.254.1/24, and fd77::1/64 to fddb::1/64. Home routers, container engines and clouds hand out other networks by
// default.
func candidates(v4 bool) []netip.Prefix {
	var list []netip.Prefix
	if !v4 {
		for second := 0x77; second <= 0xdb; second++ {
			list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: byte(second), 15: 1}), 64))
		}
		return list
	}
	add := func(a, b, c int) {
		list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a), byte(b), byte(c), 1}), 24))
	}
	for b := 77; b <= 127; b++ {
		add(10, b, 0)
	}
	for b := 16; b <= 31; b++ {
		add(172, b, 77)
	}
	for c := 77; c <= 254; c++ {
		add(192, 168, c)
	}
	return list
}

// pairs are the networks of two addresses for a TUN whose packets are forwarded.
func pairs(v4 bool) []netip.Prefix {
	var list []netip.Prefix
	for i := range 256 {
		if v4 {
			list = append(list, netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(255 - i), 1}), 30))
		} else {
			list = append(list, netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x70, 2: 0x65, 3: 0x6e, 7: byte(i), 15: 1}), 126))
		}
	}
	return list
}

// choose returns one network of each family.
func choose(kept []netip.Prefix, u used) []netip.Prefix {
	return []netip.Prefix{chooseFrom(candidates(true), kept, u), chooseFrom(candidates(false), kept, u)}
}

// chooseFrom returns the first candidate that meets nothing. If there is none, it returns the first that meets no network that is
// taken, and then the first of all.
func chooseFrom(list, kept []netip.Prefix, u used) netip.Prefix {
	ordered := slices.DeleteFunc(slices.Clone(kept), func(p netip.Prefix) bool { return !slices.Contains(list, p) })
	ordered = append(ordered, list...)
	for _, avoid := range [...][]netip.Prefix{slices.Concat(u.taken, u.routed), u.taken} {
		for _, p := range ordered {
			if !slices.ContainsFunc(avoid, p.Overlaps) {
				return p
			}
		}
	}
	return ordered[0]
}

// shortest are the shortest prefixes of routes that count as a use of their network, in bits. Shorter ones are default routes
// in two halves, or the private ranges that some hosts route away as a whole.
const (
	shortest4 = 9
	shortest6 = 16
)

// isWide reports whether a route says nothing about who uses a network within it.
func isWide(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < shortest4
	}
	return p.Bits() < shortest6
}
