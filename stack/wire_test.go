package stack

import (
	"context"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// wire is the far end of the stack under test, at which a test sends and reads bare packets.
//
//	test ---- wire ---- stack (answers for every address)
type wire struct {
	t    testing.TB
	port link.Port
	in   chan packet.Packet
}

// newWire makes a stack of c, with a wire, and with addresses unless c has some. clock, unless nil, is the stack's.
func newWire(t testing.TB, c Config, clock func() int64) (*Stack, *wire) {
	t.Helper()
	if c.Addrs == nil {
		c.Name, c.Addrs = "server", serverAddrs
	}
	if clock == nil {
		start := time.Now()
		clock = func() int64 { return int64(time.Since(start)) }
	}
	s, err := open(c, clock)
	if err != nil {
		t.Fatal(err)
	}
	near, far := link.Pipe(1500)
	w := &wire{t: t, port: far, in: make(chan packet.Packet, 4096)}
	if err := s.Attach(near); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go w.read(done)
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return s, w
}

func (w *wire) read(done chan<- struct{}) {
	defer close(done)
	for {
		pkts := []link.Packet{{Data: make([]byte, link.MaxPacket)}}
		if _, err := w.port.Read(pkts); err != nil {
			return
		}
		p, reason := packet.Parse(pkts[0].Meta, pkts[0].Data)
		if reason != "" {
			w.t.Errorf("the stack sent a packet that it would drop itself: %s: %x", reason, pkts[0].Data)
			continue
		}
		select {
		case w.in <- p:
		default: // nobody asks for so many
		}
	}
}

func (w *wire) send(b []byte) {
	w.t.Helper()
	if err := w.port.Write(link.Meta{}, [][]byte{b}); err != nil {
		w.t.Fatal(err)
	}
}

// expect returns the next packet that is like what the test waits for.
func (w *wire) expect(what string, like func(packet.Packet) bool) packet.Packet {
	w.t.Helper()
	late := time.After(5 * time.Second)
	for {
		select {
		case p := <-w.in:
			if like(p) {
				return p
			}
		case <-late:
			w.t.Fatalf("no %s within 5 s", what)
		}
	}
}

// none checks that no such packet comes for a while.
func (w *wire) none(what string, like func(packet.Packet) bool) {
	w.t.Helper()
	late := time.After(200 * time.Millisecond)
	for {
		select {
		case p := <-w.in:
			if like(p) {
				w.t.Fatalf("got %s, want none: %x", what, p.Raw)
			}
		case <-late:
			return
		}
	}
}

const (
	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
)

// segment is a TCP segment with its IP header.
func segment(src, dst netip.AddrPort, seq, ack uint32, flags byte, data []byte) []byte {
	hdr := packet.HeaderLen(src.Addr())
	b := make([]byte, hdr+20+len(data))
	packet.PutIP(b, packet.ProtoTCP, src.Addr(), dst.Addr(), 20+len(data))
	h := b[hdr:]
	packet.PutPorts(h, src, dst)
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13], h[14], h[15] = 5<<4, flags, 0xff, 0xff
	copy(h[20:], data)
	binary.BigEndian.PutUint16(h[16:], link.Checksum(h, packet.PseudoHeader(packet.ProtoTCP, src.Addr(), dst.Addr(), len(h))))
	return b
}

// udpFrom is a UDP datagram with its IP header.
func udpFrom(src, dst netip.AddrPort, data []byte) []byte {
	hdr := packet.HeaderLen(src.Addr())
	b := make([]byte, hdr+8+len(data))
	packet.PutIP(b, packet.ProtoUDP, src.Addr(), dst.Addr(), 8+len(data))
	h := b[hdr:]
	packet.PutPorts(h, src, dst)
	binary.BigEndian.PutUint16(h[4:], uint16(len(h)))
	copy(h[8:], data)
	binary.BigEndian.PutUint16(h[6:], link.Checksum(h, packet.PseudoHeader(packet.ProtoUDP, src.Addr(), dst.Addr(), len(h))))
	return b
}

