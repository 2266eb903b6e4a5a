package stack

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/nic"
	"penstock/stack/packet"
	"penstock/stack/stream"
)

// udpPacket is a packet from port 4000 to port 443.
func udpPacket(from, to string, size int) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	hdr := packet.HeaderLen(src)
	b := make([]byte, hdr+8+size)
	packet.PutIP(b, packet.ProtoUDP, src, dst, 8+size)
	t := b[hdr:]
	binary.BigEndian.PutUint16(t, 4000)
	binary.BigEndian.PutUint16(t[2:], 443)
	binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	binary.BigEndian.PutUint16(t[6:], link.Checksum(t, packet.PseudoHeader(packet.ProtoUDP, src, dst, len(t))))
	return b
}

// A datagram that comes in finds its flow among others, is queued and read.
func BenchmarkDatagramIn(b *testing.B) {
	for _, flows := range []int{1, 1000} {
		b.Run(fmt.Sprintf("%d flows", flows), func(b *testing.B) {
			accepted := make(chan net.Conn, flows)
			p := newPair(b, byPipe, Limits{}, func(ctx context.Context, r *Request) {
				c, err := r.Accept()
				if err != nil {
					return
				}
				accepted <- c
				<-ctx.Done()
			})
			pkt := udpPacket("10.0.0.2", "203.0.113.9", 1200)
			conns := make(map[string]net.Conn)
			for i := range flows {
				c := p.dial(b, "udp", fmt.Sprintf("203.0.113.%d:%d", i%200+1, 5000+i/200))
				if _, err := c.Write(pkt[28:]); err != nil {
					b.Fatal(err)
				}
				in := <-accepted
				conns[in.RemoteAddr().String()] = in
			}
			var in net.Conn
			for _, in = range conns {
				break
			}
			d := in.(*datagram.Conn)
			addrs := d.Key().Pair
			buf := make([]byte, 1500)
			if _, err := in.Read(buf); err != nil { // the first, which opened it
				b.Fatal(err)
			}
			b.SetBytes(1200)
			b.ReportAllocs()
			for b.Loop() {
				p.server.flows.Arrived(datagram.UDP, addrs, pkt[28:], packet.Manner{Whole: true})
				if _, err := in.Read(buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A batch as an encrypted transport writes it, of datagrams that reach their flow and are read by nobody.
func BenchmarkDeviceWrite(b *testing.B) {
	s, err := New(Config{Name: "server", Addrs: serverAddrs, Handle: Waiting(func(ctx context.Context, r *Request) { r.Drop() })})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	d := s.Device()
	const headroom = 16
	pkt := append(make([]byte, headroom), udpPacket("10.0.0.2", "203.0.113.9", 1400)...)
	bufs := make([][]byte, nic.Batch)
	for i := range bufs {
		bufs[i] = pkt
	}
	b.SetBytes(int64(nic.Batch * (len(pkt) - headroom)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := d.Write(bufs, headroom); err != nil {
			b.Fatal(err)
		}
	}
}

// Packets of the stack's own as an encrypted transport reads them.
// A datagram of a flow that crosses, from the client's link to the queue of an encrypted transport and out of it, as against one whose
// flow ends here and is dialled anew.
func BenchmarkDatagramThrough(b *testing.B) {
	for _, way := range []string{"crosses", "ends"} {
		b.Run(way, func(b *testing.B) {
			far, err := New(Config{Name: "far", MTU: 1420, Addrs: farAddrs})
			if err != nil {
				b.Fatal(err)
			}
			defer far.Close()
			passed := make(chan struct{})
			near, err := New(Config{Name: "near", Addrs: serverAddrs, Handle: Waiting(func(ctx context.Context, r *Request) {
				defer close(passed)
				if way == "crosses" {
					if _, err := r.PassDatagrams(far, DatagramPassage{}); err != nil {
						b.Error(err)
					}
					return
				}
				client, err := r.Accept()
				if err != nil {
					return
				}
				server, err := far.DialContext(ctx, "udp", r.Dst.String())
				if err != nil {
					b.Error(err)
					return
				}
				go client.(*datagram.Conn).Each(server.(*datagram.Conn).WriteAll)
				passed <- struct{}{}
				<-ctx.Done()
			})})
			if err != nil {
				b.Fatal(err)
			}
			defer near.Close()
			pkt, in := udpPacket("10.0.0.2", "203.0.113.9", 1200), make([]byte, 1500)
			bufs, sizes := make([][]byte, nic.Batch), make([]int, nic.Batch)
			for i := range bufs {
				bufs[i] = make([]byte, 1600)
			}
			out := far.Device()
			send := func() {
				copy(in, pkt)
				receiver{near}.inboundBatch([][]byte{in[:len(pkt)]}, 0)
			}
			send()
			<-passed
			if _, err := out.Read(bufs, sizes, 0); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(1200)
			b.ReportAllocs()
			for b.Loop() {
				send()
				if _, err := out.Read(bufs, sizes, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDeviceRead(b *testing.B) {
	s, err := New(Config{Name: "client", Addrs: clientAddrs})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	d := s.Device()
	c, err := s.DialContext(b.Context(), "udp", "203.0.113.9:443")
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 1400)
	bufs, sizes := make([][]byte, nic.Batch), make([]int, nic.Batch)
	for i := range bufs {
		bufs[i] = make([]byte, 2048)
	}
	b.SetBytes(nic.Batch * 1400)
	b.ReportAllocs()
	for b.Loop() {
		for range nic.Batch {
			if _, err := c.Write(data); err != nil {
				b.Fatal(err)
			}
		}
		for got := 0; got < nic.Batch; {
			n, err := d.Read(bufs, sizes, 16)
			if err != nil {
				b.Fatal(err)
			}
			got += n
		}
	}
}

// relayed is a client's connection through a server stack to a socket of the machine, whose far end serve has.
func relayed(b *testing.B, how joint, serve func(net.Conn)) net.Conn {
	b.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan struct{})
	b.Cleanup(func() {
		ln.Close()
		<-served
	})
	go func() {
		defer close(served)
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	}()
	p := newPair(b, how, Limits{}, func(ctx context.Context, r *Request) {
		up, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		if err != nil {
			return
		}
		defer up.Close()
		c, err := r.Accept()
		if err != nil {
			return
		}
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			c.(io.WriterTo).WriteTo(up)
			up.(*net.TCPConn).CloseWrite()
		}()
		c.(io.ReaderFrom).ReadFrom(up)
		c.(interface{ CloseWrite() error }).CloseWrite()
		<-sent
	})
	return p.dial(b, "tcp", "203.0.113.9:80")
}

// What the client's stack takes is counted, which is ahead of what has arrived by the buffers on the way.
func BenchmarkRelayUp(b *testing.B) {
	for _, how := range []joint{byPipe, byDevice} {
		b.Run(string(how), func(b *testing.B) {
			c := relayed(b, how, func(far net.Conn) { io.Copy(io.Discard, far) })
			data := make([]byte, 256<<10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			c.(*stream.Conn).CloseWrite()
			io.Copy(io.Discard, c)
		})
	}
}

func BenchmarkRelayDown(b *testing.B) {
	for _, how := range []joint{byPipe, byDevice} {
		b.Run(string(how), func(b *testing.B) {
			c := relayed(b, how, func(far net.Conn) {
				data := make([]byte, 256<<10)
				for {
					if _, err := far.Write(data); err != nil {
						return
					}
				}
			})
			data := make([]byte, 256<<10)
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.ReadFull(c, data); err != nil {
					b.Fatal(err)
				}
			}
			c.(*stream.Conn).Abort()
		})
	}
}

// What accepted connections cost that wait for the rest of their first message.
func BenchmarkIdleConnections(b *testing.B) {
	const conns = 2000
	for _, row := range []struct {
		name string
		data []byte
	}{
		{"silent", nil},
		{"after 43 bytes", make([]byte, 43)},
	} {
		b.Run(row.name, func(b *testing.B) {
			accepted := make(chan struct{}, conns)
			_, w := newWire(b, Config{Handle: Waiting(func(_ context.Context, r *Request) {
				c, err := r.Accept()
				if err != nil {
					return
				}
				if row.data != nil {
					io.ReadFull(c, make([]byte, len(row.data)))
				}
				accepted <- struct{}{}
				var one [1]byte
				c.Read(one[:])
			})}, nil)
			before := memory()
			for b.Loop() {
				for i := range conns {
					src := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i+1))
					mine, theirs := w.shake(src, web)
					if row.data != nil {
						w.send(segment(src, web, mine, theirs, flagACK|flagPSH, row.data))
					}
					<-accepted
				}
				b.ReportMetric(float64(memory()-before)/conns, "B/conn")
				for i := range conns { // the ports are free again for the next round
					w.send(segment(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i+1)), web, 1001+uint32(len(row.data)), 0, flagRST, nil))
				}
			}
		})
	}
}

// memory is what heap and goroutines hold.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
