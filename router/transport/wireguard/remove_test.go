package wireguard

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNothingPassesOnceAPeerWasRemoved sends both ways all the time, and removes the peer in the middle of it.
func TestNothingPassesOnceAPeerWasRemoved(t *testing.T) {
	key, eve, ana := GeneratePrivateKey(), newAccount(4), newAccount(2)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{eve.peer, ana.peer}})
	c, client := newTestClient(t, ClientConfig{Wireguard: eve.file(key.Public(), s.Port())})
	connect(t, c)
	echo(t, client, server, eve, "before")

	var removed atomic.Bool
	stop := make(chan struct{})
	var wg sync.WaitGroup
	send := func(to *fakeTUN, make func(mark string) []byte) {
		for {
			mark := "while it was there"
			if removed.Load() {
				mark = "after its removal"
			}
			select {
			case to.sent <- make(mark):
			case <-stop:
				return
			}
		}
	}
	wg.Go(func() { send(client, func(mark string) []byte { return packet(eve.addr, serverAddr, mark) }) })
	wg.Go(func() { send(server, func(mark string) []byte { return packet(serverAddr, eve.addr, mark) }) })
	defer wg.Wait()
	defer close(stop)

	// Something is under way in both directions, and nobody takes it from the server's side: what is delivered stays there.
	arrived := func(f *fakeTUN) []byte {
		select {
		case b := <-f.received:
			return b
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is under way")
			return nil
		}
	}
	for range 100 {
		arrived(server)
		arrived(client)
	}
	done := make(chan error, 1)
	go func() { done <- s.SetPeers(List{ana.peer}) }()
	var err error
	for waiting := true; waiting; { // the server's Write must return, or SetPeers would wait for it
		select {
		case <-server.received:
		case <-client.received:
		case err = <-done:
			waiting = false
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	removed.Store(true)
	for len(server.received) > 0 { // delivered before SetPeers returned
		<-server.received
	}

	end := time.After(500 * time.Millisecond)
	for open := true; open; {
		select {
		case b := <-server.received:
			t.Fatalf("the server was given %q of a peer that is gone", b[20:])
		case b := <-client.received: // what was sent before may still be on its way
			if bytes.Contains(b, []byte("after its removal")) {
				t.Fatalf("the peer that is gone was sent %q", b[20:])
			}
		case <-end:
			open = false
		}
	}
	for _, p := range s.Peers() {
		if p.PublicKey == eve.peer.PublicKey {
			t.Errorf("the peer that is gone is still listed: %+v", p)
		}
	}

	// Its old session is not taken up again when it comes back: it has to make a new handshake.
	if err := s.SetPeers(List{ana.peer, eve.peer}); err != nil {
		t.Fatal(err)
	}
	for _, p := range s.Peers() {
		if p.PublicKey == eve.peer.PublicKey && (!p.LastHandshake.IsZero() || p.RxBytes != 0) {
			t.Errorf("the peer that came back has a session already: %s", fmt.Sprint(p))
		}
	}
}
