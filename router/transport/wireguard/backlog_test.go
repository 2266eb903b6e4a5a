package wireguard

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"penstock/router/transport/wireguard/internal/backlog"
)

// slowTUN holds back what comes from an address until it is told to go on.
type slowTUN struct {
	*fakeTUN
	slow     netip.Addr
	waits    atomic.Bool
	released chan struct{}
}

func (s *slowTUN) Write(bufs [][]byte, offset int) (int, error) {
	if s.waits.Load() && netip.AddrFrom4([4]byte(bufs[0][offset+12:])) == s.slow {
		select {
		case <-s.released:
		case <-s.closed:
		}
	}
	return s.fakeTUN.Write(bufs, offset)
}

// TestWhatWaitsOfOnePeerIsBounded floods a server with packets of a peer, of which none is taken out of the device.
func TestWhatWaitsOfOnePeerIsBounded(t *testing.T) {
	key, ana, bob := GeneratePrivateKey(), newAccount(2), newAccount(3)
	var crowded atomic.Int64
	inner := &slowTUN{fakeTUN: newFakeTUN(), slow: ana.addr, released: make(chan struct{})}
	s, err := NewServer(ServerConfig{Device: inner, PrivateKey: key, Peers: List{ana.peer, bob.peer}, Crowded: func() { crowded.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	anas, anaTUN := newTestClient(t, ClientConfig{Wireguard: ana.file(key.Public(), s.Port())})
	bobs, bobTUN := newTestClient(t, ClientConfig{Wireguard: bob.file(key.Public(), s.Port())})
	connect(t, anas)
	connect(t, bobs)
	deliver(t, anaTUN, inner.fakeTUN, ana.addr, serverAddr, "before")

	inner.waits.Store(true)
	sent, ctx := 0, within(t, time.Minute)
	for ; crowded.Load() == 0; sent++ {
		select {
		case anaTUN.sent <- packet(ana.addr, serverAddr, "flood"):
		case <-ctx.Done():
			t.Fatalf("after %d packets none was dropped", sent)
		}
	}
	if sent < backlog.Most/2 {
		t.Errorf("a packet was dropped after %d were sent, want at least %d to wait", sent, backlog.Most/2)
	}
	deliver(t, bobTUN, inner.fakeTUN, bob.addr, serverAddr, "of another peer meanwhile")
	inner.waits.Store(false)
	close(inner.released)
	deliver(t, anaTUN, inner.fakeTUN, ana.addr, serverAddr, "afterwards")
}

// counter counts drops.
type counter struct{ atomic.Int64 }

func (c *counter) Drop(string) { c.Add(1) }

// TestWhatAClientReceivesIsBounded floods a client with packets of its peer, of which none is taken out of the device.
func TestWhatAClientReceivesIsBounded(t *testing.T) {
	key, ana := GeneratePrivateKey(), newAccount(2)
	outer := newFakeTUN()
	s, err := NewServer(ServerConfig{Device: outer, PrivateKey: key, Peers: List{ana.peer}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	var drops counter
	inner := &slowTUN{fakeTUN: newFakeTUN(), slow: serverAddr, released: make(chan struct{})}
	c, err := NewClient(ClientConfig{
		Name: "test", Device: inner, Wireguard: ana.file(key.Public(), s.Port()), Drops: &drops,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	connect(t, c)
	deliver(t, outer, inner.fakeTUN, serverAddr, ana.addr, "before")

	inner.waits.Store(true)
	ctx := within(t, time.Minute)
	for sent := 0; drops.Load() == 0; sent++ {
		select {
		case outer.sent <- packet(serverAddr, ana.addr, "flood"):
		case <-ctx.Done():
			t.Fatalf("after %d packets none was dropped", sent)
		}
	}
	inner.waits.Store(false)
	close(inner.released)
	deliver(t, outer, inner.fakeTUN, serverAddr, ana.addr, "afterwards")
}
