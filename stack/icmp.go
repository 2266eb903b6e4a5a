package stack

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"penstock/stack/link"
)

// ICMP types and codes (RFC 792, RFC 4443).
const (
	echoReply4, echoRequest4, unreachable4 = 0, 8, 3
	echoReply6, echoRequest6, unreachable6 = 129, 128, 1
)

// inboundICMP takes echo messages, and errors about datagrams and dials of ours. It leaves the rest to gVisor: echo
// requests to the stack's own addresses, and errors about open TCP connections.
func (s receiver) inboundICMP(h *packet) (taken bool) {
	if len(h.body) < 8 {
		s.metrics.drop(dropMalformed)
		return true
	}
	is4 := h.src.Is4()
	if is4 != (h.proto == protoICMP4) {
		s.metrics.drop(dropMalformed)
		return true
	}
	ident := binary.BigEndian.Uint16(h.body[4:])
	switch t := h.body[0]; {
	case is4 && t == echoRequest4, !is4 && t == echoRequest6:
		if s.own(h.dst) {
			return false
		}
		s.flows.arrived(kindEcho, addrPair{
			remote: netip.AddrPortFrom(h.src, ident),
			local:  netip.AddrPortFrom(h.dst, 0),
		}, h.body[4:])
		return true
	case is4 && t == echoReply4, !is4 && t == echoReply6:
		s.inboundReply(h, ident)
		return true
	case is4 && t == unreachable4, !is4 && t == unreachable6:
		return s.inboundUnreachable(h.body[1], h.body[8:])
	}
	return is4 && h.body[0] == 5 // redirects are not for us
}

// inboundReply gives an echo reply back its caller's identifier.
func (s receiver) inboundReply(h *packet, ident uint16) {
	k := addrPair{remote: netip.AddrPortFrom(h.src, 0), local: netip.AddrPortFrom(h.dst, ident)}
	c := s.flows.find(flowKey{kindReply, k})
	if c == nil {
		return
	}
	body := append([]byte(nil), h.body[4:]...)
	binary.BigEndian.PutUint16(body, uint16(c.ident.Load()))
	c.deliver(body)
}

// putEcho writes type, code and checksum of an echo message whose body stands from t[4:] on.
func putEcho(t []byte, request bool, src, dst netip.Addr) {
	clear(t[:4])
	if src.Is4() {
		if request {
			t[0] = echoRequest4
		}
		binary.BigEndian.PutUint16(t[2:], link.Checksum(t, 0))
		return
	}
	t[0] = echoReply6
	if request {
		t[0] = echoRequest6
	}
	binary.BigEndian.PutUint16(t[2:], link.Checksum(t, pseudoHeader(protoICMP6, src, dst, len(t))))
}

// sendIP sends the IP body that stands in b behind room for its header, in fragments where it exceeds the MTU.
func (s sender) sendIP(proto uint8, src, dst netip.Addr, b []byte) error {
	hdr, mtu := ipHeaderLen(src), s.MTU()
	if len(b) <= mtu {
		putIP(b, proto, src, dst, len(b)-hdr)
		return s.nic.sendBytes(b)
	}
	body, id := b[hdr:], rand.Uint32()
	frag := make([]byte, mtu)
	extra := 0
	if src.Is6() {
		extra = 8
	}
	step := (mtu - hdr - extra) &^ 7
	for off := 0; off < len(body); off += step {
		n := min(step, len(body)-off)
		more := off+n < len(body)
		head := putIP(frag, proto, src, dst, extra+n)
		if src.Is4() {
			putFragment4(frag, uint16(id), off, more)
		} else {
			frag[6] = protoFrag6
			putFragment6(frag[head:], proto, id, off, more)
		}
		copy(frag[head+extra:], body[off:off+n])
		if err := s.nic.sendBytes(frag[:head+extra+n]); err != nil {
			return err
		}
	}
	return nil
}

func putFragment4(b []byte, id uint16, off int, more bool) {
	field := uint16(off / 8)
	if more {
		field |= 0x2000
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], field)
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
}

func putFragment6(b []byte, proto uint8, id uint32, off int, more bool) {
	field := uint16(off)
	if more {
		field |= 1
	}
	b[0], b[1] = proto, 0
	binary.BigEndian.PutUint16(b[2:], field)
	binary.BigEndian.PutUint32(b[4:], id)
}
