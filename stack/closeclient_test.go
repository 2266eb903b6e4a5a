package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"penstock/stack/packet"
	"penstock/stack/stream"
)

func TestCloseClientEndsEverythingOfIt(t *testing.T) {
	flows := make(chan *kept, 20)
	waiting := make(chan context.Context, 20)
	keep := keeping(flows)
	s, w := newWire(t, Config{Client: byNetwork, Handle: Waiting(func(ctx context.Context, r *Request) {
		if r.Dst.Port() != 9 { // port 9: the dial takes long
			keep(ctx, r)
			return
		}
		waiting <- ctx
		<-ctx.Done()
		r.Accept()
	})}, nil)
	slow := addr("203.0.113.9:9")
	open1, half1, wait1 := addr("10.0.1.2:1"), addr("10.0.1.3:2"), addr("10.0.1.4:3")
	w.shake(open1, web)
	mine := []*kept{within(t, flows)}
	w.send(udpFrom(addr("10.0.1.5:4"), web, []byte("x")))
	mine = append(mine, within(t, flows))
	w.send(segment(half1, web, 1, 0, flagSYN, nil))
	w.expect("SYN-ACK", isTCP(web, half1, flagSYN|flagACK))
	w.send(segment(wait1, slow, 1, 0, flagSYN, nil))
	dial := []context.Context{within(t, waiting)}
	w.send(udpFrom(wait1, slow, []byte("x")))
	dial = append(dial, within(t, waiting))
	w.shake(addr("10.0.2.2:1"), web)
	other := []*kept{within(t, flows)}
	w.send(udpFrom(addr("10.0.2.2:4"), web, []byte("x")))
	other = append(other, within(t, flows))

	if got := s.CloseClient(1); got != 5 {
		t.Errorf("got %d flows closed, want 5", got)
	}
	rst := map[netip.AddrPort]bool{}
	for len(rst) < 3 {
		p := w.expect("RSTs for the open, the half-open and the waiting flow", func(p packet.Packet) bool {
			return p.Proto == packet.ProtoTCP && p.Body[13]&flagRST != 0
		})
		rst[netip.AddrPortFrom(p.Dst, uint16(p.Body[2])<<8|uint16(p.Body[3]))] = true
	}
	if !rst[open1] || !rst[half1] || !rst[wait1] {
		t.Errorf("got RSTs for %v, want %v, %v and %v", rst, open1, half1, wait1)
	}
	for i, k := range mine {
		if !k.over(5 * time.Second) {
			t.Errorf("flow %d of the client lives on", i)
		}
	}
	for i, ctx := range dial {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
			t.Errorf("dial %d of the client goes on", i)
		}
	}
	if half := within(t, flows); half.err == nil {
		t.Error("the half-open flow was accepted")
	}
	for i, k := range other {
		if k.over(20 * time.Millisecond) {
			t.Errorf("flow %d of another client was closed", i)
		}
	}
	if got := s.CloseClient(1); got != 0 {
		t.Errorf("got %d flows closed the second time, want 0", got)
	}
	w.send(udpFrom(addr("10.0.1.5:4"), web, []byte("x"))) // what it sends afterwards is new
	if k := within(t, flows); k.r.Client != 1 || k.r.Src != addr("10.0.1.5:4") {
		t.Errorf("got a flow of client %d, want a new one of client 1", k.r.Client)
	}
	eventually(t, "nothing is left of the others", func() bool { return dials(s, 1) == 0 && held(s, 1) == 1 })
}

func TestCloseClientResetsWhatWasOnlyWaitingForAcknowledgement(t *testing.T) {
	t.Run("nobody has its address", func(t *testing.T) { closeLingering(t, 0) })
	t.Run("another has its address", func(t *testing.T) { closeLingering(t, 2) })
}

