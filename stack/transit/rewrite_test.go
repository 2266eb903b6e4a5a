package transit

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// anyAddr is an address that a packet can have, often one of whose words are all zeros or all ones: these are the same number to
// a checksum.
func anyAddr(rng *rand.Rand, is6 bool) netip.Addr {
	for {
		n := 4
		if is6 {
			n = 16
		}
		b := random(rng, n)
		for i := 0; i < n; i += 2 {
			switch rng.IntN(3) {
			case 0:
				b[i], b[i+1] = 0, 0
			case 1:
				b[i], b[i+1] = 0xff, 0xff
			}
		}
		if is6 {
			b[0], b[1] = 0x20, 0x01
		} else {
			b[0] = byte(1 + rng.IntN(126))
		}
		a, _ := netip.AddrFromSlice(b)
		if !a.IsLoopback() && !a.IsMulticast() {
			return a
		}
	}
}

func anyPort(rng *rand.Rand) uint16 {
	return []uint16{0, 0xffff, 1, 443, uint16(rng.Uint32())}[rng.IntN(5)]
}

func anyEnd(rng *rand.Rand, is6 bool) netip.AddrPort {
	return netip.AddrPortFrom(anyAddr(rng, is6), anyPort(rng))
}

// checkRewritten checks a segment that crossed against the one that came.
func checkRewritten(t *testing.T, came seg, src, dst netip.AddrPort, seq uint32, data []byte, p *packet.Packet) {
	t.Helper()
	hop, tos := p.Raw[7], byte(binary.BigEndian.Uint16(p.Raw)>>4)
	if src.Addr().Is4() {
		hop, tos = p.Raw[8], p.Raw[1]
	}
	s, ok := parse(p)
	switch {
	case !ok:
		t.Fatalf("no TCP header: %x", p.Raw)
	case p.Src != src.Addr() || p.Dst != dst.Addr() || binary.BigEndian.Uint16(p.Body) != src.Port() || binary.BigEndian.Uint16(p.Body[2:]) != dst.Port():
		t.Fatalf("got addresses in %x, want %v -> %v", p.Raw, src, dst)
	case hop != came.ttl-1:
		t.Fatalf("got hop count %d, want %d", hop, came.ttl-1)
	case tos != came.tos:
		t.Fatalf("got DSCP and ECN %#x, want %#x", tos, came.tos)
	case s.seq != seq || s.ack != came.ack || !bytes.Equal(s.payload, data):
		t.Fatalf("got seq %d, ack %d and %d bytes, want %d, %d and %d", s.seq, s.ack, len(s.payload), seq, came.ack, len(data))
	case !bytes.Equal(p.Body[20:len(p.Body)-len(s.payload)], came.opts):
		t.Fatalf("got options %x, want %x", p.Body[20:len(p.Body)-len(s.payload)], came.opts)
	}
}

// TestPacketsCrossWhole gives flows packets of every kind, of random addresses, and finishes what comes out as a card would.
func TestPacketsCrossWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		is6 := rng.IntN(2) == 0
		c := Config{Client: anyEnd(rng, is6), Server: anyEnd(rng, is6), Mapped: anyEnd(rng, is6), ISN: rng.Uint32()}
		w := newTrack(t, c, false).open()
		s := w.up(c.ISN+1, serverISN+1, flagACK|flagPSH)
		src, dst := c.Mapped, c.Server
		down := rng.IntN(2) == 0
		if down {
			s = w.down(serverISN+1, c.ISN+1, flagACK|flagPSH)
			src, dst = c.Server, c.Client
		}
		s.tos, s.ttl = byte(rng.Uint32()), byte(2+rng.IntN(254))
		s.opts, s.data = random(rng, 4*rng.IntN(11)), random(rng, rng.IntN(1300))
		size := 0
		var m link.Meta
		var b []byte
		switch rng.IntN(3) {
		case 0:
			b = s.bytes()
		case 1:
			m, b = s.unfinished(0)
		default:
			size = 1 + rng.IntN(1400)
			s.data = random(rng, size+1+rng.IntN(min(40*size, 65535-120-size)))
			m, b = s.unfinished(size)
			if rng.IntN(4) == 0 { // some devices leave the checksum to who cuts, and do not say so
				m.Partial, m.CsumStart, m.CsumOffset = false, 0, 0
			}
		}
		p := parsed(t, m, b)
		step := Step(255)
		if down {
			step = w.FromServer(m, p, 0)
		} else {
			step = w.FromClient(m, p, 0)
		}
		if step != Cross {
			t.Fatalf("got step %d, want %d", step, Cross)
		}
		seq, left := s.seq, s.data
		for _, p := range finished(t, m, p.Raw) {
			n := len(left)
			if size > 0 {
				n = min(n, size)
			}
			checkRewritten(t, s, src, dst, seq, left[:n], p)
			seq, left = seq+uint32(n), left[n:]
		}
		if len(left) > 0 {
			t.Fatalf("%d bytes are missing", len(left))
		}
	}
}

