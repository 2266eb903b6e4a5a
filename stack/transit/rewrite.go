package transit

import (
	"bytes"
	"encoding/binary"
	"iter"
	"net/netip"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// Where fields stand in a TCP header.
const (
	atSeq      = 4
	atAck      = 8
	atOffset   = 12
	atFlags    = 13
	atWindow   = 14
	atChecksum = 16
	atUrgent   = 18
)

// TCP flags.
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
)

// translation replaces one end of a packet's addresses.
type translation struct {
	to    netip.AddrPort
	isDst bool // the destination is replaced, not the source
	keep  bool // the hop count stays
	change
}

// change is what a translation does to checksums, which is worked out once (RFC 1624).
type change struct {
	pseudo  uint16 // what the pseudo header's sum gains
	checked uint16 // what the sum of all that the checksum covers gains
}

func translate(from, to netip.AddrPort, isDst bool) translation {
	return translation{to: to, isDst: isDst, change: changeOf(from, to)}
}

func changeOf(from, to netip.AddrPort) change {
	pseudo := gain(from.Addr().AsSlice(), to.Addr().AsSlice())
	ports := gain(binary.BigEndian.AppendUint16(nil, from.Port()), binary.BigEndian.AppendUint16(nil, to.Port()))
	return change{pseudo: pseudo, checked: add(pseudo, ports)}
}

// gain is what a sum gains when its part old is replaced.
func gain(old, with []byte) uint16 { return add(link.Checksum(old, 0), ^link.Checksum(with, 0)) }

// add adds in ones' complement.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s) + uint16(s>>16)
}

// apply rewrites a TCP packet in place: one end of its addresses, its hop count, and the checksums. The packet must have no IP
// options and a hop count above 1.
func (t *translation) apply(m link.Meta, p *packet.Packet) {
	if !t.keep {
		hop(p)
	}
	readdress(p.Raw, len(p.Raw)-len(p.Body), t.to, t.isDst)
	field := p.Body[atChecksum:]
	if m.Partial {
		binary.BigEndian.PutUint16(field, add(binary.BigEndian.Uint16(field), t.pseudo))
		return
	}
	binary.BigEndian.PutUint16(field, ^add(^binary.BigEndian.Uint16(field), t.checked))
}

// hop takes one from the hop count of a packet.
func hop(p *packet.Packet) {
	if p.Src.Is4() {
		p.Raw[8]--
	} else {
		p.Raw[7]--
	}
}

// readdress writes the address and the port of one end of a packet whose IP header has hdr bytes, and finishes that header.
func readdress(raw []byte, hdr int, to netip.AddrPort, isDst bool) {
	port := raw[hdr:]
	if isDst {
		port = port[2:]
	}
	binary.BigEndian.PutUint16(port, to.Port())
	rehost(raw, hdr, to.Addr(), isDst)
}

// rehost writes the address of one end of a packet whose IP header has hdr bytes, and finishes that header.
func rehost(raw []byte, hdr int, to netip.Addr, isDst bool) {
	if to.Is6() {
		at, a := 8, to.As16()
		if isDst {
			at += len(a)
		}
		copy(raw[at:], a[:])
		return
	}
	at, a := 12, to.As4()
	if isDst {
		at += len(a)
	}
	copy(raw[at:], a[:])
	raw[10], raw[11] = 0, 0
	binary.BigEndian.PutUint16(raw[10:], link.Checksum(raw[:hdr], 0))
}

// hops is the hop count of a packet.
func hops(p *packet.Packet) byte {
	if p.Src.Is4() {
		return p.Raw[8]
	}
	return p.Raw[7]
}

// hasOptions reports whether a packet has IPv4 options or IPv6 extension headers. Some name another destination.
func hasOptions(p *packet.Packet) bool { return len(p.Raw)-len(p.Body) != packet.HeaderLen(p.Src) }

// isSound reports whether what is still to be done to a packet is what TCP needs.
func isSound(m link.Meta, p *packet.Packet) bool {
	gso := link.GSOTCPv6
	if p.Src.Is4() {
		gso = link.GSOTCPv4
	}
	return fits(m, p, gso, atChecksum)
}

// fits reports whether what is still to be done to a packet is what its protocol needs, whose checksum stands at sum: whoever
// finishes it would write elsewhere.
func fits(m link.Meta, p *packet.Packet, gso link.GSO, sum uint16) bool {
	return (m.GSO == link.GSONone || m.GSO == gso && m.SegSize > 0) &&
		(!m.Partial || int(m.CsumStart) == len(p.Raw)-len(p.Body) && m.CsumOffset == sum)
}

