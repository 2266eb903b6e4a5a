package stack

import (
	"encoding/binary"
	"net/netip"

	"penstock/stack/link"
)

// IP protocol numbers (IANA).
const (
	protoICMP4 = 1
	protoTCP   = 6
	protoUDP   = 17
	protoFrag6 = 44
	protoICMP6 = 58
)

// DropReason is why a packet or flow was not carried. The set is closed: it labels metrics.
type DropReason string

// Reasons of this package.
const (
	dropMalformed DropReason = "malformed"
	dropChecksum  DropReason = "checksum"
	dropAddress   DropReason = "address" // multicast, loopback, unspecified, or IPv6 link-local; as a source, any link-local
	dropProtocol  DropReason = "protocol"
	dropSource    DropReason = "source" // of an address that is no client's
	dropCap       DropReason = "cap"
	dropQueue     DropReason = "queue"
	dropPanic     DropReason = "panic"
)

// packet is a view of an IP packet's headers; nothing is copied.
type packet struct {
	raw      []byte
	src, dst netip.Addr
	proto    uint8
	fragment bool
	named    int    // where the header field stands that names proto
	body     []byte // after the IP header and IPv6 extension headers; a UDP datagram ends where its header says
}

// parse reads the IP header and checks what must hold before anything else looks at the packet: lengths, the IPv4
// header's checksum, the transport checksum (unless the link vouches for it or the packet is a fragment), and addresses
// that no flow can have.
func parse(m link.Meta, b []byte) (p packet, reason DropReason) {
	if len(b) < 20 {
		return p, dropMalformed
	}
	if b[0]>>4 == 4 {
		reason = p.parse4(b)
	} else {
		reason = p.parse6(b)
	}
	if reason != "" {
		return p, reason
	}
	if !routable(p.src) || !reachable(p.dst) {
		return p, dropAddress
	}
	if p.fragment || m.GSO != link.GSONone {
		return p, ""
	}
	if !p.trim() {
		return p, dropMalformed
	}
	if !m.Partial && !p.checksumValid() {
		return p, dropChecksum
	}
	return p, ""
}

// trim cuts what follows a UDP datagram's own length off the body. It reports false for a length that cannot be.
func (p *packet) trim() bool {
	if p.proto != protoUDP {
		return true
	}
	if len(p.body) < 8 {
		return false
	}
	n := int(binary.BigEndian.Uint16(p.body[4:]))
	if n < 8 || n > len(p.body) {
		return false
	}
	p.body = p.body[:n]
	return true
}

func (p *packet) parse4(b []byte) DropReason {
	hdrLen, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if hdrLen < 20 || total < hdrLen || total > len(b) {
		return dropMalformed
	}
	if link.Checksum(b[:hdrLen], 0) != 0 {
		return dropChecksum
	}
	frag := binary.BigEndian.Uint16(b[6:])
	p.raw, p.body = b[:total], b[hdrLen:total]
	p.src, p.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	p.proto, p.named, p.fragment = b[9], 9, frag&0x3fff != 0
	return ""
}

func (p *packet) parse6(b []byte) DropReason {
	if b[0]>>4 != 6 || len(b) < 40 {
		return dropMalformed
	}
	total := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return dropMalformed
	}
	p.raw, p.proto, p.named, p.body = b[:total], b[6], 6, b[40:total]
	p.src, p.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	for range 8 { // hop-by-hop, routing and destination options; no host sends more than a few
		switch p.proto {
		case 0, 43, 60:
			if len(p.body) < 8 || len(p.body) < 8+int(p.body[1])*8 {
				return dropMalformed
			}
			p.named = len(p.raw) - len(p.body)
			p.proto, p.body = p.body[0], p.body[8+int(p.body[1])*8:]
		case protoFrag6:
			p.fragment = true
			return ""
		default:
			return ""
		}
	}
	return dropMalformed
}

// headers are the bytes of the packet up to its payload, as far as it is known where that begins.
func (p *packet) headers() []byte {
	n := len(p.raw) - len(p.body)
	if p.proto == protoTCP && !p.fragment && len(p.body) >= 20 {
		n += min(int(p.body[12]>>4)*4, len(p.body))
	}
	return p.raw[:n]
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

// checksumValid checks the transport checksum of a whole packet whose body was trimmed.
func (p *packet) checksumValid() bool {
	var minLen int
	switch p.proto {
	case protoTCP:
		minLen = 20
	case protoUDP, protoICMP4, protoICMP6:
		minLen = 8
	default:
		return true
	}
	if len(p.body) < minLen {
		return false
	}
	switch {
	case p.proto == protoICMP4:
		return link.Checksum(p.body, 0) == 0
	case p.proto == protoUDP && p.src.Is4() && p.body[6] == 0 && p.body[7] == 0:
		return true // none was computed (RFC 768)
	}
	return link.Checksum(p.body, p.pseudoHeader(len(p.body))) == 0
}

func (p *packet) pseudoHeader(length int) uint16 {
	return pseudoHeader(p.proto, p.src, p.dst, length)
}

func pseudoHeader(proto uint8, src, dst netip.Addr, length int) uint16 {
	if src.Is4() {
		s, d := src.As4(), dst.As4()
		return link.PseudoHeader(proto, s[:], d[:], length)
	}
	s, d := src.As16(), dst.As16()
	return link.PseudoHeader(proto, s[:], d[:], length)
}

// putIP writes an IP header for a body of n bytes and returns its length: 20 or 40.
func putIP(b []byte, proto uint8, src, dst netip.Addr, n int) int {
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

// ipHeaderLen is the length of the header that putIP writes.
func ipHeaderLen(a netip.Addr) int {
	if a.Is4() {
		return 20
	}
	return 40
}

// maxBody is how many bytes may stand behind the header that putIP writes, in fragments where they exceed the MTU.
func maxBody(a netip.Addr) int {
	if a.Is4() {
		return link.MaxPacket - 20
	}
	return link.MaxPacket
}

// icmpProto is the number of the ICMP that goes with an address family.
func icmpProto(a netip.Addr) uint8 {
	if a.Is4() {
		return protoICMP4
	}
	return protoICMP6
}