func TestPacketsWithoutHopsExpire(t *testing.T) {
	for _, c := range families {
		w := newTrack(t, c, false).open()
		for _, ttl := range []byte{0, 1} {
			for _, s := range []seg{w.up(1, serverISN+1, flagACK, 'x'), w.down(serverISN+1, 1, flagACK, 'x')} {
				s.ttl = ttl
				p := s.packet(t)
				if ttl == 0 { // seg takes it for 64
					zeroHops(p)
				}
				before := bytes.Clone(p.Raw)
				step := w.FromClient
				if s.src == c.Server {
					step = w.FromServer
				}
				if got := step(link.Meta{}, p, 0); got != Expire || !bytes.Equal(before, p.Raw) {
					t.Errorf("%v, %d hops: got step %d, want %d and the packet as it was", s.src, ttl, got, Expire)
				}
			}
		}
	}
}

func zeroHops(p *packet.Packet) {
	if p.Src.Is6() {
		p.Raw[7] = 0
		return
	}
	p.Raw[8] = 0
	p.Raw[10], p.Raw[11] = 0, 0
	binary.BigEndian.PutUint16(p.Raw[10:], link.Checksum(p.Raw[:20], 0))
}

func TestPacketsWithIPOptionsDoNotCross(t *testing.T) {
	for _, c := range families {
		w := newTrack(t, c, false).open()
		b := w.up(1, serverISN+1, flagACK, 'x').bytes()
		if c.Client.Addr().Is4() { // record route
			b = append(append(bytes.Clone(b[:20]), 7, 3, 4, 0), b[20:]...)
			b[0] = 0x46
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:24], 0))
		} else { // destination options
			b = append(append(bytes.Clone(b[:40]), packet.ProtoTCP, 0, 1, 4, 0, 0, 0, 0), b[40:]...)
			b[6] = 60
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		}
		if got := w.FromClient(link.Meta{}, parsed(t, link.Meta{}, b), 0); got != Stay {
			t.Errorf("%v: got step %d, want %d", c.Client, got, Stay)
		}
	}
}

func TestSYNsAreClamped(t *testing.T) {
	const nop, end = 1, 0
	mss := func(n int) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, row := range []struct {
		name       string
		opts, want func(most int) []byte
	}{
		{"none", func(int) []byte { return nil }, func(int) []byte { return nil }},
		{"as large as fits", mss, mss},
		{"smaller", func(n int) []byte { return mss(n - 1) }, func(n int) []byte { return mss(n - 1) }},
		{"larger", func(n int) []byte { return mss(n + 1) }, mss},
		{"the largest", func(int) []byte { return mss(65535) }, mss},
		{"zero", func(int) []byte { return mss(0) }, func(int) []byte { return mss(0) }},
		{"at an odd offset", func(int) []byte { return cat([]byte{nop}, mss(9000), []byte{nop, nop, nop}) },
			func(n int) []byte { return cat([]byte{nop}, mss(n), []byte{nop, nop, nop}) }},
		{"behind an option of odd length", func(int) []byte { return cat([]byte{3, 3, 7}, mss(9000), []byte{nop}) },
			func(n int) []byte { return cat([]byte{3, 3, 7}, mss(n), []byte{nop}) }},
		{"last", func(int) []byte { return cat([]byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8, nop, nop}, mss(9000)) },
			func(n int) []byte { return cat([]byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8, nop, nop}, mss(n)) }},
		{"twice", func(int) []byte { return cat(mss(9000), mss(9001)) }, func(n int) []byte { return cat(mss(n), mss(n)) }},
		{"behind the end", func(int) []byte { return cat([]byte{end, 0, 0, 0}, mss(9000)) },
			func(int) []byte { return cat([]byte{end, 0, 0, 0}, mss(9000)) }},
		{"cut off", func(int) []byte { return []byte{nop, 2, 4, 0xff} }, func(int) []byte { return []byte{nop, 2, 4, 0xff} }},
		{"a kind without length", func(int) []byte { return []byte{nop, nop, nop, 2} }, func(int) []byte { return []byte{nop, nop, nop, 2} }},
		{"an option of no length", func(int) []byte { return []byte{9, 0, 2, 4} }, func(int) []byte { return []byte{9, 0, 2, 4} }},
		{"an option of length 1", func(int) []byte { return []byte{9, 1, 2, 4} }, func(int) []byte { return []byte{9, 1, 2, 4} }},
		{"an MSS of length 3", func(int) []byte { return []byte{2, 3, 0xff, nop} }, func(int) []byte { return []byte{2, 3, 0xff, nop} }},
	} {
		for _, c := range families {
			c.MTU = 1280
			most := 1280 - packet.HeaderLen(c.Client.Addr()) - 20
			for _, partial := range []bool{false, true} {
				for _, data := range [][]byte{nil, []byte("payload of a SYN")} {
					w := newTrack(t, c, true)
					for _, s := range []seg{w.up(0, 0, flagSYN), w.down(serverISN, 1, flagSYN|flagACK)} {
						s.opts, s.data, s.ttl = row.opts(most), data, 9
						var m link.Meta
						b := s.bytes()
						if partial {
							m, b = s.unfinished(0)
						}
						p := parsed(t, m, b)
						step, src, dst := w.FromClient, c.Mapped, c.Server
						if s.src == c.Server {
							step, src, dst = w.FromServer, c.Server, c.Client
						}
						if got := step(m, p, 0); got != Cross {
							t.Fatalf("%s: got step %d, want %d", row.name, got, Cross)
						}
						out := finished(t, m, p.Raw)
						s.opts = row.want(most)
						checkRewritten(t, s, src, dst, s.seq, nil, out[0])
					}
					if len(w.read) > 0 {
						t.Errorf("%s: the reader got %q, which never leaves", row.name, w.read)
					}
				}
			}
		}
	}
}

