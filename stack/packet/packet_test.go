package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"testing"

	"penstock/stack/link"
)

// udp is a datagram from port 4000 to port 443.
func udp(from, to string, size int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	hdr := HeaderLen(src)
	b := make([]byte, hdr+8+size)
	PutIP(b, ProtoUDP, src, dst, 8+size)
	PutPorts(b[hdr:], netip.AddrPortFrom(src, 4000), netip.AddrPortFrom(dst, 443))
	binary.BigEndian.PutUint16(b[hdr+4:], uint16(8+size))
	for i := range size {
		b[hdr+8+i] = byte(i * 7)
	}
	binary.BigEndian.PutUint16(b[hdr+6:], link.Checksum(b[hdr:], PseudoHeader(ProtoUDP, src, dst, 8+size)))
	return b
}

// echo is an echo request.
func echo(from, to string, size int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	hdr := HeaderLen(src)
	b := make([]byte, hdr+8+size)
	PutIP(b, ICMPProto(src), src, dst, 8+size)
	PutEcho(b[hdr:], true, src, dst)
	return b
}

// resum makes the checksum of an IPv4 header right again.
func resum(b []byte) []byte {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:int(b[0]&0xf)*4], 0))
	return b
}

func TestAddressesThatNoFlowHasAreFaults(t *testing.T) {
	for _, row := range []struct {
		sentence, from, to string
		want               Fault
	}{
		{"a host", "10.0.0.2", "203.0.113.9", ""},
		{"a host of IPv6", "fd00::2", "2001:db8::9", ""},
		{"a metadata service, which is for others to refuse", "10.0.0.2", "169.254.169.254", ""},
		{"a link-local source", "169.254.1.1", "203.0.113.9", BadAddress},
		{"IPv6 of one link", "fd00::2", "fe80::1", BadAddress},
		{"IPv4 within IPv6", "fd00::2", "::ffff:203.0.113.9", BadAddress},
		{"loopback", "10.0.0.2", "127.0.0.1", BadAddress},
		{"nobody", "0.0.0.0", "203.0.113.9", BadAddress},
		{"everybody", "10.0.0.2", "255.255.255.255", BadAddress},
		{"a group", "10.0.0.2", "224.0.0.251", BadAddress},
	} {
		if _, got := Parse(link.Meta{}, echo(row.from, row.to, 8)); got != row.want {
			t.Errorf("%s: got %q, want %q", row.sentence, got, row.want)
		}
	}
}

func TestParse(t *testing.T) {
	at := func(i int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[i] = v; return b }
	}
	whole := func(b []byte) []byte { return b }
	options := func(kind byte, n int) func([]byte) []byte { // n extension headers before the datagram
		return func(b []byte) []byte {
			proto := b[6]
			b[6] = kind
			for i := range n {
				h := make([]byte, 8)
				h[0] = proto
				if i > 0 {
					h[0] = kind
				}
				b = slices.Insert(b, 40, h...)
			}
			binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
			return b
		}
	}
	for _, row := range []struct {
		sentence string
		is6      bool
		meta     link.Meta
		change   func([]byte) []byte
		want     Fault
		body     int // bytes, if there is no fault
	}{
		{"a datagram is whole", false, link.Meta{}, whole, "", 28},
		{"a datagram of IPv6 is whole", true, link.Meta{}, whole, "", 28},
		{"padding of the link is no part of it", false, link.Meta{}, func(b []byte) []byte { return append(b, 0, 0, 0) }, "", 28},
		{"a bit that fell over is found", false, link.Meta{}, at(40, 0xff), BadChecksum, 0},
		{"a bit that fell over is found in IPv6", true, link.Meta{}, at(60, 0xff), BadChecksum, 0},
		{"the link vouches for a checksum that is not there yet", false, link.Meta{Partial: true}, at(26, 0xff), "", 28},
		{"a header with a bit that fell over is found", false, link.Meta{}, at(8, 3), BadChecksum, 0},
		{"fewer bytes than a header", false, link.Meta{}, func(b []byte) []byte { return b[:19] }, Malformed, 0},
		{"fewer bytes than the header says", false, link.Meta{}, func(b []byte) []byte { return b[:47] }, Malformed, 0},
		{"fewer bytes than the header of IPv6 says", true, link.Meta{}, func(b []byte) []byte { return b[:67] }, Malformed, 0},
		{"a header that is shorter than any", false, link.Meta{}, at(0, 0x44), Malformed, 0},
		{"another version", false, link.Meta{}, at(0, 0x55), Malformed, 0},
		{"a datagram that says it is longer", false, link.Meta{}, at(25, 29), Malformed, 0},
		{"a datagram that says it has no header", false, link.Meta{}, at(25, 7), Malformed, 0},
		{"a datagram without a checksum", false, link.Meta{}, func(b []byte) []byte { b[26], b[27] = 0, 0; return b }, "", 28},
		{"options before a datagram", true, link.Meta{}, options(60, 1), "", 28},
		{"as many options as no host sends", true, link.Meta{}, options(60, 8), Malformed, 0},
		{"options that end behind the packet", true, link.Meta{}, func(b []byte) []byte { b = options(0, 1)(b); b[41] = 200; return b }, Malformed, 0},
		{"a fragment is for others to check", false, link.Meta{}, func(b []byte) []byte { b[6], b[40] = 0x20, 0xff; return resum(b) }, "", 28},
	} {
		from, to := "10.0.0.2", "203.0.113.9"
		if row.is6 {
			from, to = "fd00::2", "2001:db8::9"
		}
		p, got := Parse(row.meta, row.change(udp(from, to, 20)))
		if got != row.want {
			t.Errorf("%s: got %q, want %q", row.sentence, got, row.want)
			continue
		}
		if got == "" && len(p.Body) != row.body {
			t.Errorf("%s: got %d bytes behind the IP header, want %d", row.sentence, len(p.Body), row.body)
		}
		if got == "" && (p.Src != netip.MustParseAddr(from) || p.Dst != netip.MustParseAddr(to) || p.Proto != ProtoUDP) {
			t.Errorf("%s: got %v to %v, protocol %d", row.sentence, p.Src, p.Dst, p.Proto)
		}
	}
}