// fragments cuts a packet, made by the functions above, into two fragments.
func fragments(b []byte, at int) [][]byte {
	if b[0]>>4 == 4 {
		first, second := append([]byte(nil), b[:20+at]...), append([]byte(nil), b[:20]...)
		second = append(second, b[20+at:]...)
		for _, f := range [][]byte{first, second} {
			binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		}
		packet.PutFragment4(first, 77, 0, true)
		packet.PutFragment4(second, 77, at, false)
		return [][]byte{first, second}
	}
	var list [][]byte
	for _, part := range []struct {
		body []byte
		off  int
		more bool
	}{{b[40 : 40+at], 0, true}, {b[40+at:], at, false}} {
		f := make([]byte, 48, 48+len(part.body))
		copy(f, b[:40])
		packet.PutFragment6(f[40:], b[6], 77, part.off, part.more)
		f[6] = packet.ProtoFragment6
		f = append(f, part.body...)
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		list = append(list, f)
	}
	return list
}

// isTCP says that a packet is a TCP segment from one end to the other, with all of flags and none of RST unless asked.
func isTCP(src, dst netip.AddrPort, flags byte) func(packet.Packet) bool {
	return func(p packet.Packet) bool {
		return p.Proto == packet.ProtoTCP && p.Src == src.Addr() && p.Dst == dst.Addr() && len(p.Body) >= 20 &&
			binary.BigEndian.Uint16(p.Body) == src.Port() && binary.BigEndian.Uint16(p.Body[2:]) == dst.Port() &&
			p.Body[13]&flags == flags && p.Body[13]&flagRST == flags&flagRST
	}
}

// shake completes a handshake that the client begins, and returns the client's and the server's next sequence number.
func (w *wire) shake(src, dst netip.AddrPort) (mine, theirs uint32) {
	w.t.Helper()
	w.send(segment(src, dst, 1000, 0, flagSYN, nil))
	p := w.expect("SYN-ACK", isTCP(dst, src, flagSYN|flagACK))
	theirs = binary.BigEndian.Uint32(p.Body[4:]) + 1
	w.send(segment(src, dst, 1001, theirs, flagACK, nil))
	return 1001, theirs
}

// within receives from c, with patience.
func within[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(5 * time.Second):
		t.Fatal("nothing came within 5 s")
	}
	return v
}

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var web = addr("203.0.113.9:80")

// byNetwork makes the networks 10.0.x.0/24 and fd00:0:0:x::/64 client x. Client 0 and all other addresses are nobody.
func byNetwork(a netip.Addr) (uint64, bool) {
	switch {
	case a.Is4() && netip.MustParsePrefix("10.0.0.0/16").Contains(a):
		return uint64(a.As4()[2]), a.As4()[2] != 0
	case netip.MustParsePrefix("fd00::/48").Contains(a):
		b := a.As16()
		return uint64(b[7]), b[7] != 0
	}
	return 0, false
}

// atOnce is a Handler nothing of which waits.
func atOnce(handle func(life context.Context, r *Request)) Handler {
	return func(life context.Context, r *Request) func(context.Context) {
		handle(life, r)
		return nil
	}
}

// keeping accepts every flow, sends each to the channel and keeps it until the stack closes or it ends.
func keeping(flows chan<- *kept) func(context.Context, *Request) {
	return func(ctx context.Context, r *Request) {
		c, err := r.Accept()
		k := &kept{r: r, err: err, ended: make(chan error, 1)}
		flows <- k
		if err != nil {
			return
		}
		for {
			b := make([]byte, link.MaxPacket)
			n, err := c.Read(b)
			if err != nil {
				k.ended <- err
				return
			}
			k.bytes.Add(int64(n))
		}
	}
}

// kept is a flow that keeping has seen.
type kept struct {
	r     *Request
	err   error // of Accept
	ended chan error
	bytes atomic.Int64
}

// over reports whether the flow has ended, with patience for it to end.
func (k *kept) over(patience time.Duration) bool {
	select {
	case err := <-k.ended:
		k.ended <- err
		return true
	case <-time.After(patience):
		return false
	}
}
