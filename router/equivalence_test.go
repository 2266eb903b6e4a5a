package router_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/policy"
	"penstock/router"
	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/transit"
)

// noBets refuses every flow that shows a name of bad.bet.
type noBets struct{}

func (noBets) Decide(f policy.Flow) policy.Verdict {
	for _, n := range f.Names {
		if n.Host == "bad.bet" {
			return policy.Verdict{Rule: "no-gambling"}
		}
	}
	v := policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: policy.LaterBlock}
	if f.Sniffed {
		v.Later = policy.LaterNothing
	}
	return v
}

// anybody are clients of whom nothing is known.
type anybody struct{}

func (anybody) Describe(*policy.Flow) bool          { return true }
func (anybody) Names(*policy.Flow) (release func()) { return func() {} }
func (anybody) Confirm(context.Context, policy.Flow, string) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}

// oneWay is a way out that dials a pipe. carries says that it carries packets too.
type oneWay struct {
	server  net.Conn
	carries bool
}

func (w oneWay) Dialer(string) (router.Dialer, bool) { return w, true }
func (oneWay) Place(uint64, netip.Addr) policy.Place { return policy.Elsewhere }
func (oneWay) IsNotUp(error) bool                    { return false }
func (w oneWay) Carrier(string, policy.Network, netip.Addr) (router.Carrier, bool) {
	return w, w.carries
}
func (w oneWay) DialContext(context.Context, string, string) (net.Conn, error) { return w.server, nil }

var (
	equivalentClient = netip.MustParseAddrPort("10.77.0.2:40000")
	equivalentServer = netip.MustParseAddr("203.0.113.9")
	equivalentMapped = netip.MustParseAddrPort("10.9.0.2:41000")
)

// outcome is what became of a stream.
type outcome struct {
	blocked bool
	over    bool   // penstock ended the flow, for whatever reason
	heard   []byte // by the server
}

// heard is what a server has been sent.
type heard struct {
	mu sync.Mutex
	b  []byte
}

func (h *heard) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, b...)
	return len(b), nil
}

// accepting answers the client of a flow that ends in the router.
type accepting struct{ near net.Conn }

func (a accepting) Accept() (net.Conn, error) { return a.near, nil }
func (accepting) Refuse()                     {}
func (accepting) Unreachable(error)           {}
func (accepting) Drop()                       {}

// terminated sends a stream through a flow that ends in the router.
func terminated(t *testing.T, stream []byte, port uint16) (out outcome) {
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		up, server := net.Pipe()
		ended := make(chan router.Flow, 1)
		r, err := router.New(router.Config{Policy: noBets{}, Clients: anybody{}, Ways: oneWay{server: up}, Ended: func(f router.Flow) { ended <- f }})
		if err != nil {
			t.Fatal(err)
		}
		h := new(heard)
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() { io.Copy(h, server) })
		wg.Go(func() { io.Copy(io.Discard, client) })
		wg.Go(func() { client.Write(stream) })
		wg.Go(func() {
			r.Handle(ctx, router.Request{
				Network: policy.TCP, Src: equivalentClient, Dst: netip.AddrPortFrom(equivalentServer, port), Answer: accepting{near},
			})
		})
		synctest.Wait()
		if flows := r.Flows(); len(flows) == 1 {
			out.blocked = flows[0].Verdict.Action != policy.Forward
		} else {
			out.blocked, out.over = (<-ended).Verdict.Action != policy.Forward, true
		}
		cancel()
		for _, c := range []net.Conn{client, near, up, server} {
			c.Close()
		}
		wg.Wait()
		out.heard = h.b
	})
	return out
}

// passing lets the packets of a flow cross to a server that believes every byte that it is sent.
type passing struct {
	accepting
	port uint16
	flow *transit.Flow
	w    router.Watch

	mu          sync.Mutex
	first, last map[int]byte // what the server was sent first, and last, at each place of the stream
	acked       int          // bytes
}

const isn = 1000

func (p *passing) PassDatagrams(router.Carrier, router.DatagramWatch) (router.PassedDatagrams, error) {
	return nil, errors.ErrUnsupported
}

