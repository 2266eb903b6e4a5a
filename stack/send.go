package stack

import (
	"net/netip"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
)

// sender is a stack as it sends packets of its own making, past gVisor. It is the datagram.Sender of its flows.
type sender struct{ *Stack }

// Unreachable answers the sender of flow k, quoting the head of a packet of that flow. It is rate-limited as hosts do. A stack that
// serves nobody says nothing in the name of others.
func (s sender) Unreachable(k datagram.Key, why packet.Why) {
	if s.handle == nil && !s.own(k.Local.Addr()) || !s.errors.Allow() {
		return
	}
	quoted := packet.FlowHead(k.Kind == datagram.UDP, k.Remote, k.Local, 0)
	s.sendUnreachable(k.Local.Addr(), k.Remote.Addr(), why, quoted)
}

// unreachableTCP answers a SYN. Linux ends the connect with the errno of the ICMP code, as long as the sequence number
// that is quoted is the SYN's. It is not rate-limited, because neither are the RSTs that it replaces.
func (s sender) unreachableTCP(client, asked netip.AddrPort, seq uint32, why packet.Why) {
	s.sendUnreachable(asked.Addr(), client.Addr(), why, packet.SYNHead(client, asked, seq))
}

// refuseTCP answers a SYN with RST. ack is the sequence number after it and what came with it.
func (s sender) refuseTCP(client, asked netip.AddrPort, ack uint32) {
	if err := s.nic.Send(packet.Refusal(asked, client, ack)); err != nil {
		s.metrics.drop(dropQueue)
	}
}

// sendUnreachable sends "destination unreachable". It comes from the address that the client asked for: a client may
// accept nothing from any other address through its tunnel.
func (s sender) sendUnreachable(src, dst netip.Addr, why packet.Why, quoted []byte) {
	kind := byte(packet.Unreachable6)
	if src.Is4() {
		kind = packet.Unreachable4
	}
	s.sendICMPError(src, dst, kind, why.Code(src.Is4()), 0, quoted)
}

// sendICMPError sends an ICMP error. rest are the four bytes after its checksum.
func (s sender) sendICMPError(src, dst netip.Addr, kind, code byte, rest uint32, quoted []byte) {
	if err := s.Send(packet.ICMPProto(src), src, dst, packet.ICMPError(src, dst, kind, code, rest, quoted), packet.Manner{}, s.MTU()); err != nil {
		s.metrics.drop(dropQueue)
	}
}

// unknownProtocol answers a packet of a protocol that the stack does not carry, as a host does that does not know it.
func (s sender) unknownProtocol(h *packet.Packet) {
	const noNextHeader = 59 // RFC 8200: the packet asks for nothing
	if h.Src.Is6() && h.Proto == noNextHeader || s.handle == nil && !s.own(h.Dst) || !s.errors.Allow() {
		return
	}
	if h.Src.Is4() {
		s.sendICMPError(h.Dst, h.Src, packet.Unreachable4, packet.WhyProtocol.Code(true), 0, quotable(h))
		return
	}
	// The pointer leads to the header field that names the protocol.
	const parameterProblem, unknownNextHeader = 4, 1
	s.sendICMPError(h.Dst, h.Src, parameterProblem, unknownNextHeader, uint32(h.Named), quotable(h))
}

// TooBig answers a packet that was not to be cut, as the router before a narrower link does.
func (s sender) TooBig(k datagram.Key, size, mtu int) {
	if !s.errors.Allow() {
		return
	}
	quoted := packet.FlowHead(k.Kind == datagram.UDP, k.Remote, k.Local, size)
	kind, code := byte(packet.PacketTooBig6), byte(0)
	if k.Local.Addr().Is4() {
		kind, code = packet.Unreachable4, packet.FragmentationNeeded
	}
	s.sendICMPError(k.Local.Addr(), k.Remote.Addr(), kind, code, uint32(mtu), quoted)
}

// SendSegments sends datagrams as one super-packet.
func (s sender) SendSegments(src, dst netip.Addr, b []byte, size int) error {
	ip := packet.PutIP(b, packet.ProtoUDP, src, dst, len(b)-packet.HeaderLen(src))
	const udpHeader, atChecksum = 8, 6
	piece := single.Get().(*[1][]byte)
	defer single.Put(piece)
	piece[0] = b
	defer clear(piece[:])
	return s.nic.SendPieces(link.Meta{
		GSO: link.GSOUDP, SegSize: uint16(size), HdrLen: uint16(ip + udpHeader), Partial: true, CsumStart: uint16(ip), CsumOffset: atChecksum,
	}, piece[:])
}

// Send sends the IP body that stands in b behind room for its header, in fragments where it exceeds mtu.
func (s sender) Send(proto uint8, src, dst netip.Addr, b []byte, as packet.Manner, mtu int) error {
	if len(b) > mtu {
		return packet.Fragment(b, proto, src, dst, mtu, func(f []byte) error {
			as.Put(f)
			return s.nic.Send(f)
		})
	}
	packet.PutIP(b, proto, src, dst, len(b)-packet.HeaderLen(src))
	as.Put(b)
	return s.nic.Send(b)
}
