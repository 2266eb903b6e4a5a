package link

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// naive is the Internet checksum as RFC 1071 writes it.
func naive(b []byte, initial uint16) uint16 {
	sum := uint32(initial)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestChecksumAgreesWithTheNaiveOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		initial := uint16(rng.Uint32())
		got, want := Checksum(b, initial), naive(b, initial)
		// 0 and 0xffff are the same number in ones' complement; both forms may come out for all-zero input.
		if got != want && !(got^want == 0xffff && (got == 0 || want == 0)) {
			t.Fatalf("%d bytes from %#x: got %#x, want %#x", n, initial, got, want)
		}
	}
}

// superPacket builds an unfinished TCP or UDP packet of size payload bytes.
func superPacket(gso GSO, isIPv6 bool, size, segment int) (Meta, []byte) {
	hdr, transport, proto := 20, 20, uint8(protoTCP)
	if isIPv6 {
		hdr = 40
	}
	if gso == GSOUDP {
		transport, proto = 8, protoUDP
	}
	b := make([]byte, hdr+transport+size)
	src, dst := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("203.0.113.9")
	if isIPv6 {
		src, dst = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8::9")
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(transport+size))
		b[6], b[7] = proto, 64
		copy(b[8:], src.AsSlice())
		copy(b[24:], dst.AsSlice())
	} else {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		binary.BigEndian.PutUint16(b[4:], 0xfffe) // the identification wraps
		b[8], b[9] = 64, proto
		copy(b[12:], src.AsSlice())
		copy(b[16:], dst.AsSlice())
		binary.BigEndian.PutUint16(b[10:], naive(b[:20], 0))
	}
	t := b[hdr:]
	binary.BigEndian.PutUint16(t, 4000)
	binary.BigEndian.PutUint16(t[2:], 443)
	m := Meta{GSO: gso, SegSize: uint16(segment), HdrLen: uint16(hdr + transport), Partial: true, CsumStart: uint16(hdr)}
	if gso == GSOUDP {
		m.CsumOffset = 6
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	} else {
		m.CsumOffset = 16
		binary.BigEndian.PutUint32(t[4:], 0xfffffff0) // the sequence number wraps
		t[12], t[13] = 5<<4, tcpFIN|tcpPSH|tcpCWR|0x10
	}
	for i := range size {
		t[transport+i] = byte(i * 13)
	}
	return m, b
}

func TestSegments(t *testing.T) {
	for _, gso := range []GSO{GSOTCPv4, GSOTCPv6, GSOUDP} {
		for _, isIPv6 := range []bool{false, true} {
			if gso == GSOTCPv4 && isIPv6 || gso == GSOTCPv6 && !isIPv6 {
				continue
			}
			for _, size := range []int{1, 1000, 1001, 9999, 60000} {
				t.Run(fmt.Sprintf("kind %d, IPv6 %v, %d bytes", gso, isIPv6, size), func(t *testing.T) {
					m, pkt := superPacket(gso, isIPv6, size, 1000)
					var s Segmenter
					if err := s.Reset(m, pkt); err != nil {
						t.Fatal(err)
					}
					hdr, want := int(m.HdrLen), pkt[m.HdrLen:]
					var got []byte
					seq := uint32(0xfffffff0)
					dst := make([]byte, 2000)
					for !s.Done() {
						n, err := s.Next(dst)
						if err != nil {
							t.Fatal(err)
						}
						checkSegment(t, dst[:n], m, isIPv6)
						if gso != GSOUDP {
							if at := binary.BigEndian.Uint32(dst[m.CsumStart+4:]); at != seq {
								t.Fatalf("got sequence number %d, want %d", at, seq)
							}
							checkFlags(t, dst[m.CsumStart+13], len(got) == 0, s.Done())
						}
						seq += uint32(n - hdr)
						got = append(got, dst[hdr:n]...)
					}
					if !bytes.Equal(got, want) {
						t.Fatalf("got %d bytes of payload, want the %d that went in", len(got), len(want))
					}
				})
			}
		}
	}
}