// closeLingering closes a client whose address then has the client with the key next, or nobody.
func closeLingering(t *testing.T, next uint64) {
	var owner atomic.Uint64
	owner.Store(1)
	s, w := newWire(t, Config{
		Client: func(a netip.Addr) (uint64, bool) { return owner.Load(), owner.Load() > 0 },
		Handle: Waiting(func(_ context.Context, r *Request) {
			if c, err := r.Accept(); err == nil {
				c.Write([]byte("a secret of the one that had this address"))
			}
		}),
	}, nil)
	src := addr("10.0.1.2:1")
	w.shake(src, web)
	w.expect("FIN that nobody acknowledges", isTCP(web, src, flagFIN))
	owner.Store(next)
	s.ResetTo(func(a netip.Addr) bool { return next > 0 && a == src.Addr() })
	s.CloseClient(1)
	w.expect("RST", isTCP(web, src, flagRST))
	time.Sleep(300 * time.Millisecond) // longer than the first retransmission takes
	for len(w.in) > 0 {
		<-w.in
	}
	w.none("retransmission", func(p packet.Packet) bool { return p.Proto == packet.ProtoTCP && p.Body[13]&flagRST == 0 })
}

// A client goes while it begins flows of all kinds: none of them may survive.
func TestNoFlowSlipsInWhileItsClientCloses(t *testing.T) {
	for round := range 20 {
		var gone atomic.Bool
		s, w := newWire(t, Config{
			Client: func(netip.Addr) (uint64, bool) { return 1, !gone.Load() },
			Handle: Waiting(func(ctx context.Context, r *Request) {
				c, err := r.Accept()
				if err != nil {
					return
				}
				for {
					if _, err := c.Read(make([]byte, 10)); err != nil {
						return
					}
				}
			}),
		}, nil)
		var wg sync.WaitGroup
		wg.Go(func() {
			for i := range 200 {
				src := netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(i+1))
				w.send(segment(src, web, 1, 0, flagSYN, nil))
				w.send(udpFrom(src, web, []byte("x")))
			}
		})
		time.Sleep(time.Duration(round) * 50 * time.Microsecond)
		gone.Store(true)
		s.CloseClient(1)
		wg.Wait()
		eventually(t, "no flow is left", func() bool {
			s.tcp.mu.Lock()
			defer s.tcp.mu.Unlock()
			return held(s, 1) == 0 && s.tcp.dials.Len() == 0 && s.tcp.open.Len() == 0 && s.tcp.syns.Len() == 0
		})
	}
}

// The client is closed in the moment in which its handshake ends.
func TestAFlowThatLosesItsPlaceIsNotOpened(t *testing.T) {
	s, _ := newWire(t, Config{}, nil)
	f, _ := s.tcp.begin(stack.TransportEndpointID{RemotePort: 1}, 1)
	if f == nil || !f.shake() {
		t.Fatal("the handshake did not begin")
	}
	if got := s.CloseClient(0); got != 1 {
		t.Errorf("got %d flows closed, want 1", got)
	}
	if _, err := f.shaken(new(stream.Conn)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
	if s.tcp.open.Len() != 0 || s.tcp.dials.Len() != 0 || s.tcp.syns.Len() != 0 {
		t.Errorf("got %d open flows, %d dials and %d SYNs, want none", s.tcp.open.Len(), s.tcp.dials.Len(), s.tcp.syns.Len())
	}
	late, _ := s.tcp.begin(stack.TransportEndpointID{RemotePort: 2}, 1)
	s.CloseClient(0)
	if late.shake() {
		t.Error("the handshake of a flow that was cut began")
	}
	s.tcp.finish(late)
}

func TestCloseUnderLoad(t *testing.T) {
	for range 5 {
		p := newPair(t, byPipe, Limits{}, echo)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var began atomic.Int64
		for range 4 {
			wg.Go(func() {
				for ctx.Err() == nil {
					for _, network := range []string{"tcp", "udp"} {
						c, err := p.client.DialContext(ctx, network, "203.0.113.9:80")
						if err != nil {
							continue
						}
						began.Add(1)
						c.SetDeadline(time.Now().Add(50 * time.Millisecond))
						c.Write([]byte("x"))
						c.Read(make([]byte, 1))
						c.Close()
					}
				}
			})
		}
		eventually(t, "flows come and go", func() bool { return began.Load() > 200 })
		closed := make(chan error, 1)
		go func() { closed <- p.server.Close() }()
		select {
		case err := <-closed:
			if err != nil {
				t.Errorf("close: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Close has not returned after 10 s")
		}
		cancel()
		wg.Wait()
		if err := p.server.Attach(nil); err == nil {
			t.Error("a closed stack took a port")
		}
		if _, err := p.server.DialContext(t.Context(), "udp", "10.0.0.2:1"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a dial of a closed stack: got %v, want net.ErrClosed", err)
		}
	}
}
