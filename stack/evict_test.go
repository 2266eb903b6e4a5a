package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/stack/datagram"
	"penstock/stack/packet"
	"penstock/stack/share"
)

const second = int64(time.Second)

// eventually waits for what needs other goroutines.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 5 s: %s", what)
		}
	}
}

func TestTheLongestSilentDatagramFlowGoes(t *testing.T) {
	var clock atomic.Int64
	flows := make(chan *kept, 10)
	_, w := newWire(t, Config{Limits: Limits{UDPFlows: 2}, Handle: Waiting(keeping(flows))}, clock.Load)
	a, b, c := addr("10.0.0.2:1"), addr("10.0.0.2:2"), addr("10.0.0.2:3")
	say := func(from netip.AddrPort) { w.send(udpFrom(from, web, []byte("x"))) }
	say(a)
	fa := within(t, flows)
	for range 4 { // A talks for two seconds
		clock.Add(second / 2)
		say(a)
	}
	eventually(t, "A's packets are counted", func() bool { return fa.bytes.Load() == 5 })
	clock.Add(second) // and is silent for one
	say(b)
	fb := within(t, flows)
	eventually(t, "B's packet is counted", func() bool { return fb.bytes.Load() == 1 })
	clock.Add(second)
	say(c)
	fc := within(t, flows)
	if !fa.over(5 * time.Second) {
		t.Error("A stays although it was silent for longest")
	}
	if err := <-fa.ended; !errors.Is(err, datagram.ErrEvicted) || !errors.Is(err, net.ErrClosed) {
		t.Errorf("A ended with %v, want an eviction", err)
	}
	if fb.over(50*time.Millisecond) || fc.over(0) {
		t.Error("a newer flow went as well")
	}
}

func TestAnswersKeepAFlowAlive(t *testing.T) {
	var clock atomic.Int64
	conns := make(chan net.Conn, 10)
	s, w := newWire(t, Config{Limits: Limits{UDPFlows: 2}, Handle: Waiting(func(ctx context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		conns <- c
		<-ctx.Done()
	})}, clock.Load)
	var list []net.Conn
	for i := range 2 {
		w.send(udpFrom(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(i+1)), web, []byte("x")))
		list = append(list, within(t, conns))
		clock.Add(second)
	}
	if _, err := list[0].Write([]byte("answer")); err != nil { // the first is now the newest
		t.Fatal(err)
	}
	clock.Add(second)
	w.send(udpFrom(addr("10.0.0.2:3"), web, []byte("x")))
	within(t, conns)
	if s.flows.Find(list[0].(*datagram.Conn).Key()) == nil {
		t.Error("the flow that was answered last went")
	}
	if s.flows.Find(list[1].(*datagram.Conn).Key()) != nil {
		t.Error("the longest silent flow stays")
	}
}

// held are the datagram flows of a client.
func held(s *Stack, key uint64) int { return s.flows.Held(key) }

func TestManyAddressesAreOneClient(t *testing.T) {
	m := NewMetrics(prometheus.NewRegistry())
	flows := make(chan *kept, 1000)
	s, w := newWire(t, Config{
		Limits: Limits{UDPFlows: 100, UDPPerClient: 20}, Client: byNetwork, Handle: Waiting(keeping(flows)), Metrics: m,
	}, nil)
	dst := addr("[2001:db8::9]:4000")
	for i := range 300 { // client 1 has a whole /64
		w.send(udpFrom(addr(fmt.Sprintf("[fd00:0:0:1::%x]:7", i+1)), dst, []byte("x")))
		if k := within(t, flows); k.r.Client != 1 {
			t.Fatalf("address %d: got client %d, want 1", i, k.r.Client)
		}
	}
	if got := held(s, 1); got != 100 {
		t.Errorf("got %d flows of a client that is alone, want the whole table of 100", got)
	}
	var honest []*kept
	for i := range 20 {
		w.send(udpFrom(netip.AddrPortFrom(netip.MustParseAddr("fd00:0:0:2::2"), uint16(i+1)), dst, []byte("x")))
		honest = append(honest, within(t, flows))
	}
	for i := range 300 {
		w.send(udpFrom(addr(fmt.Sprintf("[fd00:0:0:1::%x]:8", i+1)), dst, []byte("x")))
		within(t, flows)
	}
	if got := held(s, 2); got != 20 {
		t.Errorf("got %d flows of the honest client, want its 20", got)
	}
	for i, k := range honest {
		if k.over(0) {
			t.Errorf("flow %d of the honest client was pushed out", i)
		}
	}
	if got := held(s, 1); got != 80 {
		t.Errorf("got %d flows of the client with many addresses, want the other 80", got)
	}
	if got := testutil.ToFloat64(m.evict); got != 520 {
		t.Errorf("got %v evictions counted, want 520", got)
	}
}

