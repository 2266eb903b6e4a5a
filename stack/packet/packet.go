// Package packet reads and writes IP packets: their headers, checksums, fragments and ICMP messages.
//
// It works on bytes alone. It knows no flow, sends nothing and keeps nothing, and it does not put fragments together.
package packet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"penstock/stack/link"
)

// IP protocol numbers (IANA).
const (
	ProtoICMP4     = 1
	ProtoTCP       = 6
	ProtoUDP       = 17
	ProtoFragment6 = 44
	ProtoICMP6     = 58
)

// Fault is what is wrong with a packet. The empty Fault is none.
type Fault string

// Faults of packets.
const (
	Malformed   Fault = "malformed"
	BadChecksum Fault = "checksum"
	BadAddress  Fault = "address" // multicast, loopback, unspecified, or IPv6 link-local; as a source, any link-local
)

// Packet is a view of an IP packet's headers; nothing is copied.
type Packet struct {
	Raw      []byte
	Src, Dst netip.Addr
	Proto    uint8
	Fragment bool
	Whole    bool   // must not be cut: IPv4's DF, or an IPv6 packet that its sender left whole
	Named    int    // where the header field stands that names Proto
	Body     []byte // after the IP header and IPv6 extension headers; a UDP datagram ends where its header says
}

// Parse reads the IP header and checks what must hold before anything else looks at the packet: lengths, the IPv4
// header's checksum, the transport checksum (unless the link vouches for it or the packet is a fragment), and addresses
// that no flow can have.
func Parse(m link.Meta, b []byte) (p Packet, fault Fault) {
	if len(b) < 20 {
		return p, Malformed
	}
	if b[0]>>4 == 4 {
		fault = p.parse4(b)
	} else {
		fault = p.parse6(b)
	}
	if fault != "" {
		return p, fault
	}
	if !routable(p.Src) || !reachable(p.Dst) {
		return p, BadAddress
	}
	if p.Fragment || m.GSO != link.GSONone {
		return p, ""
	}
	if !p.Trim() {
		return p, Malformed
	}
	if !m.Partial && !p.ChecksumValid() {
		return p, BadChecksum
	}
	return p, ""
}

// Trim cuts what follows a UDP datagram's own length off the body. It reports false for a length that cannot be.
func (p *Packet) Trim() bool {
	if p.Proto != ProtoUDP {
		return true
	}
	if len(p.Body) < 8 {
		return false
	}
	n := int(binary.BigEndian.Uint16(p.Body[4:]))
	if n < 8 || n > len(p.Body) {
		return false
	}
	p.Body = p.Body[:n]
	return true
}

func (p *Packet) parse4(b []byte) Fault {
	hdrLen, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hdrLen < 20 || total < hdrLen || total > len(b) {
		return Malformed
	}
	if link.Checksum(b[:hdrLen], 0) != 0 {
		return BadChecksum
	}
	frag := binary.BigEndian.Uint16(b[6:])
	p.Raw, p.Body = b[:total], b[hdrLen:total]
	p.Src, p.Dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.Proto, p.Named, p.Fragment, p.Whole = b[9], 9, frag&0x3fff != 0, frag&0x4000 != 0
	return ""
}

func (p *Packet) parse6(b []byte) Fault {
	if b[0]>>4 != 6 || len(b) < 40 {
		return Malformed
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return Malformed
	}
	p.Raw, p.Proto, p.Named, p.Body, p.Whole = b[:total], b[6], 6, b[40:total], true
	p.Src, p.Dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	for range 8 { // hop-by-hop, routing and destination options; no host sends more than a few
		switch p.Proto {
		case 0, 43, 60:
			if len(p.Body) < 8 || len(p.Body) < 8+int(p.Body[1])*8 {
				return Malformed
			}
			p.Named = len(p.Raw) - len(p.Body)
			p.Proto, p.Body = p.Body[0], p.Body[8+int(p.Body[1])*8:]
		case ProtoFragment6:
			p.Fragment, p.Whole = true, false
			return ""
		default:
			return ""
		}
	}
	return Malformed
}

// Headers are the bytes of the packet up to its payload, as far as it is known where that begins.
func (p *Packet) Headers() []byte {
	n := len(p.Raw) - len(p.Body)
	switch {
	case p.Fragment:
	case p.Proto == ProtoTCP && len(p.Body) >= 20:
		n += min(int(p.Body[12]>>4)*4, len(p.Body))
	case p.Proto == ProtoUDP && len(p.Body) >= 8:
		n += 8
	}
	return p.Raw[:n]
}

// IsRest reports whether the packet is a fragment but the first.
func (p *Packet) IsRest() bool {
	switch {
	case !p.Fragment:
		return false
	case p.Src.Is4():
		return binary.BigEndian.Uint16(p.Raw[6:])&0x1fff != 0
	}
	return len(p.Body) < 8 || binary.BigEndian.Uint16(p.Body[2:])&^7 != 0
}

// IsError reports whether the packet is an ICMP error, or the first fragment of one.
func (p *Packet) IsError() bool {
	proto, body := p.Proto, p.Body
	if proto == ProtoFragment6 && len(body) >= 8 {
		proto, body = body[0], body[8:]
	}
	switch {
	case proto != ICMPProto(p.Src) || len(body) == 0:
		return false
	case p.Src.Is6():
		return body[0] < EchoRequest6 // RFC 4443, 2.1
	}
	switch body[0] {
	case Unreachable4, 4, 5, TimeExceeded4, 12: // RFC 1122, 3.2.2: also source quench, redirect, parameter problem
		return true
	}
	return false
}