func (p *passing) Pass(_ router.Carrier, w router.Watch, read func([]byte)) (router.PassedStream, error) {
	p.w = w
	p.flow = transit.New(transit.Config{
		Client: equivalentClient, Server: netip.AddrPortFrom(equivalentServer, p.port), Mapped: equivalentMapped, ISN: isn, MTU: 1500,
		Read: read, Owner: p,
	}, 0)
	p.client(segment(equivalentClient, p.flow.Server, isn, 0, 0x02, nil))
	p.server(segment(p.flow.Server, equivalentMapped, 7000, isn+1, 0x12, nil))
	return aborting{p.flow}, nil
}

// aborting is a flow as the router knows it.
type aborting struct{ *transit.Flow }

func (a aborting) Abort() { a.Reset() }

func (p *passing) ToServer(_ link.Meta, b []byte) { p.hear(b) }
func (p *passing) ToClient(link.Meta, []byte)     {}
func (p *passing) Opened()                        { p.w.Opened() }
func (p *passing) Carries()                       {}
func (p *passing) Heard()                         { p.w.Heard() }
func (p *passing) Ended(transit.Result)           { p.w.Ended(nil) }

// client gives the flow a packet of the client's.
func (p *passing) client(b []byte) {
	h, fault := packet.Parse(link.Meta{}, b)
	if fault == "" && p.flow.FromClient(link.Meta{}, &h, 0) == transit.Cross {
		p.hear(h.Raw)
	}
}

func (p *passing) server(b []byte) {
	if h, fault := packet.Parse(link.Meta{}, b); fault == "" {
		p.flow.FromServer(link.Meta{}, &h, 0)
	}
}

// hear is the server's side.
func (p *passing) hear(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := int(int32(binary.BigEndian.Uint32(b[24:]) - isn - 1))
	for i, c := range b[20+int(b[32]>>4)*4:] {
		if at+i < p.acked {
			continue // a server that has acknowledged a byte keeps it
		}
		if _, was := p.first[at+i]; !was {
			p.first[at+i] = c
		}
		p.last[at+i] = c
	}
}

// ack acknowledges n more bytes of what has come.
func (p *passing) ack(n int) {
	p.mu.Lock()
	for ; n > 0; n-- {
		if _, was := p.first[p.acked]; !was {
			break
		}
		p.acked++
	}
	acked := p.acked
	p.mu.Unlock()
	p.server(segment(p.flow.Server, equivalentMapped, 7001, uint32(isn+1+acked), 0x10, nil))
}

// stream is what the server hears if it keeps what came first, or last.
func (p *passing) stream(of map[int]byte) (s []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; ; i++ {
		c, was := of[i]
		if !was {
			return s
		}
		s = append(s, c)
	}
}

// segment is a TCP segment with its IP header.
func segment(src, dst netip.AddrPort, seq, ack uint32, flags byte, data []byte) []byte {
	b := make([]byte, 40+len(data))
	packet.PutIP(b, packet.ProtoTCP, src.Addr(), dst.Addr(), 20+len(data))
	h := b[20:]
	packet.PutPorts(h, src, dst)
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[8:], ack)
	h[12], h[13], h[14], h[15] = 5<<4, flags, 0xff, 0xff
	copy(h[20:], data)
	binary.BigEndian.PutUint16(h[16:], link.Checksum(h, packet.PseudoHeader(packet.ProtoTCP, src.Addr(), dst.Addr(), len(h))))
	return b
}

