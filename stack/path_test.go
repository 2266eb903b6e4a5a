package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/localport"
	"penstock/stack/packet"
)

// mayBeCut clears DF.
func mayBeCut(b []byte) []byte {
	b[6], b[10], b[11] = 0, 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
	return b
}

func TestAClientHearsOfANarrowPathBeyond(t *testing.T) {
	for _, row := range []struct {
		name       string
		src, dst   netip.AddrPort
		mtu        int // of the path
		kind, code byte
		want       int // in the answer
	}{
		{"IPv4", addr("10.0.0.2:100"), web, 1300, 3, 4, 1300},
		{"IPv6", addr("[fd00::2]:100"), addr("[2001:db8::9]:80"), 1300, 2, 0, 1300},
		{"IPv6 below its minimum", addr("[fd00::2]:100"), addr("[2001:db8::9]:80"), 900, 2, 0, 1280},
	} {
		t.Run(row.name, func(t *testing.T) {
			sizes, conns := make(chan int, 10), make(chan net.Conn, 1)
			_, w := newWire(t, Config{Handle: Waiting(func(_ context.Context, r *Request) {
				c, err := r.Accept()
				if err != nil {
					return
				}
				conns <- c
				for {
					n, err := c.Read(make([]byte, 2000))
					if err != nil {
						return
					}
					sizes <- n
				}
			})}, nil)
			tooBig := func(size int) {
				t.Helper()
				p := w.expect("ICMP error", func(p packet.Packet) bool { return p.Proto == packet.ICMPProto(p.Src) })
				quoted, ok := packet.Quoted(p.Body[8:])
				if !ok || p.Body[0] != row.kind || p.Body[1] != row.code || int(binary.BigEndian.Uint32(p.Body[4:])) != row.want {
					t.Fatalf("got % x, want type %d, code %d, MTU %d", p.Body[:8], row.kind, row.code, row.want)
				}
				if quoted.Src != row.src.Addr() || quoted.Dst != row.dst.Addr() || int(binary.BigEndian.Uint16(quoted.Body[4:])) != 8+size {
					t.Errorf("it quotes % x, not the datagram of %d bytes from %v to %v", quoted.Raw, size, row.src, row.dst)
				}
			}
			w.send(udpFrom(row.src, row.dst, make([]byte, 1400)))
			if got := within(t, sizes); got != 1400 {
				t.Fatalf("got %d bytes, want 1400", got)
			}
			within(t, conns).(interface{ SetPathMTU(int) }).SetPathMTU(row.mtu)
			tooBig(1400) // the one that was lost
			w.send(udpFrom(row.src, row.dst, make([]byte, 1401)))
			tooBig(1401)
			w.send(udpFrom(row.src, row.dst, make([]byte, 1000)))
			if got := within(t, sizes); got != 1000 {
				t.Errorf("got %d bytes, want the 1000 that fit", got)
			}
			if row.src.Addr().Is4() {
				w.send(mayBeCut(udpFrom(row.src, row.dst, make([]byte, 1402))))
				if got := within(t, sizes); got != 1402 {
					t.Errorf("got %d bytes, want 1402, which may be cut on the way", got)
				}
			}
		})
	}
}

// The MTU of a path is forgotten after ten minutes, so that a client notices when it has grown.
func TestANarrowPathIsForgotten(t *testing.T) {
	var clock atomic.Int64
	sizes, conns := make(chan int, 10), make(chan net.Conn, 1)
	_, w := newWire(t, Config{
		Limits: Limits{UDPIdle: time.Hour},
		Handle: Waiting(func(_ context.Context, r *Request) {
			c, _ := r.Accept()
			conns <- c
			for {
				n, err := c.Read(make([]byte, 2000))
				if err != nil {
					return
				}
				sizes <- n
			}
		}),
	}, clock.Load)
	src := addr("10.0.0.2:100")
	w.send(udpFrom(src, web, make([]byte, 10)))
	within(t, sizes)
	within(t, conns).(interface{ SetPathMTU(int) }).SetPathMTU(1300)
	clock.Add(int64(11 * time.Minute))
	w.send(udpFrom(src, web, make([]byte, 1400)))
	if got := within(t, sizes); got != 1400 {
		t.Errorf("got %d bytes, want 1400", got)
	}
}

