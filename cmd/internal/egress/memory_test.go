package egress

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"penstock/policy"
	"penstock/router"
	"penstock/stack"
	"penstock/stack/link"
)

// TestMemoryOfIdleFlows bounds what one more idle TCP flow holds, with everything that knows it but the kernel's part:
//
//	clients 10.0.0.2 --- near, router --- far --- server 203.0.113.9   (forwarded)
//	                               \----- a socket                    (terminated)
//
// Clients and server are bytes on a wire, so that only the flows are measured. It compares n flows with 2n, so that what is there once
// does not count.
func TestMemoryOfIdleFlows(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a socket is waited for by a goroutine")
	}
	for _, row := range []struct {
		name  string
		pass  bool
		later policy.Later
		most  int // bytes
	}{
		{"forwarded", true, policy.LaterNothing, 800},
		{"judged in line", true, policy.LaterBlock, 1000},
		{"terminated", false, policy.LaterNothing, 8 << 10},
		{"terminated, judged by what the client sends first", false, policy.LaterBlock, 8 << 10},
	} {
		t.Run(row.name, func(t *testing.T) {
			const n = 1000
			w := newMemoryWorld(t, row.pass, row.later)
			w.open(t, 0, n/2)
			w.open(t, n/2, n)
			before := w.held(t, n)
			w.open(t, n, 2*n)
			each := (w.held(t, 2*n) - before) / n
			for m := 2 * n; each > row.most && m < 4*n; m += n { // other goroutines have held more than before: once more
				before = w.held(t, m)
				w.open(t, m, m+n)
				each = (w.held(t, m+n) - before) / n
			}
			if each > row.most {
				t.Errorf("an idle flow holds %d bytes, want %d at most", each, row.most)
			}
			t.Logf("an idle flow holds %d bytes", each)
			for _, f := range w.router.Flows() {
				if f.TxBytes == 0 || (f.Path != router.Terminated) != row.pass {
					t.Fatalf("got a flow that is %s and has sent %d bytes, want it as the row says", f.Path, f.TxBytes)
				}
			}
		})
	}
}

// memoryWorld is a router between two stacks whose other ends are bytes.
type memoryWorld struct {
	router  *router.Router
	client  wire
	server  wire
	carrier *stack.Stack // nil: flows end here
	socket  string       // that they go to then
}

func newMemoryWorld(t *testing.T, pass bool, later policy.Later) *memoryWorld {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			defer c.Close() // it is idle until then
			io.CopyN(c, c, int64(len(greeting)))
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-answered
	})
	w := &memoryWorld{socket: ln.Addr().String()}
	w.router, err = router.New(router.Config{Policy: always{policy.Verdict{Action: policy.Forward, Egress: "out", Rule: "rest", Later: later}}, Clients: anybody{}, Ways: w})
	if err != nil {
		t.Fatal(err)
	}
	handle := func(life context.Context, r *stack.Request) func(context.Context) {
		return w.router.Begin(life, router.Request{Network: policy.NetworkOf(r.Network), Client: r.Client, Src: r.Src, Dst: r.Dst, Answer: Answer{r}})
	}
	_, w.client = wired(t, stack.Config{Name: "near", Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Handle: handle})
	far, server := wired(t, stack.Config{Name: "far", Addrs: []netip.Prefix{netip.MustParsePrefix("10.8.0.2/24")}})
	w.server = server
	t.Cleanup(func() { // before the stacks: nobody reads what they send then
		w.client.port.Close()
		server.port.Close()
	})
	if pass {
		w.carrier = far
	}
	return w
}

// always is a Policy with one verdict.
type always struct{ v policy.Verdict }

func (a always) Decide(policy.Flow) policy.Verdict { return a.v }

// anybody is a Clients that knows every client.
type anybody struct{}

func (anybody) Describe(*policy.Flow) bool                                         { return true }
func (anybody) Names(*policy.Flow) (release func())                                { return func() {} }
func (anybody) Confirm(context.Context, policy.Flow, string) ([]netip.Addr, error) { return nil, nil }

func (w *memoryWorld) Dialer(string) (router.Dialer, bool)   { return w, true }
func (w *memoryWorld) Place(uint64, netip.Addr) policy.Place { return policy.Elsewhere }
func (w *memoryWorld) IsNotUp(error) bool                    { return false }
func (w *memoryWorld) Carrier(string, policy.Network, netip.Addr) (router.Carrier, bool) {
	return w.carrier, w.carrier != nil
}

func (w *memoryWorld) DialContext(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", w.socket)
}

// greeting is what a client sends first: it shows no name, and nothing that could become one.
const greeting = "SSH-2.0-test\r\n"

