package ingress

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"
	"unsafe"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/ingress/socks"
	"penstock/router"
)

// client is where datagrams come from.
var client = netip.MustParseAddrPort("192.0.2.7:4000")

// newAssociation returns an association of a client with a number, whose flows handle takes. It has no socket.
func newAssociation(s *Server, number uint64) *association {
	return &association{server: s, who: Login{Client: number}, v: &visitor{src: client}, flows: make(map[string]*datagramFlow)}
}

func newDatagramServer(t *testing.T, handle func(context.Context, router.Request)) *Server {
	t.Helper()
	limits := config.Limits{UDPIdle: time.Hour, UDPIdleShort: time.Hour, UDPIdleQUIC: time.Hour}
	s := &Server{
		Config:    Config{Config: &config.Config{Limits: limits}, Clients: &world{}, Handle: handle},
		datagrams: places{most: 1000, mostPerClient: 500, clients: make(map[uint64]int)},
		waiting:   places{most: maxWaiting, mostPerClient: maxWaitingEach, clients: make(map[uint64]int)},
	}
	return s
}

func (p *places) held() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken + len(p.clients)
}

// datagram is one for a port of a host.
func datagram(port int, size int) []byte {
	to := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), uint16(port))
	return append(socks.DatagramHead(to), make([]byte, size)...)
}

// Flows that nobody reads yet, because their dials take long, hold little of each client's, in all of its associations.
func TestDatagramsThatWaitAreBounded(t *testing.T) {
	var mu sync.Mutex
	var flows []net.Conn
	ctx, cancel := context.WithCancel(t.Context())
	s := newDatagramServer(t, func(ctx context.Context, req router.Request) {
		c, err := req.Answer.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		flows = append(flows, c)
		mu.Unlock()
		<-ctx.Done()
	})
	const size, ports, each = 60_000, 40, udpQueue
	lost := map[string]int{}
	associations := []*association{newAssociation(s, anasKey), newAssociation(s, anasKey)}
	for _, a := range associations {
		for port := range ports {
			for range each {
				lost[a.take(ctx, client, datagram(port+1, size))]++
			}
		}
	}
	if most := maxWaitingEach / size; lost[""] != most || lost[lostQueue] != 2*ports*each-most {
		t.Errorf("got %v, want %d datagrams that wait", lost, most)
	}
	if got := newAssociation(s, anasKey+1).take(ctx, client, datagram(1, size)); got != "" {
		t.Errorf("another client's datagram is lost: %s", got)
	}
	eventually(t, "all flows are open", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(flows) == 2*ports+1
	})
	buf := make([]byte, maxDatagram)
	if n, err := flows[0].Read(buf); n != size || err != nil {
		t.Errorf("got %d bytes, %v, want %d", n, err, size)
	}
	if got := associations[0].take(ctx, client, datagram(ports, size)); got != "" && flows[0].(*datagramFlow).association.who.Client == anasKey {
		t.Errorf("after one was read, the next is lost: %s", got)
	}
	for _, a := range associations {
		a.endAll()
	}
	cancel()
	s.tasks.end()
	if n := s.waiting.held() + s.datagrams.held(); n != 0 {
		t.Errorf("%d are still held after the end", n)
	}
}

func TestAJumpOfTheClockNeitherEndsNorHoldsDatagrams(t *testing.T) {
	s := newDatagramServer(t, nil)
	f := newDatagramFlow(newAssociation(s, anasKey), client, 1)
	spend := func(uint64, bool, int) time.Duration { return maxSpentBefore + time.Second }
	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		now := time.Now()
		if f.isIdle(jumped(now, jump)) || !f.isIdle(jumped(now.Add(61*time.Minute), jump)) {
			t.Errorf("after a jump of %v a flow is not idle after an hour", jump)
		}
		var p pace
		at := func(after time.Duration) bool {
			return p.may(jumped(now.Add(after), jump), spend, anasKey, true, 1)
		}
		if !p.may(now, spend, anasKey, true, 1) || at(999*time.Millisecond) || !at(time.Second) {
			t.Errorf("after a jump of %v datagrams are not held for a second", jump)
		}
	}
}

// jumped returns what the clock reads at t after it was set: another wall time, and the same monotonic time, which the time
// package does not let anybody set.
func jumped(t time.Time, by time.Duration) time.Time {
	const seconds = 30 // the bit at which they begin in the first word of a time.Time with a monotonic reading
	*(*int64)(unsafe.Pointer(&t)) += int64(by/time.Second) << seconds
	return t
}

// What was sent to a refused destination waits for nobody.
func TestARefusedFlowHoldsNoDatagrams(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newDatagramServer(t, func(_ context.Context, req router.Request) { req.Answer.Refuse() })
	a := newAssociation(s, anasKey)
	eventually(t, "datagrams are refused", func() bool { return a.take(ctx, client, datagram(9, 100)) == lostRefused })
	if n := s.waiting.held(); n != 0 {
		t.Errorf("%d are held", n)
	}
	cancel()
	s.tasks.end()
	a.endAll()
}

// Flows end while datagrams for them come.
func TestDatagramsWhileFlowsEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newDatagramServer(t, func(ctx context.Context, req router.Request) {
		c, err := req.Answer.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		for range 3 {
			if _, err := c.Read(make([]byte, 10)); err != nil {
				return
			}
		}
	})
	a := newAssociation(s, anasKey)
	var ends sync.WaitGroup
	ends.Go(func() {
		for ctx.Err() == nil {
			a.endAll()
			time.Sleep(100 * time.Microsecond)
		}
	})
	for i := range 20_000 {
		a.take(ctx, client, datagram(i%100+1, 10))
	}
	cancel()
	ends.Wait()
	a.endAll()
	s.tasks.end()
	if n := s.waiting.held() + s.datagrams.held(); n != 0 {
		t.Errorf("%d are still held after the end", n)
	}
}