// crossed sends a stream through a flow whose packets cross, in segments as the trace says, and then whole. other is what a client
// that lies sends in its place. It returns what the server hears, if it keeps what came first and if it keeps what came last.
func crossed(t *testing.T, stream, other []byte, port uint16, trace []byte) (first, last outcome) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan router.Flow, 1)
		r, err := router.New(router.Config{Policy: noBets{}, Clients: anybody{}, Ways: oneWay{carries: true}, Ended: func(f router.Flow) { ended <- f }})
		if err != nil {
			t.Fatal(err)
		}
		p := &passing{port: port, first: make(map[int]byte), last: make(map[int]byte)}
		r.Handle(t.Context(), router.Request{
			Network: policy.TCP, Src: equivalentClient, Dst: netip.AddrPortFrom(equivalentServer, port), Answer: p,
		})
		if p.flow == nil {
			t.Fatal("the flow has not passed")
		}
		send := func(s []byte, from, to int) {
			from, to = min(from, len(s)), min(to, len(s))
			p.client(segment(equivalentClient, p.flow.Server, uint32(isn+1+from), 7001, 0x18, s[from:to]))
		}
		for ; len(trace) >= 4; trace = trace[4:] {
			at, n := int(trace[1])*8+int(trace[2]&7), int(trace[3])*6
			switch trace[0] & 7 {
			case 0, 1, 2:
				send(stream, at, at+n)
			case 3:
				send(other, at, at+n)
			case 4:
				synctest.Wait()
			case 5:
				p.ack(n)
			case 6:
				p.flow.Repeat()
			case 7: // what comes next
				send(stream, p.acked, p.acked+n)
				synctest.Wait()
				p.ack(n)
			}
		}
		for range 3 { // what is lost is repeated
			for at := 0; at < len(stream); at += 1000 {
				send(stream, at, at+1000)
				synctest.Wait()
				p.ack(len(stream))
				p.flow.Repeat()
			}
		}
		synctest.Wait()
		blocked, over := false, false
		if flows := r.Flows(); len(flows) == 1 {
			blocked = flows[0].Verdict.Action != policy.Forward
		} else {
			blocked, over = (<-ended).Verdict.Action != policy.Forward, true
		}
		p.flow.Reset()
		synctest.Wait()
		first, last = outcome{blocked, over, p.stream(p.first)}, outcome{blocked, over, p.stream(p.last)}
	})
	return first, last
}

// tlsHello is what a TLS client sends first.
func tlsHello(name string) []byte {
	near, far := net.Pipe()
	go tls.Client(near, &tls.Config{ServerName: name, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}).Handshake()
	buf := make([]byte, 16<<10)
	n, _ := far.Read(buf)
	far.Close()
	return buf[:n]
}