// open opens the flows from one port to another, and sends some bytes in each.
func (w *memoryWorld) open(t *testing.T, from, to int) {
	t.Helper()
	dst := netip.MustParseAddrPort("203.0.113.9:25")
	for i := from; i < to; i++ {
		src := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(2000+i))
		w.client.send(t, src, dst, flagSYN, 1000, 0, nil)
		if w.carrier != nil {
			syn := w.server.receive(t, segment{port: dst.Port(), flags: flagSYN})
			w.server.send(t, dst, syn.src, flagSYN|flagACK, 5000, syn.seq+1, nil)
		}
		answer := w.client.receive(t, segment{port: src.Port(), flags: flagSYN | flagACK, ack: 1001})
		w.client.send(t, src, dst, flagACK, 1001, answer.seq+1, nil)
		w.client.send(t, src, dst, flagACK|flagPSH, 1001, answer.seq+1, []byte(greeting))
		if w.carrier != nil {
			for got := (segment{}); got.size == 0; { // the ACK
				got = w.server.receive(t, segment{port: dst.Port(), flags: flagACK, ack: 5001})
			}
			w.server.send(t, dst, netip.AddrPortFrom(netip.MustParseAddr("10.8.0.2"), src.Port()), flagACK|flagPSH, 5001, 1001+uint32(len(greeting)), []byte(greeting))
		}
		for got := (segment{}); got.size == 0; { // the ACK
			got = w.client.receive(t, segment{port: src.Port(), flags: flagACK, ack: 1001 + uint32(len(greeting))})
		}
		w.client.send(t, src, dst, flagACK, 1001+uint32(len(greeting)), answer.seq+1+uint32(len(greeting)), nil)
	}
}

// held is what heap and stacks hold once n flows are idle.
func (w *memoryWorld) held(t *testing.T, n int) int {
	t.Helper()
	if got := w.router.Active(); got != n {
		t.Fatalf("got %d flows, want %d", got, n)
	}
	for limit := time.Now().Add(time.Minute); runtime.NumGoroutine() > 100; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("got %d goroutines with %d idle flows", runtime.NumGoroutine(), n)
		}
	}
	if w.carrier != nil {
		time.Sleep(2500 * time.Millisecond) // the stack tells within a second or so that the server has answered
	}
	for range 3 { // pools keep what they have for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// wire is the far end of a stack's link.
type wire struct{ port link.Port }

func wired(t *testing.T, c stack.Config) (*stack.Stack, wire) {
	t.Helper()
	s, err := stack.New(c)
	if err != nil {
		t.Fatal(err)
	}
	near, far := link.Pipe(1500)
	t.Cleanup(func() { s.Close() })
	if err := s.Attach(near); err != nil {
		t.Fatal(err)
	}
	return s, wire{far}
}

// TCP flags.
const (
	flagSYN = 0x02
	flagPSH = 0x08
	flagACK = 0x10
)

// segment is what a test looks at in a TCP packet.
type segment struct {
	src      netip.AddrPort
	port     uint16 // that it goes to
	seq, ack uint32
	flags    byte
	size     int // of the payload
}

// receive returns the next segment that has a port, flags and an acknowledgement. On a slow machine those of other flows are repeated.
func (w wire) receive(t *testing.T, like segment) segment {
	t.Helper()
	for {
		pkts := []link.Packet{{Data: make([]byte, link.MaxPacket)}}
		if _, err := w.port.Read(pkts); err != nil {
			t.Fatal(err)
		}
		b := pkts[0].Data
		tcp := b[20:]
		got := segment{
			src: netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(tcp)), port: binary.BigEndian.Uint16(tcp[2:]),
			seq: binary.BigEndian.Uint32(tcp[4:]), ack: binary.BigEndian.Uint32(tcp[8:]), flags: tcp[13], size: len(tcp) - int(tcp[12]>>4)*4,
		}
		if got.port == like.port && got.flags&^flagPSH == like.flags && got.ack == like.ack {
			return got
		}
	}
}

func (w wire) send(t *testing.T, src, dst netip.AddrPort, flags byte, seq, ack uint32, payload []byte) {
	t.Helper()
	b := make([]byte, 40, 40+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, 6
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	copy(b[12:], src.Addr().AsSlice())
	copy(b[16:], dst.Addr().AsSlice())
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
	tcp := b[20:]
	binary.BigEndian.PutUint16(tcp, src.Port())
	binary.BigEndian.PutUint16(tcp[2:], dst.Port())
	binary.BigEndian.PutUint32(tcp[4:], seq)
	binary.BigEndian.PutUint32(tcp[8:], ack)
	tcp[12], tcp[13] = 5<<4, flags
	binary.BigEndian.PutUint16(tcp[14:], 0xffff)
	binary.BigEndian.PutUint16(tcp[16:], link.Checksum(tcp, link.PseudoHeader(6, b[12:16], b[16:20], len(tcp))))
	if err := w.port.Write(link.Meta{}, [][]byte{b}); err != nil {
		t.Fatal(err)
	}
}
