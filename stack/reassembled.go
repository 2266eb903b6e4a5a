package stack

import (
	"net/netip"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"penstock/stack/datagram"
	"penstock/stack/packet"
)

// takeReassembled makes gVisor hand over what it put together from fragments, except what belongs to its own connections.
func (s receiver) takeReassembled() {
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, s.crossReassembled) // forwardTCP asks it too
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.reassembledUDP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.reassembledICMP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.reassembledICMP)
}

// deliverFragment gives a fragment to gVisor. It goes past gVisor's NIC, which would note that the link has checked the
// checksum: nobody can before the whole is there, so that gVisor has to check what TCP gets.
func (s receiver) deliverFragment(h *packet.Packet) {
	proto := header.IPv6ProtocolNumber
	if h.Src.Is4() {
		proto = header.IPv4ProtocolNumber
	}
	ep, err := s.net.GetNetworkEndpoint(nicID, proto)
	if err != nil {
		return // the stack closes
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(buffer.NewViewWithData(h.Raw))})
	defer pkt.DecRef()
	pkt.NetworkProtocolNumber = proto
	ep.HandlePacket(pkt)
}

// reassembledUDP takes a datagram that gVisor put together from fragments.
func (s receiver) reassembledUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	body := stack.PayloadSince(pkt.TransportHeader())
	defer body.Release()
	h := packet.Packet{Src: fromTCPIP(id.RemoteAddress), Dst: fromTCPIP(id.LocalAddress), Proto: packet.ProtoUDP, Body: body.AsSlice()}
	switch {
	case !h.Trim():
		s.metrics.drop(dropMalformed)
	case !h.ChecksumValid():
		s.metrics.drop(dropChecksum)
	default:
		as := packet.MannerOf(pkt.NetworkHeader().Slice())
		as.Whole = false
		c := s.flows.Arrived(datagram.UDP, datagram.Pair{
			Remote: netip.AddrPortFrom(h.Src, id.RemotePort),
			Local:  netip.AddrPortFrom(h.Dst, id.LocalPort),
		}, h.Body[8:], as)
		if c != nil {
			datagram.Leg{Conn: c}.Take(h.Body[8:], as)
		}
	}
	return true
}

// reassembledICMP takes an ICMP message that gVisor put together from fragments. It leaves echo requests to the stack's
// own addresses to gVisor.
func (s receiver) reassembledICMP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	body := stack.PayloadSince(pkt.TransportHeader())
	defer body.Release()
	h := packet.Packet{Src: fromTCPIP(id.RemoteAddress), Dst: fromTCPIP(id.LocalAddress), Body: body.AsSlice()}
	h.Raw, h.Fragment = pkt.NetworkHeader().Slice(), true // nobody takes it for the head of a packet
	h.Proto = packet.ICMPProto(h.Src)
	if len(h.Body) < 8 || !h.ChecksumValid() {
		s.metrics.drop(dropChecksum)
		return true
	}
	return s.inboundICMP(&h)
}
