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

// datagram is a UDP packet, or an echo request or reply.
func datagram(proto byte, request bool, src, dst netip.AddrPort, data []byte) []byte {
	hdr := packet.HeaderLen(src.Addr())
	b := make([]byte, hdr+8+len(data))
	packet.PutIP(b, proto, src.Addr(), dst.Addr(), 8+len(data))
	body := b[hdr:]
	copy(body[8:], data)
	if proto != packet.ProtoUDP {
		ident := src.Port()
		if !request {
			ident = dst.Port()
		}
		binary.BigEndian.PutUint16(body[atIdent:], ident)
		packet.PutEcho(body, request, src.Addr(), dst.Addr())
		return b
	}
	packet.PutPorts(body, src, dst)
	binary.BigEndian.PutUint16(body[4:], uint16(len(body)))
	sum := link.Checksum(body, packet.PseudoHeader(proto, src.Addr(), dst.Addr(), len(body)))
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(body[atUDPChecksum:], sum)
	return b
}

// A datagram that crosses is the one that the other end would have made, with a hop less; and its checksum is never one that says
// that there is none.
func TestDatagramsAreRewrittenAsIfMadeThere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200000 {
		is6 := rng.IntN(2) == 0
		client, server, mapped := anyEnd(rng, is6), anyEnd(rng, is6), anyEnd(rng, is6)
		proto := byte(packet.ProtoUDP)
		if rng.IntN(2) == 0 {
			proto = packet.ICMPProto(client.Addr())
			server = netip.AddrPortFrom(server.Addr(), 0)
		}
		data := random(rng, rng.IntN(5))
		for _, up := range []bool{true, false} {
			d, src, dst, from, to := ToServer(client, mapped, false), client, server, mapped, server
			if !up {
				d, src, dst, from, to = ToClient(mapped, client, false), server, mapped, server, client
			}
			p, fault := packet.Parse(link.Meta{}, datagram(proto, up, src, dst, data))
			want, _ := packet.Parse(link.Meta{}, datagram(proto, up, from, to, data))
			if fault != "" || want.Raw == nil {
				continue // an address that no packet has
			}
			rewrite := d.Echo
			if proto == packet.ProtoUDP {
				rewrite = d.UDP
			}
			m := link.Meta{}
			if proto == packet.ProtoUDP {
				switch rng.IntN(3) {
				case 0:
					m = link.Meta{Partial: true, CsumStart: uint16(len(p.Raw) - len(p.Body)), CsumOffset: atUDPChecksum}
					for _, one := range []packet.Packet{p, want} {
						binary.BigEndian.PutUint16(one.Body[atUDPChecksum:], packet.PseudoHeader(proto, one.Src, one.Dst, len(one.Body)))
					}
				case 1:
					for _, one := range []packet.Packet{p, want} {
						clear(one.Body[atUDPChecksum : atUDPChecksum+2])
					}
				}
			}
			if !rewrite(m, &p) {
				t.Fatalf("% x was not rewritten", p.Raw)
			}
			hop(&want)
			if !is6 {
				rehost(want.Raw, 20, to.Addr(), true) // the checksum of the header
			}
			sum := binary.BigEndian.Uint16(p.Body[atUDPChecksum:])
			if wanted := binary.BigEndian.Uint16(want.Body[atUDPChecksum:]); proto == packet.ProtoUDP && m.Partial && sum != wanted && sum^wanted == 0xffff {
				copy(p.Body[atUDPChecksum:], want.Body[atUDPChecksum:atUDPChecksum+2]) // the same number in ones' complement
			}
			if q, fault := packet.Parse(m, p.Raw); proto != packet.ProtoUDP && fault == "" {
				copy(q.Body[atICMPChecksum:], want.Body[atICMPChecksum:4]) // the same number
			}
			if !bytes.Equal(p.Raw, want.Raw) {
				t.Fatalf("protocol %d, %v -> %v as %v: got\n% x, want\n% x", proto, src, dst, from, p.Raw, want.Raw)
			}
		}
	}
}

func TestDatagramsThatAreNotRewrittenStayAsTheyAre(t *testing.T) {
	client, server, mapped := netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("203.0.113.9:2"), netip.MustParseAddrPort("10.9.0.2:3")
	d := ToServer(client, mapped, false)
	for name, m := range map[string]link.Meta{
		"a super-packet of TCP":            {GSO: link.GSOTCPv4, SegSize: 100},
		"segments of no size":              {GSO: link.GSOUDP},
		"a checksum elsewhere":             {Partial: true, CsumStart: 20, CsumOffset: 16},
		"a checksum of the other header's": {Partial: true, CsumStart: 0, CsumOffset: atUDPChecksum},
	} {
		b := datagram(packet.ProtoUDP, true, client, server, []byte("data"))
		p, _ := packet.Parse(link.Meta{}, bytes.Clone(b))
		if d.UDP(m, &p) || d.Echo(m, &p) || !bytes.Equal(p.Raw, b) {
			t.Errorf("%s: it was rewritten", name)
		}
	}
	short := packet.Packet{Src: client.Addr(), Raw: make([]byte, 24), Body: make([]byte, 4)}
	if d.UDP(link.Meta{}, &short) || d.Echo(link.Meta{}, &short) {
		t.Error("a header that ends too soon was rewritten")
	}
}

func FuzzDatagrams(f *testing.F) {
	client, server, mapped := netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("203.0.113.9:2"), netip.MustParseAddrPort("10.9.0.2:3")
	f.Add(datagram(packet.ProtoUDP, true, client, server, []byte("data")), byte(0), uint16(0), uint16(0), uint16(0))
	f.Add(datagram(packet.ProtoICMP4, true, client, server, []byte("data")), byte(3), uint16(4), uint16(20), uint16(6))
	f.Fuzz(func(t *testing.T, b []byte, gso byte, size, start, offset uint16) {
		m := link.Meta{GSO: link.GSO(gso & 3), SegSize: size, Partial: gso&4 != 0, CsumStart: start, CsumOffset: offset}
		p, fault := packet.Parse(m, b)
		if fault != "" || p.Fragment {
			return
		}
		for _, d := range []Datagrams{ToServer(client, mapped, false), ToClient(mapped, client, false)} {
			was := bytes.Clone(p.Raw)
			if !d.UDP(m, &p) && !d.Echo(m, &p) && !bytes.Equal(was, p.Raw) {
				t.Fatal("a packet that was not rewritten has changed")
			}
			if len(was) != len(p.Raw) {
				t.Fatal("a packet has another length")
			}
			d.Quote(b)
		}
	})
}

func BenchmarkDatagramCrosses(b *testing.B) {
	client, server, mapped := netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("203.0.113.9:2"), netip.MustParseAddrPort("10.9.0.2:3")
	out, back := ToServer(client, mapped, false), ToServer(mapped, client, false)
	p, _ := packet.Parse(link.Meta{}, datagram(packet.ProtoUDP, true, client, server, make([]byte, 1200)))
	b.ReportAllocs()
	b.SetBytes(int64(len(p.Raw)))
	for b.Loop() {
		p.Raw[8] = 64
		out.UDP(link.Meta{}, &p)
		back.UDP(link.Meta{}, &p)
	}
}