func TestADialledFlowSurvivesANarrowPath(t *testing.T) {
	for _, row := range []struct {
		name     string
		src, dst netip.AddrPort
		told     uint32 // MTU in the ICMP error
		want     int
	}{
		{"IPv4", addr("10.0.0.1:0"), web, 1300, 1300},
		{"IPv4, from a router that does not know", addr("10.0.0.1:0"), web, 0, 576},
		{"IPv6", addr("[fd00::1]:0"), addr("[2001:db8::9]:80"), 1300, 1300},
		{"IPv6, forged", addr("[fd00::1]:0"), addr("[2001:db8::9]:80"), 1, 1280},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, w := newWire(t, Config{}, nil)
			c, err := s.DialContext(t.Context(), "udp", row.dst.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.Write(make([]byte, 1400))
			sent := w.expect("a datagram", func(p packet.Packet) bool { return p.Proto == packet.ProtoUDP && !p.Fragment })
			kind, code := byte(packet.PacketTooBig6), byte(0)
			if row.dst.Addr().Is4() {
				kind, code = packet.Unreachable4, packet.FragmentationNeeded
			}
			b := packet.ICMPError(row.dst.Addr(), row.src.Addr(), kind, code, row.told, sent.Raw[:packet.HeaderLen(sent.Src)+8])
			packet.PutIP(b, packet.ICMPProto(row.src.Addr()), row.dst.Addr(), row.src.Addr(), len(b)-packet.HeaderLen(sent.Src))
			w.send(b)
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if _, err := c.Read(make([]byte, 10)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Fatalf("got %v, want EMSGSIZE", err)
			}
			if got := c.(interface{ PathMTU() int }).PathMTU(); got != row.want {
				t.Errorf("got a path MTU of %d, want %d", got, row.want)
			}
			c.Write(make([]byte, 1400)) // the flow goes on, in pieces that fit
			p := w.expect("a fragment", func(p packet.Packet) bool { return p.Fragment })
			if len(p.Raw) > row.want || len(p.Raw) < row.want-16 {
				t.Errorf("got a fragment of %d bytes, want about %d", len(p.Raw), row.want)
			}
			local := c.LocalAddr().(*net.UDPAddr).AddrPort()
			w.send(udpFrom(row.dst, local, []byte("answer")))
			if n, err := c.Read(make([]byte, 10)); n != 6 || err != nil {
				t.Errorf("got %d bytes, %v, want the answer", n, err)
			}
			w.send(udpFrom(row.dst, local, make([]byte, 1400))) // the way back may be wider
			if n, err := c.Read(make([]byte, 2000)); n != 1400 || err != nil {
				t.Errorf("got %d bytes, %v, want the 1400 that came through", n, err)
			}
		})
	}
}

func TestDialsShareALocalPort(t *testing.T) {
	s, _ := newWire(t, Config{}, nil)
	port := func(ctx context.Context, to string) uint16 {
		t.Helper()
		c, err := s.DialContext(ctx, "udp", to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	}
	first := port(localport.With(t.Context(), 0), "203.0.113.1:53")
	shared := localport.With(t.Context(), first)
	for _, to := range []string{"203.0.113.1:54", "203.0.113.2:53"} {
		if got := port(shared, to); got != first {
			t.Errorf("%s is reached from port %d, want %d", to, got, first)
		}
	}
	if got := port(shared, "203.0.113.1:53"); got == first || got == 0 {
		t.Errorf("a second flow to the same address has port %d, want another than the first's %d", got, first)
	}
}
