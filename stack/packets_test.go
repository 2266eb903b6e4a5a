package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// echoRequest is a ping of size bytes of payload.
func echoRequest(from, to string, size int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	hdr := packet.HeaderLen(src)
	b := make([]byte, hdr+8+size)
	packet.PutIP(b, packet.ICMPProto(src), src, dst, 8+size)
	packet.PutEcho(b[hdr:], true, src, dst)
	return b
}

// unknown is a packet of a protocol that the stack does not carry.
func unknown(from, to string, proto byte) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	hdr := packet.HeaderLen(src)
	b := make([]byte, hdr+40)
	packet.PutIP(b, proto, src, dst, 40)
	copy(b[hdr:], "forty bytes that nobody looks into")
	return b
}

func TestTCPInFragmentsIsChecksummed(t *testing.T) {
	for _, ends := range []struct{ src, dst netip.AddrPort }{
		{addr("10.0.0.2:100"), web},
		{addr("[fd00::2]:100"), addr("[2001:db8::9]:80")},
	} {
		got := make(chan string, 10)
		_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) {
			c, err := r.Accept()
			if err != nil {
				return
			}
			for {
				b := make([]byte, 100)
				n, err := c.Read(b)
				if err != nil {
					return
				}
				got <- string(b[:n])
			}
		})}, nil)
		mine, theirs := w.shake(ends.src, ends.dst)
		whole := segment(ends.src, ends.dst, mine, theirs, flagACK|flagPSH, []byte(strings.Repeat("good", 10)))
		bad := bytes.Clone(whole)
		copy(bad[len(bad)-40:], "evil")
		w.send(bad)
		for _, f := range fragments(bad, 32) {
			w.send(f)
		}
		for _, f := range fragments(whole, 32) {
			w.send(f)
		}
		select {
		case s := <-got:
			if s != strings.Repeat("good", 10) {
				t.Errorf("%v: read %q, of a segment whose checksum is wrong", ends.src, s)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%v: nothing was read of a good segment in fragments", ends.src)
		}
	}
}

func TestSYNInFragmentsIsChecksummed(t *testing.T) {
	flows := make(chan *kept, 2)
	s, w := newWire(t, Config{Handle: Waiting(keeping(flows))}, nil)
	syn := segment(addr("10.0.0.2:100"), web, 1, 0, flagSYN, make([]byte, 20))
	syn[len(syn)-1] ^= 1
	for _, f := range fragments(syn, 16) {
		w.send(f)
	}
	w.shake(addr("10.0.0.2:101"), web)
	if k := within(t, flows); k.r.Src.Port() != 101 {
		t.Error("a SYN whose checksum is wrong began a flow")
	}
	if got := dials(s, 0); got != 0 {
		t.Errorf("got %d dials left, want 0", got)
	}
}

func TestADatagramEndsWhereItsHeaderSays(t *testing.T) {
	src := addr("10.0.0.2:100")
	padded := func(b []byte) []byte {
		b = append(b, "more"...)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
		return b
	}
	noSum := func(b []byte) []byte { b[26], b[27] = 0, 0; return b }
	long := func(b []byte) []byte {
		binary.BigEndian.PutUint16(b[24:], uint16(len(b)-20+1))
		return noSum(b)
	}
	for _, row := range []struct {
		name string
		pkts [][]byte
		want int // bytes; -1: dropped
	}{
		{"as long as the packet", [][]byte{udpFrom(src, web, []byte("data"))}, 4},
		{"with four bytes behind it", [][]byte{padded(udpFrom(src, web, []byte("data")))}, 4},
		{"the same without checksum", [][]byte{padded(noSum(udpFrom(src, web, []byte("data"))))}, 4},
		{"the same in fragments", fragments(padded(udpFrom(src, web, make([]byte, 40))), 32), 40},
		{"longer than the packet", [][]byte{long(udpFrom(src, web, []byte("data")))}, -1},
		{"empty", [][]byte{udpFrom(src, web, nil)}, 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			sizes := make(chan int, 10)
			_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) {
				c, err := r.Accept()
				if err != nil {
					return
				}
				n, _ := c.Read(make([]byte, 100))
				sizes <- n
			})}, nil)
			for _, p := range row.pkts {
				w.send(p)
			}
			w.send(udpFrom(addr("10.0.0.2:101"), web, make([]byte, 77)))
			got := within(t, sizes)
			if got == 77 && row.want != -1 {
				got = within(t, sizes)
			}
			if want := max(row.want, 0); row.want == -1 && got != 77 || row.want != -1 && got != want {
				t.Errorf("got %d bytes, want %d", got, row.want)
			}
		})
	}
}

