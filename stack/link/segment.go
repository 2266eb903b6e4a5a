package link

import (
	"encoding/binary"
	"fmt"
)

const (
	protoTCP = 6
	protoUDP = 17

	tcpFIN = 0x01
	tcpPSH = 0x08
	tcpCWR = 0x80
)

// Segmenter cuts one unfinished packet into finished ones, as a network card would: Reset, then Next until it returns 0.
// The zero Segmenter is done. It keeps the packet it was given until then.
type Segmenter struct {
	m      Meta
	pkt    []byte
	ipLen  int // bytes of IP header
	off    int // next payload byte, from the packet's start
	first  bool
	id     uint16
	seq    uint32
	isIPv6 bool
}

// Reset starts on a packet. Headers that contradict m are an error, and the Segmenter is done then.
func (s *Segmenter) Reset(m Meta, pkt []byte) error {
	*s = Segmenter{}
	if len(pkt) == 0 {
		return errBadHeader
	}
	isIPv6 := pkt[0]>>4 == 6
	if m.GSO == GSONone {
		if m.Partial && int(m.CsumStart)+int(m.CsumOffset)+2 > len(pkt) {
			return errBadHeader
		}
		*s = Segmenter{m: m, pkt: pkt, first: true, isIPv6: isIPv6}
		return nil
	}
	ipLen := 40
	if !isIPv6 {
		ipLen = int(pkt[0]&0xf) * 4
	}
	minTransport := 8
	if m.GSO != GSOUDP {
		minTransport = 20
	}
	if len(pkt) < ipLen+minTransport || ipLen < 20 || m.SegSize == 0 {
		return errBadHeader
	}
	// The header length is read from the packet itself: some kernels leave the whole first fragment's length there.
	hdrLen := ipLen + 8
	if m.GSO != GSOUDP {
		hdrLen = ipLen + int(pkt[ipLen+12]>>4)*4
	}
	if hdrLen > len(pkt) || hdrLen < ipLen+minTransport {
		return errBadHeader
	}
	m.HdrLen = uint16(hdrLen)
	*s = Segmenter{m: m, pkt: pkt, ipLen: ipLen, off: hdrLen, first: true, isIPv6: isIPv6}
	if !isIPv6 {
		s.id = binary.BigEndian.Uint16(pkt[4:])
	}
	if m.GSO != GSOUDP {
		s.seq = binary.BigEndian.Uint32(pkt[ipLen+4:])
	}
	return nil
}

// Done says that Next has nothing more to give.
func (s *Segmenter) Done() bool { return s.pkt == nil }

// Next writes the next finished packet to dst and returns its length, 0 when there is none.
func (s *Segmenter) Next(dst []byte) (int, error) {
	switch {
	case s.pkt == nil:
		return 0, nil
	case s.m.GSO == GSONone:
		return s.whole(dst)
	}
	hdrLen, left := int(s.m.HdrLen), len(s.pkt)-s.off
	size := min(int(s.m.SegSize), left)
	if len(dst) < hdrLen+size {
		return 0, fmt.Errorf("segment of %d bytes does not fit into %d", hdrLen+size, len(dst))
	}
	dst = dst[:hdrLen+size]
	copy(dst, s.pkt[:hdrLen])
	copy(dst[hdrLen:], s.pkt[s.off:s.off+size])
	s.off += size
	last := s.off >= len(s.pkt)
	s.finish(dst, last)
	s.first = false
	if last {
		s.pkt = nil
	}
	return len(dst), nil
}

// whole copies an ordinary packet and finishes its checksum.
func (s *Segmenter) whole(dst []byte) (int, error) {
	if len(dst) < len(s.pkt) {
		return 0, fmt.Errorf("packet of %d bytes does not fit into %d", len(s.pkt), len(dst))
	}
	n := copy(dst, s.pkt)
	if s.m.Partial {
		finishPartial(dst[:n], s.m)
	}
	s.pkt = nil
	return n, nil
}

// finishPartial completes a checksum whose field holds the pseudo-header's sum.
func finishPartial(pkt []byte, m Meta) {
	at := int(m.CsumStart) + int(m.CsumOffset)
	initial := binary.BigEndian.Uint16(pkt[at:])
	pkt[at], pkt[at+1] = 0, 0
	c := Checksum(pkt[m.CsumStart:], initial)
	if c == 0 && m.CsumOffset == 6 { // UDP: zero would mean "none" (RFC 768)
		c = 0xffff
	}
	binary.BigEndian.PutUint16(pkt[at:], c)
}

// finish writes the lengths, numbers, flags and checksums that differ from segment to segment.
func (s *Segmenter) finish(dst []byte, last bool) {
	transport := dst[s.ipLen:]
	var src, addr []byte
	if s.isIPv6 {
		binary.BigEndian.PutUint16(dst[4:], uint16(len(transport)))
		src, addr = dst[8:24], dst[24:40]
	} else {
		binary.BigEndian.PutUint16(dst[2:], uint16(len(dst)))
		binary.BigEndian.PutUint16(dst[4:], s.id)
		s.id++
		dst[10], dst[11] = 0, 0
		binary.BigEndian.PutUint16(dst[10:], Checksum(dst[:s.ipLen], 0))
		src, addr = dst[12:16], dst[16:20]
	}
	if s.m.GSO == GSOUDP {
		binary.BigEndian.PutUint16(transport[4:], uint16(len(transport)))
		transport[6], transport[7] = 0, 0
		c := Checksum(transport, PseudoHeader(protoUDP, src, addr, len(transport)))
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(transport[6:], c)
		return
	}
	binary.BigEndian.PutUint32(transport[4:], s.seq)
	s.seq += uint32(len(dst)) - uint32(s.m.HdrLen)
	if !last {
		transport[13] &^= tcpFIN | tcpPSH
	}
	if !s.first {
		transport[13] &^= tcpCWR
	}
	transport[16], transport[17] = 0, 0
	binary.BigEndian.PutUint16(transport[16:], Checksum(transport, PseudoHeader(protoTCP, src, addr, len(transport))))
}