// checkSegment verifies lengths and both checksums.
func checkSegment(t *testing.T, b []byte, m Meta, isIPv6 bool) {
	t.Helper()
	src, dst, total := b[12:16], b[16:20], int(binary.BigEndian.Uint16(b[2:]))
	if isIPv6 {
		src, dst, total = b[8:24], b[24:40], 40+int(binary.BigEndian.Uint16(b[4:]))
	} else if c := naive(b[:20], 0); c != 0 {
		t.Fatalf("the IP header's checksum is off by %#x", c)
	}
	if total != len(b) {
		t.Fatalf("got length %d in the header of a segment of %d bytes", total, len(b))
	}
	proto := uint8(protoTCP)
	if m.GSO == GSOUDP {
		proto = protoUDP
	}
	body := b[m.CsumStart:]
	if c := naive(body, PseudoHeader(proto, src, dst, len(body))); c != 0 {
		t.Fatalf("the transport checksum is off by %#x", c)
	}
}

// checkFlags verifies that FIN and PSH are the last segment's and CWR the first one's.
func checkFlags(t *testing.T, flags byte, first, last bool) {
	t.Helper()
	if got := flags&(tcpFIN|tcpPSH) == tcpFIN|tcpPSH; got != last {
		t.Errorf("FIN and PSH set: %v, want %v", got, last)
	}
	if got := flags&tcpCWR != 0; got != first {
		t.Errorf("CWR set: %v, want %v", got, first)
	}
}

func TestPartialChecksumIsFinished(t *testing.T) {
	m, pkt := superPacket(GSOTCPv4, false, 500, 1000)
	m.GSO = GSONone
	src, dst := pkt[12:16], pkt[16:20]
	binary.BigEndian.PutUint16(pkt[36:], PseudoHeader(protoTCP, src, dst, len(pkt)-20))
	var s Segmenter
	if err := s.Reset(m, pkt); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(pkt))
	if _, err := s.Next(got); err != nil {
		t.Fatal(err)
	}
	if c := naive(got[20:], PseudoHeader(protoTCP, src, dst, len(pkt)-20)); c != 0 {
		t.Fatalf("the checksum is off by %#x", c)
	}
}

func FuzzSegmenter(f *testing.F) {
	for _, gso := range []GSO{GSOTCPv4, GSOTCPv6, GSOUDP} {
		m, pkt := superPacket(gso, gso == GSOTCPv6, 3000, 1000)
		f.Add(uint8(gso), m.SegSize, m.CsumStart, m.CsumOffset, true, pkt)
	}
	f.Fuzz(func(t *testing.T, gso uint8, segment, start, offset uint16, partial bool, pkt []byte) {
		var s Segmenter
		if s.Reset(Meta{GSO: GSO(gso % 4), SegSize: segment, CsumStart: start, CsumOffset: offset, Partial: partial}, pkt) != nil {
			return
		}
		dst := make([]byte, MaxPacket+128)
		for n := 0; !s.Done(); n++ {
			if _, err := s.Next(dst); err != nil {
				return
			}
			if n > len(pkt) {
				t.Fatalf("more segments than the packet has bytes")
			}
		}
	})
}

func TestVirtioHeaderRoundTrip(t *testing.T) {
	for _, m := range []Meta{
		{},
		{Partial: true, CsumStart: 20, CsumOffset: 16},
		{GSO: GSOTCPv4, SegSize: 1448, HdrLen: 52, Partial: true, CsumStart: 20, CsumOffset: 16},
		{GSO: GSOTCPv6, SegSize: 1428, HdrLen: 72, Partial: true, CsumStart: 40, CsumOffset: 16},
		{GSO: GSOUDP, SegSize: 1200, HdrLen: 28, Partial: true, CsumStart: 20, CsumOffset: 6},
	} {
		var h [virtioHdrLen]byte
		encodeVirtio(&h, m)
		if got, ok := decodeVirtio(h[:]); !ok || got != m {
			t.Errorf("got %+v, %v; want %+v", got, ok, m)
		}
	}
	if _, ok := decodeVirtio([]byte{0, 7, 0, 0, 0, 0, 0, 0, 0, 0}); ok {
		t.Error("a kind of super-packet that nobody asked for was taken")
	}
}