func TestUnknownProtocolsAreAnswered(t *testing.T) {
	_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) { r.Drop() })}, nil)
	for _, proto := range []byte{4, 41, 47, 50, 132} {
		pkt := unknown("10.0.0.2", "203.0.113.9", proto)
		w.send(pkt)
		p := w.expect("ICMP error", func(p packet.Packet) bool { return p.Proto == packet.ProtoICMP4 })
		if p.Body[0] != 3 || p.Body[1] != 2 || p.Src.String() != "203.0.113.9" || !bytes.Equal(p.Body[8:], pkt) {
			t.Errorf("protocol %d: got type %d, code %d from %v, want 3, 2 (protocol unreachable) that quotes the packet", proto, p.Body[0], p.Body[1], p.Src)
		}
	}
	pkt := unknown("fd00::2", "2001:db8::9", 47)
	w.send(pkt)
	p := w.expect("ICMPv6 error", func(p packet.Packet) bool { return p.Proto == packet.ProtoICMP6 })
	if p.Body[0] != 4 || p.Body[1] != 1 || binary.BigEndian.Uint32(p.Body[4:]) != 6 || !bytes.Equal(p.Body[8:], pkt) {
		t.Errorf("got % x, want parameter problem 4, code 1 that points at byte 6", p.Body[:8])
	}
	w.send(unknown("fd00::2", "2001:db8::9", 59))
	w.none("answer to no next header", func(p packet.Packet) bool { return p.Proto == packet.ProtoICMP6 })
	for range 500 {
		w.send(unknown("10.0.0.2", "203.0.113.9", 47))
	}
	time.Sleep(50 * time.Millisecond) // for the last to be answered
	if got := len(w.in); got > 250 {
		t.Errorf("got %d answers to 500 packets, want them rate-limited", got)
	}
}

// whole collects what a sender sends in fragments, as far as it is sent in order.
func (w *wire) whole(proto byte) []byte {
	var all []byte
	for {
		p := w.expect("fragment", func(packet.Packet) bool { return true })
		if !p.Fragment {
			return p.Body
		}
		if p.Src.Is6() {
			all = append(all, p.Body[8:]...)
			if p.Body[3]&1 == 0 {
				return all
			}
			continue
		}
		all = append(all, p.Body...)
		if p.Raw[6]&0x20 == 0 {
			return all
		}
	}
}

func TestTheLargestDatagramsPass(t *testing.T) {
	p := newPair(t, byPipe, Limits{}, echo)
	for _, row := range []struct {
		network, addr string
		size          int
	}{
		{"udp", "203.0.113.9:4000", 65507},
		{"udp", "[2001:db8::9]:4000", 65527},
		{"ping", "203.0.113.9:0", 4 + 65400},
		{"ping", "203.0.113.9:0", 4 + 65500},
		{"ping", "203.0.113.9:0", 4 + 65507},
		{"ping", "[2001:db8::9]:0", 4 + 65507},
		{"ping", "[2001:db8::9]:0", 4 + 65527},
	} {
		c := p.dial(t, row.network, row.addr)
		want := make([]byte, row.size)
		for i := range want {
			want[i] = byte(i * 7)
		}
		if _, err := c.Write(want); err != nil {
			t.Errorf("%s of %d bytes: %v", row.network, row.size, err)
			continue
		}
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		got := make([]byte, link.MaxPacket+1)
		n, err := c.Read(got)
		if err != nil || !bytes.Equal(got[:n], want) {
			t.Errorf("%s of %d bytes to %s: got %d bytes, %v", row.network, row.size, row.addr, n, err)
		}
		if _, err := c.Write(make([]byte, link.MaxPacket)); !errors.Is(err, syscall.EMSGSIZE) && strings.Contains(row.addr, ".") {
			t.Errorf("%s of %d bytes: got %v, want EMSGSIZE", row.network, link.MaxPacket, err)
		}
	}
}

