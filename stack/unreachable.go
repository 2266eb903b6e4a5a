package stack

import (
	"encoding/binary"
	"net/netip"

	"penstock/stack/datagram"
	"penstock/stack/packet"
)

// inboundUnreachable takes an ICMP error about a datagram of ours, or about a TCP connection that is being dialled. Errors
// about open TCP connections are left to gVisor.
func (s receiver) inboundUnreachable(icmp *packet.Packet) (taken bool) {
	code := icmp.Body[1]
	if icmp.Src.Is4() && code == packet.FragmentationNeeded {
		return s.inboundTooBig(icmp)
	}
	h, ok := packet.Quoted(icmp.Body[8:])
	if !ok {
		return true
	}
	errno := packet.WhyOfCode(h.Src.Is4(), code).Errno()
	if h.Proto == packet.ProtoTCP {
		return s.dials.fail(sentBy(&h), errno)
	}
	k, ok := dialledKey(&h)
	if ok {
		s.flows.Fail(k, errno)
	}
	return ok
}

// inboundTooBig takes an ICMP error about a datagram of ours that was too big for a link beyond. gVisor keeps the MTU of the
// paths of TCP.
func (s receiver) inboundTooBig(icmp *packet.Packet) (taken bool) {
	h, ok := packet.Quoted(icmp.Body[8:])
	if !ok {
		return true
	}
	mtu := int(binary.BigEndian.Uint32(icmp.Body[4:]))
	if icmp.Src.Is4() {
		mtu &= 0xffff // two bytes that RFC 1191 leaves unused stand before it
	}
	k, ok := dialledKey(&h)
	if ok {
		s.flows.TooBig(k, mtu)
	}
	return ok
}

// sentBy names a flow by a packet of ours that an ICMP error quotes.
func sentBy(h *packet.Packet) datagram.Pair {
	ports := flowAddrs(h)
	return datagram.Pair{Remote: ports.Local, Local: ports.Remote}
}

// dialledKey finds the datagram flow that a quoted packet of ours belongs to.
func dialledKey(h *packet.Packet) (k datagram.Key, ok bool) {
	switch h.Proto {
	case packet.ProtoUDP:
		return datagram.Key{Kind: datagram.UDP, Pair: sentBy(h)}, true
	case packet.ICMPProto(h.Src):
		return datagram.Key{Kind: datagram.Reply, Pair: datagram.Pair{
			Remote: netip.AddrPortFrom(h.Dst, 0),
			Local:  netip.AddrPortFrom(h.Src, binary.BigEndian.Uint16(h.Body[4:])),
		}}, true
	}
	return k, false
}
