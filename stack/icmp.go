package stack

import (
	"encoding/binary"
	"net/netip"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
)

// inboundICMP takes echo messages, and errors about datagrams and dials of ours. It leaves the rest to gVisor: echo
// requests to the stack's own addresses, and errors about open TCP connections.
func (s receiver) inboundICMP(h *packet.Packet) (taken bool) {
	if len(h.Body) < 8 {
		s.metrics.drop(dropMalformed)
		return true
	}
	is4 := h.Src.Is4()
	if is4 != (h.Proto == packet.ProtoICMP4) {
		s.metrics.drop(dropMalformed)
		return true
	}
	ident := binary.BigEndian.Uint16(h.Body[4:])
	switch t := h.Body[0]; {
	case is4 && t == packet.EchoRequest4, !is4 && t == packet.EchoRequest6:
		if s.own(h.Dst) {
			return false
		}
		s.crossDatagram(s.flows.Arrived(datagram.Echo, datagram.Pair{
			Remote: netip.AddrPortFrom(h.Src, ident),
			Local:  netip.AddrPortFrom(h.Dst, 0),
		}, h.Body[4:], manner(h)), link.Meta{}, h)
		return true
	case is4 && t == packet.EchoReply4, !is4 && t == packet.EchoReply6:
		s.crossDatagram(s.flows.Reply(datagram.Pair{
			Remote: netip.AddrPortFrom(h.Src, 0),
			Local:  netip.AddrPortFrom(h.Dst, ident),
		}, h.Body[4:], manner(h)), link.Meta{}, h)
		return true
	case is4 && t == packet.Unreachable4, !is4 && t == packet.Unreachable6:
		return s.crossICMP(h) || s.inboundUnreachable(h)
	case !is4 && t == packet.PacketTooBig6:
		return s.crossICMP(h) || s.inboundTooBig(h)
	case is4 && t == packet.TimeExceeded4, !is4 && t == packet.TimeExceeded6:
		return s.crossICMP(h)
	}
	return is4 && h.Body[0] == 5 // redirects are not for us
}
