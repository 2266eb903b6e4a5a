package sockets

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// sockaddr is a struct sockaddr_in or sockaddr_in6 {uint16 family; uint16 port; in_addr addr} or {...; uint32 flow; in6_addr addr;
// uint32 scope}. Port and address are in network order.
type sockaddr [unix.SizeofSockaddrInet6]byte

// sockaddrOf returns an address as the kernel takes it, and its size.
func sockaddrOf(a netip.AddrPort) (s sockaddr, size uint32) {
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if addr := a.Addr(); addr.Is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		copy(s[4:], addr.AsSlice())
		return s, unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	copy(s[8:], a.Addr().AsSlice())
	binary.NativeEndian.PutUint32(s[24:], scopeOf(a.Addr().Zone()))
	return s, unix.SizeofSockaddrInet6
}

// addr returns the address, an IPv4 address in its IPv4 form. It is the zero AddrPort for another family. zone is as zoneOf.
func (s *sockaddr) addr(zone func(scope uint32) string) netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16([16]byte(s[8:24])).Unmap()
		return netip.AddrPortFrom(addr.WithZone(zone(binary.NativeEndian.Uint32(s[24:]))), port) // nothing for an IPv4 address
	}
	return netip.AddrPort{}
}

// scopeOf returns the index of the interface of a zone, or 0.
func scopeOf(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if link, err := net.InterfaceByName(zone); err == nil {
		return uint32(link.Index)
	}
	index, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(index)
}

// zoneOf is the reverse of scopeOf.
func zoneOf(scope uint32) string {
	if scope == 0 {
		return ""
	}
	if link, err := net.InterfaceByIndex(int(scope)); err == nil {
		return link.Name
	}
	return strconv.FormatUint(uint64(scope), 10)
}

// zones remembers what zoneOf returns, which asks the kernel for all interfaces: a neighbour could have it asked for each packet.
type zones struct {
	ask   func(scope uint32) string // zoneOf
	names map[uint32]string
	since time.Time
}

// zonesAge is how late a new name of an interface is seen.
const zonesAge = time.Minute

func (z *zones) of(scope uint32) string {
	if scope == 0 {
		return ""
	}
	if now := time.Now(); z.names == nil || now.Sub(z.since) > zonesAge {
		z.names, z.since = make(map[uint32]string), now
	}
	name, ok := z.names[scope]
	if !ok {
		name = z.ask(scope)
		z.names[scope] = name
	}
	return name
}
