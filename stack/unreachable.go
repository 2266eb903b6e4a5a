package stack

import (
	"encoding/binary"
	"net/netip"

	"penstock/stack/datagram"
	"penstock/stack/packet"
)

// inboundUnreachable takes an ICMP error about a datagram of ours, or about a TCP connection that is being dialled.
// quoted is the head of the packet that caused it. Errors about open TCP connections are left to gVisor.
func (s receiver) inboundUnreachable(code byte, quoted []byte) (taken bool) {
	h, ok := packet.Quoted(quoted)
	if !ok {
		return true
	}
	errno := packet.WhyOfCode(h.Src.Is4(), code).Errno()
	ports := flowAddrs(&h)
	ports.Remote, ports.Local = ports.Local, ports.Remote // we sent it
	switch h.Proto {
	case packet.ProtoUDP:
		s.flows.Fail(datagram.Key{Kind: datagram.UDP, Pair: ports}, errno)
		return true
	case packet.ICMPProto(h.Src):
		s.flows.Fail(datagram.Key{Kind: datagram.Reply, Pair: datagram.Pair{
			Remote: netip.AddrPortFrom(h.Dst, 0),
			Local:  netip.AddrPortFrom(h.Src, binary.BigEndian.Uint16(h.Body[4:])),
		}}, errno)
		return true
	case packet.ProtoTCP:
		const fragmentationNeeded = 4 // concerns the path's MTU, which gVisor keeps
		return !(h.Src.Is4() && code == fragmentationNeeded) && s.dials.fail(ports, errno)
	}
	return false
}
