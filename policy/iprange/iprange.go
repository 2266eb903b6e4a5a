// Package iprange lists the IP ranges with a fixed special meaning: private networks, link-local, loopback, multicast,
// metadata services, and IPv6 forms that embed an IPv4 address.
//
// Sources: the IANA special-purpose address registries (RFC 6890); for metadata services, the documentation of each cloud
// (2026-11).
//
// It does not know the host's own addresses and makes no decisions.
package iprange

import "net/netip"

// kind says what a range is for. A range may be of several kinds.
type kind uint8

const (
	unique    kind = 1 << iota // RFC 1918, RFC 4193
	linkLocal                  // valid on one link only
	loopback
	shared   // between a carrier and its customers (RFC 6598); overlay networks use it too
	nowhere  // never the address of a single host
	metadata // the metadata service of a cloud, which hands out secrets
	site     // deprecated by RFC 3879; hosts still route it inside a site

	private  = unique | shared | site
	lan      = unique | linkLocal
	near     = lan | loopback | shared
	reserved = nowhere | loopback | linkLocal | metadata
	internal = near | nowhere | metadata | site
)

var table = [...]struct {
	prefix netip.Prefix
	kind   kind
}{
	{netip.MustParsePrefix("10.0.0.0/8"), unique},
	{netip.MustParsePrefix("172.16.0.0/12"), unique},
	{netip.MustParsePrefix("192.168.0.0/16"), unique},
	{netip.MustParsePrefix("fc00::/7"), unique},
	{netip.MustParsePrefix("169.254.0.0/16"), linkLocal},
	{netip.MustParsePrefix("fe80::/10"), linkLocal},
	{netip.MustParsePrefix("127.0.0.0/8"), loopback},
	{netip.MustParsePrefix("::1/128"), loopback},
	{netip.MustParsePrefix("100.64.0.0/10"), shared},
	{netip.MustParsePrefix("0.0.0.0/8"), nowhere},
	{netip.MustParsePrefix("::/128"), nowhere},
	{netip.MustParsePrefix("224.0.0.0/4"), nowhere},
	{netip.MustParsePrefix("255.255.255.255/32"), nowhere},
	{netip.MustParsePrefix("ff00::/8"), nowhere},
	{netip.MustParsePrefix("100.100.100.200/32"), metadata}, // Alibaba Cloud
	{netip.MustParsePrefix("168.63.129.16/32"), metadata},   // Azure
	{netip.MustParsePrefix("192.0.0.192/32"), metadata},     // Oracle Cloud
	{netip.MustParsePrefix("fd00:ec2::254/128"), metadata},  // AWS
	{netip.MustParsePrefix("fd20:ce::254/128"), metadata},   // Google Cloud
	{netip.MustParsePrefix("fec0::/10"), site},
}

// of returns the ranges of any of the kinds.
func of(k kind) []netip.Prefix {
	var list []netip.Prefix
	for _, row := range table {
		if row.kind&k != 0 {
			list = append(list, row.prefix)
		}
	}
	return list
}

// Private returns what the word "private" stands for in rules, which is the networks that the internet does not route and
// that hosts use: those of RFC 1918 and RFC 4193, 100.64.0.0/10, and fec0::/10. The IPv6 forms that embed an address of
// these are private too. IsPrivate reports the same addresses.
func Private() []netip.Prefix {
	list := of(private)
	for _, p := range list {
		if !p.Addr().Is4() {
			continue
		}
		for _, e := range embedded {
			raw, v4 := e.prefix.Addr().As16(), p.Addr().As4()
			copy(raw[e.at:], v4[:])
			list = append(list, netip.PrefixFrom(netip.AddrFrom16(raw), 8*e.at+p.Bits()))
		}
	}
	return list
}

// LAN returns the ranges of local networks: RFC 1918, RFC 4193 and link-local.
func LAN() []netip.Prefix { return of(lan) }

// Near returns the ranges that only hosts nearby can send from: LAN, loopback, and 100.64.0.0/10.
func Near() []netip.Prefix { return of(near) }

// IsPrivate reports whether addr, or the IPv4 address embedded in it, is in Private.
func IsPrivate(addr netip.Addr) bool { return is(private, addr) }

// IsReserved reports whether addr is unspecified, loopback, link-local, multicast or broadcast, or the metadata service of
// a cloud. Such an address is never a host on another network. An IPv6 address that embeds one is reserved too, and so is
// an invalid address.
func IsReserved(addr netip.Addr) bool { return !isOrdinary(addr) && is(reserved, addr) }

// isOrdinary recognises nearly all addresses that are not reserved by their first bytes. It is fast because IsReserved
// runs for every forwarded flow. In doubt it returns false.
func isOrdinary(addr netip.Addr) bool {
	if addr.Is4() {
		switch b := addr.As4(); b[0] {
		case 0, 127:
			return false
		case 100:
			return b[1] != 100
		case 168:
			return b[1] != 63
		case 169:
			return b[1] != 254
		case 192:
			return b[1] != 0 || b[2] != 0
		default:
			return b[0] < 224
		}
	}
	b := addr.As16() // zeros if addr is invalid
	return b[0]>>5 == 1 && (b[0] != 0x20 || b[1] != 0x02)
}

// IsInternal reports whether no public name should resolve to addr. A site whose name does could reach into the network of
// its visitor (DNS rebinding). It is true for all of Near and for all that IsReserved reports.
func IsInternal(addr netip.Addr) bool { return is(internal, addr) }

func is(k kind, addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return true
	}
	for i := range table {
		if table[i].kind&k != 0 && table[i].prefix.Contains(addr) {
			return true
		}
	}
	v4, ok := Embedded(addr)
	return ok && is(k, v4)
}

// embedded lists the IPv6 prefixes whose addresses embed an IPv4 address, and the offset of its first byte.
var embedded = [...]struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64, RFC 6052
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4, RFC 3056
	{netip.MustParsePrefix("::/96"), 12},           // IPv4-compatible, RFC 4291
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // IPv4-translated, RFC 2765
}

// Embedded returns the IPv4 address that an IPv6 address embeds: IPv4-mapped, NAT64, 6to4, IPv4-compatible or
// IPv4-translated. ok is false for every other address, and for :: and ::1.
func Embedded(addr netip.Addr) (v4 netip.Addr, ok bool) {
	switch {
	case addr.Is4In6():
		return addr.Unmap(), true
	case !addr.Is6(), addr.IsUnspecified(), addr.IsLoopback():
		return netip.Addr{}, false
	}
	addr = addr.WithZone("")
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			raw := addr.As16()
			return netip.AddrFrom4([4]byte(raw[e.at : e.at+4])), true
		}
	}
	return netip.Addr{}, false
}