func TestNobodysPacketsAreDropped(t *testing.T) {
	for _, row := range []struct {
		name string
		pkt  []byte
	}{
		{"a SYN", segment(addr("10.9.0.2:5"), web, 1, 0, flagSYN, nil)},
		{"a stray segment", segment(addr("10.9.0.2:5"), web, 1, 1, flagACK, nil)},
		{"a datagram", udpFrom(addr("10.9.0.2:5"), web, []byte("x"))},
		{"a fragment", fragments(udpFrom(addr("10.9.0.2:5"), web, make([]byte, 100)), 48)[0]},
		{"a ping of the stack's own address", echoRequest("10.9.0.2", "10.0.0.1", 8)},
		{"a ping of another", echoRequest("10.9.0.2", "203.0.113.9", 8)},
		{"an unknown protocol", unknown("10.9.0.2", "203.0.113.9", 47)},
	} {
		t.Run(row.name, func(t *testing.T) {
			m := NewMetrics(prometheus.NewRegistry())
			_, w := newWire(t, Config{Client: byNetwork, Metrics: m, Handle: Waiting(func(_ context.Context, r *Request) {
				t.Errorf("the handler got %s %v", r.Network, r.Src)
			})}, nil)
			w.send(row.pkt)
			drops := m.drops.WithLabelValues("source")
			eventually(t, "the drop is counted", func() bool { return testutil.ToFloat64(drops) == 1 })
			w.none("an answer", func(packet.Packet) bool { return true })
		})
	}
}

func TestTCPSharesOfAFullTable(t *testing.T) {
	var clock atomic.Int64
	flows := make(chan *kept, 20)
	_, w := newWire(t, Config{Limits: Limits{TCPFlows: 4}, Client: byNetwork, Handle: Waiting(keeping(flows))}, clock.Load)
	one := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(100+i)) }
	var list []*kept
	for i := range 4 { // client 1 takes the whole table
		clock.Add(second)
		w.shake(one(i), web)
		list = append(list, within(t, flows))
	}
	clock.Add(second)
	w.send(segment(one(0), web, 1001, 1, flagACK|flagPSH, nil)) // no data: still silent
	w.send(segment(one(4), web, 1000, 0, flagSYN, nil))
	w.expect("RST for the client that has most", isTCP(web, one(4), flagRST))

	two := addr("10.0.2.2:100")
	w.shake(two, web)
	k := within(t, flows)
	if k.err != nil {
		t.Fatalf("a client below its share got %v", k.err)
	}
	w.expect("RST for the longest silent", isTCP(web, one(0), flagRST))
	if !list[0].over(5 * time.Second) {
		t.Error("the longest silent flow of the client with most stays")
	}
	for i, k := range list[1:] {
		if k.over(0) {
			t.Errorf("flow %d went as well", i+1)
		}
	}
}

func TestDataKeepsATCPFlowAlive(t *testing.T) {
	var clock atomic.Int64
	flows := make(chan *kept, 20)
	_, w := newWire(t, Config{Limits: Limits{TCPFlows: 2}, Client: byNetwork, Handle: Waiting(keeping(flows))}, clock.Load)
	a, b := addr("10.0.1.2:100"), addr("10.0.1.2:101")
	mine, theirs := w.shake(a, web)
	fa := within(t, flows)
	clock.Add(second)
	w.shake(b, web)
	fb := within(t, flows)
	clock.Add(second)
	w.send(segment(a, web, mine, theirs, flagACK|flagPSH, []byte("data")))
	eventually(t, "the data is read", func() bool { return fa.bytes.Load() == 4 })
	clock.Add(second)
	w.shake(addr("10.0.2.2:100"), web)
	if !fb.over(5 * time.Second) {
		t.Error("the longest silent flow stays")
	}
	if fa.over(0) {
		t.Error("the flow that carried data last went")
	}
}

// dials are the places of a client among the dials.
func dials(s *Stack, key uint64) int {
	s.tcp.mu.Lock()
	defer s.tcp.mu.Unlock()
	return s.tcp.dials.Held(share.Owner{Client: key})
}