func TestHeadersEndWhereThePayloadBegins(t *testing.T) {
	src, dst := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("203.0.113.9")
	b := make([]byte, 20+32+100)
	PutIP(b, ProtoTCP, src, dst, 132)
	b[20+12] = 8 << 4 // 12 bytes of options
	p := Packet{Raw: b, Body: b[20:], Proto: ProtoTCP}
	if got := len(p.Headers()); got != 52 {
		t.Errorf("TCP with options: got %d bytes of headers, want 52", got)
	}
	p.Fragment = true
	if got := len(p.Headers()); got != 20 {
		t.Errorf("a fragment: got %d bytes of headers, want 20", got)
	}
	p.Fragment, b[20+12] = false, 15<<4
	p.Body, p.Raw = b[20:50], b[:50]
	if got := len(p.Headers()); got != 50 {
		t.Errorf("options that end behind the packet: got %d bytes of headers, want all 50", got)
	}
}

func TestFragmentsAddUpToTheBody(t *testing.T) {
	for _, row := range []struct{ from, to string }{{"10.0.0.2", "203.0.113.9"}, {"fd00::2", "2001:db8::9"}} {
		for _, size := range []int{1, 1232, 1400, 4000, 65000} {
			b := udp(row.from, row.to, size)
			src, dst := netip.MustParseAddr(row.from), netip.MustParseAddr(row.to)
			hdr, want := HeaderLen(src), bytes.Clone(b)
			var all []byte
			more := true
			err := Fragment(b, ProtoUDP, src, dst, 1280, func(f []byte) error {
				if len(f) > 1280 {
					t.Errorf("got a fragment of %d bytes, want at most 1280", len(f))
				}
				p, fault := Parse(link.Meta{}, f)
				if fault != "" || !p.Fragment && src.Is6() {
					t.Errorf("a fragment of %d bytes: got fault %q, fragment %v", size, fault, p.Fragment)
				}
				field, part := binary.BigEndian.Uint16(f[6:]), p.Body
				off := int(field&0x1fff) * 8
				more = field&0x2000 != 0
				if src.Is6() {
					field, part = binary.BigEndian.Uint16(p.Body[2:]), p.Body[8:]
					off, more = int(field&^7), field&1 != 0
				}
				if off != len(all) {
					t.Errorf("got a fragment at %d behind one that ends at %d", off, len(all))
				}
				all = append(all, part...)
				return nil
			})
			if err != nil || more || !bytes.Equal(all, want[hdr:]) {
				t.Errorf("%s, %d bytes: got %d in fragments, more %v, %v", row.from, size, len(all), more, err)
			}
		}
	}
	full, n := errors.New("full"), 0
	src := netip.MustParseAddr("10.0.0.2")
	err := Fragment(make([]byte, 9000), ProtoUDP, src, src, 1500, func([]byte) error { n++; return full })
	if err != full || n != 1 {
		t.Errorf("got %v after %d fragments, want the first error at once", err, n)
	}
}