// Manner is how a packet asks to be carried.
type Manner struct {
	Hops    uint8 // that it may still take; 0: as many as a packet of our own
	Service uint8 // DSCP and ECN
	Whole   bool  // it must not be cut
}

// Pack returns the manner as a number, for whoever keeps it and does not know what it means. Unpack reads it.
func (m Manner) Pack() uint32 {
	n := uint32(m.Hops) | uint32(m.Service)<<8
	if m.Whole {
		n |= 1 << 16
	}
	return n
}

// Unpack returns the manner that Pack made a number of.
func Unpack(n uint32) Manner {
	return Manner{Hops: uint8(n), Service: uint8(n >> 8), Whole: n>>16 != 0}
}

// MannerOf reads the manner of a packet from its header.
func MannerOf(b []byte) Manner {
	if b[0]>>4 == 6 {
		return Manner{Hops: b[7], Service: b[0]<<4 | b[1]>>4, Whole: true}
	}
	return Manner{Hops: b[8], Service: b[1], Whole: b[6]&0x40 != 0}
}

// Put gives the manner to a packet that has a header of PutIP.
func (m Manner) Put(b []byte) {
	if m.Hops == 0 {
		return
	}
	if b[0]>>4 == 6 {
		b[0], b[1], b[7] = 6<<4|m.Service>>4, m.Service<<4|b[1]&0xf, m.Hops
		return
	}
	b[1], b[8] = m.Service, m.Hops
	if !m.Whole && b[6]&0x40 != 0 {
		b[6] &^= 0x40
		binary.BigEndian.PutUint16(b[4:], uint16(rand.Uint32()))
	}
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
}

// routable says that a flow may come from or go to an address. IPv4-mapped IPv6 addresses are refused: they would let
// one host be named in two ways.
func routable(a netip.Addr) bool {
	return !(a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() || a.IsLinkLocalUnicast() || a.Is4In6() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}))
}

// reachable says that a flow may go to an address. Clients ask for IPv4 link-local ones too, such as 169.254.169.254, the
// metadata service of most clouds: whoever takes flows judges them, so that a refusal is told and not silence.
func reachable(a netip.Addr) bool { return routable(a) || a.Is4() && a.IsLinkLocalUnicast() }

// ChecksumValid checks the transport checksum of a whole packet whose body was trimmed.
func (p *Packet) ChecksumValid() bool {
	var minLen int
	switch p.Proto {
	case ProtoTCP:
		minLen = 20
	case ProtoUDP, ProtoICMP4, ProtoICMP6:
		minLen = 8
	default:
		return true
	}
	if len(p.Body) < minLen {
		return false
	}
	switch {
	case p.Proto == ProtoICMP4:
		return link.Checksum(p.Body, 0) == 0
	case p.Proto == ProtoUDP && p.Src.Is4() && p.Body[6] == 0 && p.Body[7] == 0:
		return true // none was computed (RFC 768)
	}
	return link.Checksum(p.Body, p.pseudoHeader(len(p.Body))) == 0
}

func (p *Packet) pseudoHeader(length int) uint16 {
	return PseudoHeader(p.Proto, p.Src, p.Dst, length)
}

// PseudoHeader is the sum of the pseudo header that a transport checksum covers.
func PseudoHeader(proto uint8, src, dst netip.Addr, length int) uint16 {
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return link.PseudoHeader(proto, s[:], d[:], length)
	}
	s, d := src.As16(), dst.As16()
	return link.PseudoHeader(proto, s[:], d[:], length)
}

// PutIP writes an IP header for a body of n bytes and returns its length: 20 or 40.
func PutIP(b []byte, proto uint8, src, dst netip.Addr, n int) int {
	if src.Is4() {
		clear(b[:20])
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(20+n))
		b[6] = 0x40 // don't fragment: atomic datagrams need no identification (RFC 6864)
		b[8], b[9] = 64, proto
		s, d := src.As4(), dst.As4()
		copy(b[12:], s[:])
		copy(b[16:], d[:])
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
		return 20
	}
	clear(b[:8])
	b[0] = 0x60
	binary.BigEndian.PutUint16(b[4:], uint16(n))
	b[6], b[7] = proto, 64
	s, d := src.As16(), dst.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	return 40
}

// HeaderLen is the length of the header that PutIP writes.
func HeaderLen(a netip.Addr) int {
	if a.Is4() {
		return 20
	}
	return 40
}

// MaxBody is how many bytes may stand behind the header that PutIP writes, in fragments where they exceed the MTU.
func MaxBody(a netip.Addr) int {
	if a.Is4() {
		return link.MaxPacket - 20
	}
	return link.MaxPacket
}

// ICMPProto is the number of the ICMP that goes with an address family.
func ICMPProto(a netip.Addr) uint8 {
	if a.Is4() {
		return ProtoICMP4
	}
	return ProtoICMP6
}

// PutPorts writes the ports that begin a TCP or UDP header.
func PutPorts(b []byte, src, dst netip.AddrPort) {
	binary.BigEndian.PutUint16(b, src.Port())
	binary.BigEndian.PutUint16(b[2:], dst.Port())
}