func TestHalfOpenHandshakesKeepNobodyOut(t *testing.T) {
	for _, row := range []struct {
		name string
		from string
	}{
		{"of another client", "10.0.2.2:100"},
		{"of the same client", "10.0.1.3:100"},
	} {
		t.Run(row.name, func(t *testing.T) {
			flows := make(chan *kept, 1000)
			s, w := newWire(t, Config{Limits: Limits{Dials: 32}, Client: byNetwork, Handle: Waiting(keeping(flows))}, nil)
			for i := range 300 {
				src := netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(1000+i))
				w.send(segment(src, web, 1, 0, flagSYN, nil))
				w.expect("SYN-ACK", isTCP(web, src, flagSYN|flagACK))
			}
			if got := dials(s, 1); got != 32 {
				t.Errorf("got %d dials of the client that floods, want 32", got)
			}
			src := addr(row.from)
			w.shake(src, web)
			eventually(t, "the good handshake", func() bool {
				for {
					select {
					case k := <-flows:
						if k.r.Src == src && k.err == nil {
							return true
						}
					default:
						return false
					}
				}
			})
		})
	}
}

func TestDialsOfOneClientLeaveRoomForOthers(t *testing.T) {
	pending := make(chan *Request, 100)
	s, w := newWire(t, Config{Limits: Limits{Dials: 6}, Client: byNetwork, Handle: Waiting(func(ctx context.Context, r *Request) {
		pending <- r
		<-ctx.Done()
	})}, nil)
	syn := func(client, i int) {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(client), 2}), uint16(1000+i))
		w.send(segment(src, web, 1, 0, flagSYN, nil))
	}
	for i := range 20 {
		syn(1, i)
	}
	for range 6 {
		within(t, pending)
	}
	for i := range 3 { // as many as the other is left with then
		syn(2, i)
		if r := within(t, pending); r.Client != 2 {
			t.Fatalf("got a request of client %d, want client 2's", r.Client)
		}
	}
	syn(2, 3)
	syn(1, 30)
	eventually(t, "client 1 has what is left", func() bool { return dials(s, 2) == 3 && dials(s, 1) == 3 })
	w.none("an answer", func(p packet.Packet) bool { return p.Proto == packet.ProtoTCP })
}

func TestAHandshakeThatIsNotFinishedEnds(t *testing.T) {
	flows := make(chan *kept, 10)
	s, w := newWire(t, Config{Limits: Limits{Handshake: 100 * time.Millisecond}, Client: byNetwork, Handle: Waiting(keeping(flows))}, nil)
	src := addr("10.0.1.2:100")
	start := time.Now()
	w.send(segment(src, web, 1, 0, flagSYN, nil))
	w.expect("SYN-ACK", isTCP(web, src, flagSYN|flagACK))
	if dials(s, 1) != 1 {
		t.Error("the place was given back before the handshake has ended")
	}
	k := within(t, flows)
	if k.err == nil {
		t.Fatal("a handshake that the client did not finish was accepted")
	}
	if got := time.Since(start); got < 100*time.Millisecond {
		t.Errorf("the handshake ended after %v, want 100 ms at least", got)
	}
	eventually(t, "the place is given back", func() bool { return dials(s, 1) == 0 })
	w.shake(src, web) // the same ports again
	if k := within(t, flows); k.err != nil {
		t.Errorf("the next handshake: %v", k.err)
	}
}

// A handler outlasts its SYN, which newer ones push out: the bound of dials does not bound handlers.
func TestAFloodOfSYNsDoesNotFillTheMemoryWithHandlers(t *testing.T) {
	judged, dialled := make(chan struct{}), make(chan struct{})
	judge, dial := sync.OnceFunc(func() { close(judged) }), sync.OnceFunc(func() { close(dialled) })
	var begun atomic.Int32
	w := newPair(t, byPipe, Limits{}, func(_ context.Context, r *Request) {
		begun.Add(1)
		<-judged
		r.Judged()
		<-dialled
		r.Drop()
	})
	t.Cleanup(func() { judge(); dial() }) // a stack that closes waits for its handlers
	for i := range 2 * flowBegins {
		go w.client.DialContext(t.Context(), "tcp", fmt.Sprintf("203.0.113.9:%d", 10000+i))
	}
	most := int32(flowBegins / 2)
	eventually(t, "one client has half of those that may begin", func() bool { return begun.Load() == most })
	judge() // the handlers go on, but not one of them judges: SYNs that are repeated begin
	eventually(t, "all others begin", func() bool { return begun.Load() > 3*most })
}