func TestAnErrorQuotesThePacketThatCausedIt(t *testing.T) {
	for _, ends := range []struct{ src, dst string }{{"10.0.0.2:4000", "203.0.113.9:443"}, {"[fd00::2]:4000", "[2001:db8::9]:443"}} {
		src, dst := netip.MustParseAddrPort(ends.src), netip.MustParseAddrPort(ends.dst)
		for _, row := range []struct {
			name  string
			head  []byte
			proto uint8
			first uint32 // of the head
		}{
			{"a datagram", UDPHead(src, dst), ProtoUDP, 4000<<16 | 443},
			{"a SYN", SYNHead(src, dst, 0xabcdef01), ProtoTCP, 4000<<16 | 443},
			{"an echo request", EchoHead(src, dst.Addr()), ICMPProto(src.Addr()), 0},
		} {
			b := ICMPError(dst.Addr(), src.Addr(), 3, 1, 7, row.head)
			hdr := HeaderLen(src.Addr())
			PutIP(b, ICMPProto(src.Addr()), dst.Addr(), src.Addr(), len(b)-hdr)
			p, fault := Parse(link.Meta{}, b)
			if fault != "" || p.Body[0] != 3 || p.Body[1] != 1 || p.Body[7] != 7 {
				t.Errorf("%s from %v: got fault %q and % x", row.name, src, fault, b[hdr:hdr+8])
				continue
			}
			q, ok := Quoted(p.Body[8:])
			if !ok || q.Src != src.Addr() || q.Dst != dst.Addr() || q.Proto != row.proto {
				t.Errorf("%s from %v: got %v to %v, protocol %d, %v", row.name, src, q.Src, q.Dst, q.Proto, ok)
			}
			if first := binary.BigEndian.Uint32(q.Body); row.first != 0 && first != row.first {
				t.Errorf("%s: got ports %x, want %x", row.name, first, row.first)
			}
			for n := range len(row.head) {
				if q, ok := Quoted(row.head[:n]); ok && len(q.Body) < 8 {
					t.Errorf("%s cut to %d bytes: got a head of %d bytes", row.name, n, len(q.Body))
				}
			}
		}
	}
}

// What a dial of ours fails with is told to the client by the code that makes its own dial fail in the same way.
func TestReasonsSurviveTheWayThroughAnICMPError(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES} {
		why := WhyOf(fmt.Errorf("dial: %w", &os.SyscallError{Syscall: "connect", Err: errno}))
		for _, is4 := range []bool{true, false} {
			if got := WhyOfCode(is4, why.Code(is4)).Errno(); got != errno {
				t.Errorf("IPv4 %v: got %v for %v", is4, got, errno)
			}
		}
	}
	for err, want := range map[error]Why{syscall.EPERM: WhyProhibited, syscall.ENETDOWN: WhyNet, syscall.EHOSTDOWN: WhyHost,
		syscall.ETIMEDOUT: WhyPort, errors.New("anything"): WhyPort} {
		if got := WhyOf(err); got != want {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(udp("10.0.0.2", "203.0.113.9", 20))
	f.Add(udp("fd00::2", "2001:db8::9", 20))
	f.Add(echo("10.0.0.2", "203.0.113.9", 20))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, fault := Parse(link.Meta{}, b); fault == "" {
			if len(p.Headers())+len(p.Body) < len(p.Raw)-len(p.Body) || len(p.Raw) > len(b) {
				t.Errorf("%d bytes became %d, %d of them behind the header", len(b), len(p.Raw), len(p.Body))
			}
			if !p.Src.IsValid() || p.Src.IsMulticast() {
				t.Errorf("a packet from %v passed", p.Src)
			}
		}
		if q, ok := Quoted(b); ok && len(q.Body) < 8 {
			t.Errorf("a quoted head of %d bytes passed", len(q.Body))
		}
	})
}

func TestHeadsThatNoPacketHasAreNotQuoted(t *testing.T) {
	good4 := SYNHead(netip.MustParseAddrPort("10.0.0.2:1"), netip.MustParseAddrPort("203.0.113.9:80"), 7)
	good6 := SYNHead(netip.MustParseAddrPort("[fd00::2]:1"), netip.MustParseAddrPort("[2001:db8::9]:80"), 7)
	mapped := bytes.Clone(good6)
	a := netip.MustParseAddr("::ffff:10.0.0.2").As16()
	copy(mapped[8:], a[:])
	rest4 := bytes.Clone(good4)
	PutFragment4(rest4, 1, 8, false)
	for name, b := range map[string][]byte{
		"IPv4 with a header of four bytes":   append([]byte{0x41}, good4[1:]...),
		"IPv4 with a header of no bytes":     append([]byte{0x40}, good4[1:]...),
		"a version that is neither":          append([]byte{0x50}, good6[1:]...),
		"an IPv4 address in an IPv6 address": mapped,
		"a fragment of IPv4 but the first":   rest4,
		"a fragment of IPv6 but the first":   ofFragment6(good6, 8),
		"a fragment of IPv6 that is cut off": ofFragment6(good6, 0)[:55],
	} {
		if p, ok := Quoted(b); ok {
			t.Errorf("%s: got a packet from %v to %v, want none", name, p.Src, p.Dst)
		}
	}
	for _, b := range [][]byte{good4, good6, ofFragment6(good6, 0)} {
		if p, ok := Quoted(b); !ok || p.Proto != ProtoTCP || !bytes.HasPrefix(p.Body, good6[40:48]) {
			t.Errorf("a good head is not quoted: %x", b)
		}
	}
}

// ofFragment6 is the head of a fragment that begins off bytes into the body of an IPv6 packet.
func ofFragment6(b []byte, off int) []byte {
	f := slices.Insert(bytes.Clone(b), 40, make([]byte, 8)...)
	PutFragment6(f[40:], b[6], 1, off, true)
	f[6] = ProtoFragment6
	return f
}