// pieces are what streams are made of. Their order is part of the corpus.
func pieces() [][]byte {
	get := func(host string) []byte { return []byte("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n") }
	return [][]byte{
		tlsHello("good.example"), tlsHello("bad.bet"), get("good.example"), get("bad.bet"),
		[]byte("POST /x HTTP/1.1\r\nHost: good.example\r\nContent-Length: 10\r\n\r\n0123456789"),
		[]byte("POST /x HTTP/1.1\r\nHost: good.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
		[]byte("SSH-2.0-client\r\n"), []byte("HELO\r\n"), []byte("\x00\x01\x02\x03"), []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		[]byte(strings.Repeat("word ", 100)), []byte("\r\n"), {0x16, 3, 1}, []byte("GET http://bad.bet/ HTTP/1.1\r\nHost: good.example\r\n\r\n"),
		{0x14, 3, 3, 0, 1, 1}, []byte("\x17\x03\x03\x00\x04data"), // a change of cipher, and what is encrypted
	}
}

// FuzzBothWaysGiveTheSameVerdict sends streams in segments that come in any order, repeated, overlapping and, of clients that lie, as
// others, through a flow whose packets cross. A server never hears what a flow that ends in penstock would not let through, and an
// honest client gets the same verdict.
func FuzzBothWaysGiveTheSameVerdict(f *testing.F) {
	list := pieces()
	for i := range byte(len(list)) {
		f.Add(i, byte(2), byte(255), byte(0), []byte{7, 0, 0, 5, 0, 2, 0, 200, 3, 0, 0, 255, 4, 0, 0, 0, 5, 0, 0, 50, 0, 0, 0, 255})
		f.Add(i, i, i, byte(1), []byte{0, 0, 0, 255})
	}
	f.Add(byte(0), byte(255), byte(255), byte(1), []byte{0, 0, 0, 20, 3, 0, 0, 255, 6, 0, 0, 0, 3, 2, 0, 255})
	ports := []uint16{443, 4443, 22, 25}
	f.Fuzz(func(t *testing.T, a, b, c, how byte, trace []byte) {
		if len(trace) > 400 {
			return
		}
		var stream []byte
		for _, i := range []byte{a, b, c} {
			if int(i) < len(list) {
				stream = append(stream, list[i]...)
			}
		}
		other := bytes.Clone(list[int(a^1)%len(list)]) // such as another host's hello
		port := ports[how&3]
		honest := how&4 == 0
		if honest {
			other = stream
		}
		first, last := crossed(t, stream, other, port, trace)
		for _, got := range []outcome{first, last} {
			if ends := terminated(t, got.heard, port); ends.blocked {
				t.Fatalf("port %d: the server has heard %q, which no flow that ends here lets through", port, got.heard)
			}
		}
		if !honest {
			return
		}
		want := terminated(t, stream, port)
		if first.blocked != want.blocked {
			t.Fatalf("port %d, %q: blocked if it crosses: %t, if it ends here: %t", port, stream, first.blocked, want.blocked)
		}
		if !bytes.HasPrefix(stream, first.heard) || !bytes.Equal(first.heard, last.heard) {
			t.Fatalf("port %d: the server has heard %q of %q", port, first.heard, stream)
		}
		if first.over != want.over {
			t.Fatalf("port %d, %q: ended if it crosses: %t, if it ends here: %t", port, stream, first.over, want.over)
		}
		if !first.over && len(first.heard) < len(want.heard) {
			t.Fatalf("port %d, %q: the server has heard %q, and %q if the flow ends here", port, stream, first.heard, want.heard)
		}
	})
}

// crossing sends parts of a stream over a flow that crosses, each repeated as TCP does until the server has it, and returns what the server
// has received.
func crossing(t *testing.T, port uint16, parts []string) (heard string) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan router.Flow, 1)
		r, e := router.New(router.Config{Policy: noBets{}, Clients: anybody{}, Ways: oneWay{carries: true}, Ended: func(f router.Flow) { ended <- f }})
		if e != nil {
			t.Fatal(e)
		}
		p := &passing{port: port, first: make(map[int]byte), last: make(map[int]byte)}
		r.Handle(t.Context(), router.Request{Network: policy.TCP, Src: equivalentClient, Dst: netip.AddrPortFrom(equivalentServer, port), Answer: p})
		stream := ""
		for _, part := range parts {
			stream += part
			for range 120 { // seconds
				for at := p.acked; at < len(stream); at += 1000 {
					p.client(segment(equivalentClient, p.flow.Server, uint32(isn+1+at), 7001, 0x18, []byte(stream[at:min(at+1000, len(stream))])))
					synctest.Wait()
					p.ack(len(stream))
				}
				p.flow.Repeat()
				synctest.Wait()
				p.ack(len(stream))
				if p.acked == len(stream) || p.flow.Over() {
					break
				}
				time.Sleep(time.Second)
			}
		}
		synctest.Wait()
		heard = string(p.stream(p.last))
		p.flow.Reset()
		synctest.Wait()
	})
	return heard
}

// A head may be larger than a window, on both ways.
func TestLargeHeads(t *testing.T) {
	large := "GET / HTTP/1.1\r\nHost: good.example\r\nCookie: " + strings.Repeat("c", 100<<10) + "\r\n\r\n"
	small := "GET / HTTP/1.1\r\nHost: good.example\r\n\r\n"
	for name, parts := range map[string][]string{"first": {large}, "second": {small, large}} {
		heard := crossing(t, 8880, parts)
		want := strings.Join(parts, "")
		if got := terminated(t, []byte(want), 8880); !bytes.Equal(got.heard, []byte(want)) {
			t.Errorf("%s: terminated heard %d of %d", name, len(got.heard), len(want))
		}
		if heard != want {
			t.Errorf("%s: the server has heard %d bytes of %d", name, len(heard), len(want))
		}
	}
}