func TestASuperPacketWithSYNIsOnePacketWithoutPayload(t *testing.T) {
	for _, c := range families {
		w := newTrack(t, c, false)
		s := w.up(0, 0, flagSYN, random(rand.New(rand.NewPCG(1, 1)), 4000)...)
		s.ttl = 9
		m, b := s.unfinished(1000)
		p := parsed(t, m, b)
		if got := w.FromClient(m, p, 0); got != Cross {
			t.Fatalf("got step %d, want %d", got, Cross)
		}
		out := finished(t, m, p.Raw)
		if len(out) != 1 {
			t.Fatalf("got %d packets, want 1", len(out))
		}
		checkRewritten(t, s, c.Mapped, c.Server, s.seq, nil, out[0])
	}
}

func TestHeadersThatLieDoNotCross(t *testing.T) {
	for _, c := range families {
		w := newTrack(t, c, false).open()
		s := w.up(1, serverISN+1, flagACK, []byte("some payload")...)
		hdr := packet.HeaderLen(c.Client.Addr())
		for _, offset := range []byte{0, 4 << 4, 14 << 4, 15 << 4} {
			p := s.packet(t)
			p.Body[atOffset] = offset
			if got := w.FromClient(link.Meta{}, p, 0); got != Stay {
				t.Errorf("data offset %#x: got step %d, want %d", offset, got, Stay)
			}
		}
		good, _ := s.unfinished(5)
		for name, lie := range map[string]func(*link.Meta){
			"UDP":                            func(m *link.Meta) { m.GSO = link.GSOUDP },
			"a checksum in the payload":      func(m *link.Meta) { m.CsumOffset = 22 },
			"a checksum in the IP header":    func(m *link.Meta) { m.CsumStart, m.CsumOffset = 0, 10 },
			"a sum that begins elsewhere":    func(m *link.Meta) { m.CsumStart, m.CsumOffset = uint16(hdr+2), atChecksum-2 },
			"a super-packet of the other IP": func(m *link.Meta) { m.GSO ^= link.GSOTCPv4 ^ link.GSOTCPv6 },
			"segments of no size":            func(m *link.Meta) { m.SegSize = 0 },
		} {
			m := good
			lie(&m)
			_, b := s.unfinished(5)
			for _, step := range []struct {
				f    func(link.Meta, *packet.Packet, int64) Step
				from netip.AddrPort
			}{{w.FromClient, c.Client}, {w.FromServer, c.Server}} {
				if got := step.f(m, parsed(t, m, bytes.Clone(b)), 0); got != Stay {
					t.Errorf("%s, from %v: got step %d, want %d", name, step.from, got, Stay)
				}
			}
		}
	}
}