// cutPayload takes the payload from a packet. It leaves the checksums to apply and reseal.
func cutPayload(p *packet.Packet) {
	hdr, length := len(p.Raw)-len(p.Body), int(p.Body[atOffset]>>4)*4
	p.Raw, p.Body = p.Raw[:hdr+length], p.Body[:length]
	if hdr == 20 {
		binary.BigEndian.PutUint16(p.Raw[2:], uint16(len(p.Raw)))
	} else {
		binary.BigEndian.PutUint16(p.Raw[4:], uint16(length))
	}
}

// Kinds of TCP options.
const (
	optionEnd = iota
	optionNop
	optionMSS
	optionScale
	optionMayAckSelectively
	optionStamps = 8
)

// options are the options of a TCP header, each with its kind and length. What cannot be read ends them, as it does for a host.
func options(b []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(b) > 0 && b[0] != optionEnd {
			n := 1
			if b[0] != optionNop {
				if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
					return
				}
				n = int(b[1])
				if !yield(b[:n]) {
					return
				}
			}
			b = b[n:]
		}
	}
}

// noScale says that a SYN does not offer to scale windows.
const noScale = 0xff

// clampSYN makes a packet with SYN one that fits the way: no payload, which nobody has judged, and no more in a segment than
// most. It leaves the checksums to apply and reseal. scale is the shift of the sender's windows, or noScale.
func clampSYN(p *packet.Packet, most uint16) (scale uint8) {
	scale = noScale
	cutPayload(p)
	for o := range options(p.Body[20:]) {
		switch {
		case o[0] == optionScale && len(o) == 3:
			scale = min(o[2], 14) // RFC 7323, 2.3
		case o[0] == optionMSS && len(o) == 4 && binary.BigEndian.Uint16(o[2:]) > most:
			binary.BigEndian.PutUint16(o[2:], most)
		}
	}
	return scale
}

// plainSYN takes from a SYN the options that a stack of our own would not know. Some make a server hear another stream than the one
// that is read: the bytes of MPTCP are put together from several connections.
func plainSYN(p *packet.Packet) {
	for o := range options(p.Body[20:]) {
		switch o[0] {
		case optionMSS, optionScale, optionMayAckSelectively, optionStamps:
		default:
			for i := range o {
				o[i] = optionNop
			}
		}
	}
}

// notUrgent takes the mark from urgent data. A server does not hear an urgent byte among the others, unless it asks for that.
func notUrgent(m link.Meta, p *packet.Packet, s *segment) {
	pointer := p.Body[atUrgent : atUrgent+2]
	was := binary.BigEndian.Uint16(pointer)
	if !s.has(flagURG) && was == 0 {
		return
	}
	var less uint16 // what the sum loses
	if s.has(flagURG) {
		s.flags &^= flagURG
		p.Body[atFlags] = s.flags
		less = flagURG
	}
	clear(pointer)
	if sum := p.Body[atChecksum:]; !m.Partial {
		binary.BigEndian.PutUint16(sum, ^add(^binary.BigEndian.Uint16(sum), ^add(less, was)))
	}
}

// clampWindow makes the window of a packet at most so many bytes.
func clampWindow(m link.Meta, p *packet.Packet, most int, scale uint8) {
	field := p.Body[atWindow:]
	window := binary.BigEndian.Uint16(field)
	if int(window)<<scale <= most {
		return
	}
	less := uint16(most >> scale)
	binary.BigEndian.PutUint16(field, less)
	if sum := p.Body[atChecksum:]; !m.Partial {
		binary.BigEndian.PutUint16(sum, ^add(^binary.BigEndian.Uint16(sum), add(^window, less)))
	}
}

// renumber sets the sequence number, or that which is acknowledged: where it stands says which.
func renumber(m link.Meta, p *packet.Packet, at int, n uint32) {
	field, with := p.Body[at:at+4], binary.BigEndian.AppendUint32(nil, n)
	if sum := p.Body[atChecksum:]; !m.Partial {
		binary.BigEndian.PutUint16(sum, ^add(^binary.BigEndian.Uint16(sum), gain(field, with)))
	}
	copy(field, with)
}

// reseal computes the checksum of a TCP packet anew, as far as m says that it is computed here.
func reseal(m link.Meta, p *packet.Packet, src, dst netip.Addr) {
	field, sum := p.Body[atChecksum:], packet.PseudoHeader(packet.ProtoTCP, src, dst, len(p.Body))
	if !m.Partial {
		field[0], field[1] = 0, 0
		sum = link.Checksum(p.Body, sum)
	}
	binary.BigEndian.PutUint16(field, sum)
}