// A server may put a hello together from what comes from several ports, so no part of one leaves, however long its end takes.
func TestNoPartOfAHelloLeavesInADatagram(t *testing.T) {
	half, err := os.ReadFile("testdata/good.example-two.0")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		up, server := net.Pipe()
		ended := make(chan router.Flow, 1)
		r, err := router.New(router.Config{Policy: noBets{}, Clients: anybody{}, Ways: oneWay{server: up}, Ended: func(f router.Flow) { ended <- f }})
		if err != nil {
			t.Fatal(err)
		}
		h := new(heard)
		var wg sync.WaitGroup
		wg.Go(func() { io.Copy(h, server) })
		wg.Go(func() { client.Write(half) })
		r.Handle(t.Context(), router.Request{
			Network: policy.UDP, Src: equivalentClient, Dst: netip.AddrPortFrom(equivalentServer, 443), Answer: accepting{near},
		})
		if f := <-ended; !strings.Contains(f.Err, "did not go on") {
			t.Errorf("the flow ended with %q", f.Err)
		}
		up.Close()
		wg.Wait()
		if len(h.b) > 0 {
			t.Errorf("%d bytes have left", len(h.b))
		}
	})
}

// What a client of an obfuscated protocol sends first (Telegram, Shadowsocks, obfs4) is random: one message in 200 begins with a word
// and a blank, and has no line feed. It must reach the server also on a web port: the client sends no more before it has an answer.
func TestAFirstMessageThatBeginsLikeALineReachesTheServer(t *testing.T) {
	for _, message := range []string{
		"q \x91" + strings.Repeat("\xd3", 61),  // 64 bytes
		"q \x91" + strings.Repeat("\xd3", 102), // 105 bytes
		"JDWP-Handshake",
	} {
		for _, pause := range []time.Duration{0, time.Second} {
			t.Run(fmt.Sprintf("%.4q after %v", message, pause), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					client, near := net.Pipe()
					up, server := net.Pipe()
					r, err := router.New(router.Config{Policy: noBets{}, Clients: anybody{}, Ways: oneWay{server: up}})
					if err != nil {
						t.Fatal(err)
					}
					h := new(heard)
					var wg sync.WaitGroup
					ctx, cancel := context.WithCancel(t.Context())
					wg.Go(func() { io.Copy(h, server) })
					wg.Go(func() { io.Copy(io.Discard, client) })
					wg.Go(func() { time.Sleep(pause); client.Write([]byte(message)) })
					wg.Go(func() {
						r.Handle(ctx, router.Request{
							Network: policy.TCP, Src: equivalentClient, Dst: netip.AddrPortFrom(equivalentServer, 443), Answer: accepting{near},
						})
					})
					time.Sleep(30 * time.Second)
					cancel()
					for _, c := range []net.Conn{client, near, up, server} {
						c.Close()
					}
					wg.Wait()
					if string(h.b) != message {
						t.Errorf("the server has got %q in 30 s", h.b)
					}
				})
			})
		}
	}
}

// What is sent by CONNECT, or once a connection has switched, may be of a protocol whose first message has no line feed, like git's or the keys
// of a terminal. It must reach the server: the client sends no more before it has an answer.
func TestAFirstMessageWithoutALineReachesTheServer(t *testing.T) {
	connect := "CONNECT git.example:9418 HTTP/1.1\r\nHost: git.example:9418\r\n\r\n"
	exec := "POST /exec/1/start HTTP/1.1\r\nHost: docker.example\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"
	for _, parts := range [][]string{
		{connect, "0033git-upload-pack /project.git\x00host=git.example\x00"},
		{exec, "l", "s", " ", "/", "\r"},
	} {
		want := strings.Join(parts, "")
		if heard := crossing(t, 3128, parts); heard != want {
			t.Errorf("if it crosses, the server has heard %q of %q", heard, want)
		}
		if heard := terminated(t, []byte(want), 3128).heard; string(heard) != want {
			t.Errorf("if it ends here, the server has heard %q of %q", heard, want)
		}
	}
}