func TestTheStacksOwnAddressAnswersTheLargestPing(t *testing.T) {
	_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) { r.Drop() })}, nil)
	pkt := echoRequest("10.0.0.2", "10.0.0.1", 65507)
	for i := range pkt[28:] {
		pkt[28+i] = byte(i * 3)
	}
	packet.PutEcho(pkt[20:], true, netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.1"))
	for off := 0; off < len(pkt)-20; off += 1480 {
		n := min(1480, len(pkt)-20-off)
		f := append(bytes.Clone(pkt[:20]), pkt[20+off:20+off+n]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		packet.PutFragment4(f, 9, off, off+n < len(pkt)-20)
		w.send(f)
	}
	if got := w.whole(packet.ProtoICMP4); len(got) != 65515 || !bytes.Equal(got[8:], pkt[28:]) {
		t.Errorf("got %d bytes back, want 65515", len(got))
	}
}

// TestAStackThatServesNobodyAnswersForItself sends it packets that are for others.
func TestAStackThatServesNobodyAnswersForItself(t *testing.T) {
	_, w := newWire(t, Config{Name: "far", Addrs: farAddrs}, nil)
	for _, ends := range crossingEnds {
		from, other := ends[0], ends[1]
		own := netip.AddrPortFrom(farEnd(from.Addr()), 80)
		for name, to := range map[string]func(dst netip.AddrPort) []byte{
			"SYN":      func(dst netip.AddrPort) []byte { return segment(from, dst, 100, 0, flagSYN, nil) },
			"ACK":      func(dst netip.AddrPort) []byte { return segment(from, dst, 100, 100, flagACK, nil) },
			"datagram": func(dst netip.AddrPort) []byte { return udpFrom(from, dst, []byte("x")) },
			"ping":     func(dst netip.AddrPort) []byte { return echoRequest(from.Addr().String(), dst.Addr().String(), 40) },
		} {
			w.send(to(other))
			w.send(to(own))
			if p := w.expect("answer", func(packet.Packet) bool { return true }); p.Src != own.Addr() {
				t.Errorf("a %s for %v was answered", name, other.Addr())
			}
		}
	}
}

func TestUnreachableOnTheWire(t *testing.T) {
	wrapped := func(err error) error { return &os.SyscallError{Syscall: "connect", Err: err} }
	for _, row := range []struct {
		err          error
		code4, code6 int // of "destination unreachable"; -1: RST for TCP, port unreachable for UDP
	}{
		{wrapped(syscall.ECONNREFUSED), -1, -1},
		{wrapped(syscall.EHOSTUNREACH), 1, 3},
		{wrapped(syscall.ENETUNREACH), 0, 0},
		{wrapped(syscall.EACCES), 13, 1},
		{wrapped(syscall.EPERM), 13, 1},
		{wrapped(syscall.ENOPROTOOPT), 2, 4},
		{context.DeadlineExceeded, -1, -1},
		{nil, -1, -1},
	} {
		_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) { r.Unreachable(row.err) })}, nil)
		for _, ends := range []struct {
			src, dst   netip.AddrPort
			kind, code int
			port       int
		}{
			{addr("10.0.0.2:100"), web, 3, row.code4, 3},
			{addr("[fd00::2]:100"), addr("[2001:db8::9]:80"), 1, row.code6, 4},
		} {
			icmp := func(p packet.Packet) bool { return p.Proto == packet.ICMPProto(ends.src.Addr()) }
			w.send(segment(ends.src, ends.dst, 0xabcdef01, 0, flagSYN, nil))
			if ends.code < 0 {
				w.expect("RST", isTCP(ends.dst, ends.src, flagRST))
			} else {
				p := w.expect("ICMP error", icmp)
				quoted := p.Body[8+packet.HeaderLen(p.Src):]
				if int(p.Body[0]) != ends.kind || int(p.Body[1]) != ends.code || p.Src != ends.dst.Addr() ||
					binary.BigEndian.Uint16(quoted) != 100 || binary.BigEndian.Uint32(quoted[4:]) != 0xabcdef01 {
					t.Errorf("%v: got % x, want type %d, code %d that quotes port and sequence number", row.err, p.Body[:8], ends.kind, ends.code)
				}
			}
			code := ends.code
			if code < 0 {
				code = ends.port
			}
			for range 2 { // the second is answered from memory
				w.send(udpFrom(ends.src, ends.dst, []byte("x")))
				p := w.expect("ICMP error", icmp)
				if int(p.Body[0]) != ends.kind || int(p.Body[1]) != code {
					t.Errorf("%v: UDP got % x, want type %d, code %d", row.err, p.Body[:8], ends.kind, code)
				}
			}
		}
	}
}

// A dial fails with the errno that a kernel would give for the ICMP error.
func TestDialsTellICMPErrorsApart(t *testing.T) {
	for _, cause := range []syscall.Errno{syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES} {
		p := newPair(t, byPipe, Limits{}, func(_ context.Context, r *Request) { r.Unreachable(cause) })
		for _, address := range []string{"203.0.113.9:80", "[2001:db8::9]:80"} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			if _, err := p.client.DialContext(ctx, "tcp", address); !errors.Is(err, cause) {
				t.Errorf("tcp %s: got %v, want %v", address, err, cause)
			}
			cancel()
			c := p.dial(t, "udp", address)
			c.Write([]byte("x"))
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 10)); !errors.Is(err, cause) {
				t.Errorf("udp %s: got %v, want %v", address, err, cause)
			}
		}
	}
}

func TestForgedICMPErrorsChangeNothing(t *testing.T) {
	p := newPair(t, byPipe, Limits{}, echo)
	c := p.dial(t, "tcp", "203.0.113.9:80")
	from := c.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort()
	sender{p.server}.unreachableTCP(from, web, 12345, packet.WhyHost)
	sender{p.server}.unreachableTCP(addr("10.0.0.2:9"), web, 12345, packet.WhyHost)
	sender{p.server}.sendICMPError(web.Addr(), from.Addr(), packet.Unreachable4, 1, 0, []byte("short"))
	sender{p.server}.sendICMPError(web.Addr(), from.Addr(), packet.Unreachable4, 1, 0, make([]byte, 40))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("the connection ended with %v", err)
	}
}