// segment is what a TCP header says.
type segment struct {
	seq, ack uint32
	flags    byte
	window   uint16
	options  []byte
	payload  []byte
	heard    bool // Config.Read got of it
}

// parse reads a TCP header.
func parse(p *packet.Packet) (s segment, ok bool) {
	if len(p.Body) < 20 {
		return s, false
	}
	n := int(p.Body[atOffset]>>4) * 4
	if n < 20 || n > len(p.Body) {
		return s, false
	}
	return segment{
		seq: binary.BigEndian.Uint32(p.Body[atSeq:]), ack: binary.BigEndian.Uint32(p.Body[atAck:]),
		flags: p.Body[atFlags], window: binary.BigEndian.Uint16(p.Body[atWindow:]), options: p.Body[20:n], payload: p.Body[n:],
	}, true
}

// stamp returns the segment's timestamp.
func (s *segment) stamp() (stamp uint32, ok bool) {
	for o := range options(s.options) {
		if o[0] == optionStamps && len(o) == 10 {
			return binary.BigEndian.Uint32(o[2:]), true
		}
	}
	return 0, false
}

// look reads a packet as it comes, which needs more hops than spent. It returns Cross if nothing stands against that yet.
func look(m link.Meta, p *packet.Packet, spent byte) (s segment, step Step) {
	s, ok := parse(p)
	switch {
	case !ok || hasOptions(p) || !isSound(m, p):
		return s, Stay
	case hops(p) <= spent:
		return s, Expire
	}
	return s, Cross
}

func (s *segment) has(flag byte) bool { return s.flags&flag != 0 }

// end is the sequence number after the segment.
func (s *segment) end() uint32 {
	n := uint32(len(s.payload))
	if s.has(flagSYN) {
		n++
	}
	if s.has(flagFIN) {
		n++
	}
	return s.seq + n
}

// after reports whether sequence number a is behind b, around the wrap.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// build makes a TCP packet. options must fill whole words.
func build(src, dst netip.AddrPort, flags byte, seq, ack uint32, window uint16, options, payload []byte) []byte {
	hdr, length := packet.HeaderLen(src.Addr()), 20+len(options)
	b := make([]byte, hdr+length+len(payload))
	packet.PutIP(b, packet.ProtoTCP, src.Addr(), dst.Addr(), length+len(payload))
	body := b[hdr:]
	packet.PutPorts(body, src, dst)
	binary.BigEndian.PutUint32(body[atSeq:], seq)
	binary.BigEndian.PutUint32(body[atAck:], ack)
	body[atOffset], body[atFlags] = byte(length/4)<<4, flags
	binary.BigEndian.PutUint16(body[atWindow:], window)
	copy(body[20:], options)
	copy(body[length:], payload)
	binary.BigEndian.PutUint16(body[atChecksum:], link.Checksum(body, packet.PseudoHeader(packet.ProtoTCP, src.Addr(), dst.Addr(), len(body))))
	return b
}

// quotedSeq is the sequence number of the head of a TCP packet from src to dst. ok is false for any other head.
func quotedSeq(b []byte, src, dst netip.AddrPort) (seq uint32, ok bool) {
	q, ok := packet.Quoted(b)
	if !ok || q.Proto != packet.ProtoTCP || q.Src != src.Addr() || q.Dst != dst.Addr() ||
		binary.BigEndian.Uint16(q.Body) != src.Port() || binary.BigEndian.Uint16(q.Body[2:]) != dst.Port() {
		return 0, false
	}
	return binary.BigEndian.Uint32(q.Body[atSeq:]), true
}

// unreachable is the ICMP error of a router that has lost its way to src, for whoever has sent lost.
func unreachable(src, dst netip.Addr, lost []byte) []byte {
	kind, code := byte(packet.Unreachable6), packet.WhyNet.Code(false)
	if dst.Is4() {
		kind, code = packet.Unreachable4, packet.WhyHost.Code(true)
	}
	b := packet.ICMPError(src, dst, kind, code, 0, lost)
	packet.PutIP(b, packet.ICMPProto(dst), src, dst, len(b)-packet.HeaderLen(dst))
	return b
}

// quote copies the head of a packet with another address and port at one end. Its TCP checksum, which may be cut off, stays as it
// was: nobody checks it in a quotation.
func quote(b []byte, to netip.AddrPort, isDst bool) []byte {
	b = bytes.Clone(b)
	if q, ok := packet.Quoted(b); ok {
		readdress(b, len(b)-len(q.Body), to, isDst)
	}
	return b
}
