package wireguard

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestSetPeers(t *testing.T) {
	key := GeneratePrivateKey()
	ana, bob, eve := newAccount(2), newAccount(3), newAccount(4)
	ana.peer.Name, bob.peer.Name, eve.peer.Name = "ana", "bob", "eve"
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer, eve.peer}})
	anaClient, anaTUN := newTestClient(t, ClientConfig{Wireguard: ana.file(key.Public(), s.Port())})
	eveClient, eveTUN := newTestClient(t, ClientConfig{Wireguard: eve.file(key.Public(), s.Port())})
	bobClient, bobTUN := newTestClient(t, ClientConfig{Wireguard: bob.file(key.Public(), s.Port())})
	connect(t, anaClient)
	connect(t, eveClient)
	echo(t, anaTUN, server, ana, "ana")
	echo(t, eveTUN, server, eve, "eve")
	before := s.Peers()[0]

	// Bob comes, Eve goes, Ana gets a second address.
	ana.peer.AllowedIPs = append(ana.peer.AllowedIPs, netip.PrefixFrom(clientAddr(20), 32))
	if err := s.SetPeers(List{bob.peer, ana.peer}); err != nil {
		t.Fatal(err)
	}
	connect(t, bobClient)
	echo(t, bobTUN, server, bob, "bob")

	eveTUN.sent <- packet(eve.addr, serverAddr, "eve once more")
	second := ana
	second.addr = clientAddr(20)
	for _, a := range []account{ana, second} {
		echo(t, anaTUN, server, a, "ana once more")
	}
	got := s.Peers()
	if len(got) != 2 || got[0].Name != "bob" || got[1].Name != "ana" {
		t.Fatalf("peers: got %+v, want bob and ana", got)
	}
	if !got[1].LastHandshake.Equal(before.LastHandshake) {
		t.Errorf("ana's last handshake: got %v, want that of before the change, %v", got[1].LastHandshake, before.LastHandshake)
	}
	if got[1].RxBytes <= before.RxBytes {
		t.Errorf("ana's bytes: got %d, want more than %d", got[1].RxBytes, before.RxBytes)
	}
	for len(server.received) > 0 {
		if string((<-server.received)[20:]) == "eve once more" {
			t.Error("a packet of the removed peer arrived")
		}
	}
}

func TestAddressMovesBetweenPeers(t *testing.T) {
	key, ana, bob := GeneratePrivateKey(), newAccount(2), newAccount(3)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{ana.peer, bob.peer}})
	ana.peer.AllowedIPs, bob.peer.AllowedIPs = bob.peer.AllowedIPs, ana.peer.AllowedIPs
	ana.addr, bob.addr = bob.addr, ana.addr
	if err := s.SetPeers(List{ana.peer, bob.peer}); err != nil {
		t.Fatal(err)
	}
	for _, a := range []account{ana, bob} {
		c, client := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), s.Port())})
		connect(t, c)
		echo(t, client, server, a, "moved")
	}
}

func TestForeignSourceIsDropped(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	var foreign atomic.Int64
	var said bytes.Buffer
	listening, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}, Foreign: func() { foreign.Add(1) }, Log: slog.New(slog.NewTextHandler(&said, nil))})
	c, client := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), listening.Port())})
	connect(t, c)
	echo(t, client, server, a, "before")
	for range 10 { // one may be lost
		client.sent <- packet(clientAddr(99), serverAddr, "forged")
	}
	client.sent <- packet(a.addr, serverAddr, "own")
	for got := ""; got != "own"; {
		select {
		case b := <-server.received:
			got = string(b[20:])
		case <-time.After(100 * time.Millisecond):
			client.sent <- packet(a.addr, serverAddr, "own")
		}
		if got == "forged" {
			t.Fatal("a packet with a foreign source arrived")
		}
	}
	if err := listening.Close(); err != nil { // so that nothing is written to the log any more
		t.Fatal(err)
	}
	if n := foreign.Load(); n == 0 || n > 10 {
		t.Errorf("%d packets with a foreign source were counted, of the 10 that were sent", n)
	}
	if got := strings.Count(said.String(), "not an address of their peer"); got != 1 {
		t.Errorf("the log says it %d times, want once:\n%s", got, said.String())
	}
}

func TestSetPeersRefuses(t *testing.T) {
	key := GeneratePrivateKey()
	public := func() PublicKey { return GeneratePrivateKey().Public() }
	one := public()
	allowed := func(prefixes ...string) (all []netip.Prefix) {
		for _, p := range prefixes {
			all = append(all, netip.MustParsePrefix(p))
		}
		return all
	}
	tests := []struct {
		name  string
		peers []Peer
		want  []string // in the error; none: no error
	}{
		{"no peer at all is fine", nil, nil},
		{"networks side by side are fine", []Peer{
			{Name: "ana", PublicKey: one, AllowedIPs: allowed("10.0.0.0/25", "fd00::2/128")},
			{Name: "bob", PublicKey: public(), AllowedIPs: allowed("10.0.0.128/25", "fd00::3/128")},
		}, nil},
		{"networks of one peer may be nested", []Peer{
			{Name: "ana", PublicKey: one, AllowedIPs: allowed("10.0.0.0/8", "10.1.0.0/16")},
		}, nil},
		{"the same address twice", []Peer{
			{Name: "ana", PublicKey: one, AllowedIPs: allowed("10.0.0.2/32")},
			{Name: "bob", PublicKey: public(), AllowedIPs: allowed("10.0.0.2/32")},
		}, []string{`peers "ana" and "bob" overlap in 10.0.0.2/32 and 10.0.0.2/32`}},
		{"an address in the network of another, with others between", []Peer{
			{Name: "ana", PublicKey: one, AllowedIPs: allowed("10.0.0.0/8", "10.1.0.0/16")},
			{Name: "bob", PublicKey: public(), AllowedIPs: allowed("10.2.0.0/16")},
			{Name: "eve", PublicKey: public(), AllowedIPs: allowed("fd00::/8")},
			{Name: "joe", PublicKey: public(), AllowedIPs: allowed("fd00::7/128")},
		}, []string{`"ana" and "bob" overlap in 10.0.0.0/8 and 10.2.0.0/16`, `"eve" and "joe" overlap in fd00::/8 and fd00::7/128`}},
		{"host bits do not hide an overlap", []Peer{
			{Name: "ana", PublicKey: one, AllowedIPs: allowed("10.0.0.9/24")},
			{Name: "bob", PublicKey: public(), AllowedIPs: allowed("10.0.0.2/32")},
		}, []string{`"ana" and "bob" overlap in 10.0.0.0/24 and 10.0.0.2/32`}},
		{"one key for two peers", []Peer{{Name: "ana", PublicKey: one}, {Name: "bob", PublicKey: one}},
			[]string{`peers "ana" and "bob" have the same public key`}},
		{"no key", []Peer{{Name: "ana"}}, []string{`peer "ana": PublicKey is missing`}},
		{"the server's own key", []Peer{{Name: "ana", PublicKey: key.Public()}}, []string{`peer "ana": PublicKey is this machine's own`}},
		{"no prefix", []Peer{{Name: "ana", PublicKey: one, AllowedIPs: make([]netip.Prefix, 1)}}, []string{`peer "ana": allowed IPs contain`}},
		{"a keepalive that does not fit", []Peer{{Name: "ana", PublicKey: one, PersistentKeepalive: 1}}, []string{`peer "ana": keepalive 1ns`}},
	}
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := s.SetPeers(List(nil)); err != nil {
				t.Fatal(err)
			}
			err := s.SetPeers(List(tt.peers))
			if (err != nil) != (tt.want != nil) {
				t.Fatalf("got %v, want an error: %v", err, tt.want != nil)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
			if err != nil && len(s.Peers()) != 0 {
				t.Errorf("peers after an error: got %d, want none", len(s.Peers()))
			}
		})
	}
}

func TestManyPeers(t *testing.T) {
	const many, calling = 200, 8
	key := GeneratePrivateKey()
	var accounts []account
	var peers []Peer
	for i := range many {
		a := newAccount(0)
		a.addr = netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)})
		a.peer.Name, a.peer.AllowedIPs = fmt.Sprintf("peer%d", i), []netip.Prefix{netip.PrefixFrom(a.addr, 32)}
		accounts, peers = append(accounts, a), append(peers, a.peer)
	}
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List(peers)})
	var wg sync.WaitGroup
	seen := make(map[netip.Addr]bool)
	ctx, seenAll := context.WithCancel(t.Context())
	defer wg.Wait()
	defer seenAll()
	for _, a := range accounts[:calling] {
		c, client := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), s.Port())})
		wg.Go(func() {
			if err := c.Connect(t.Context()); err != nil {
				t.Error(err)
			}
			for ctx.Err() == nil {
				client.sent <- packet(a.addr, serverAddr, "hello")
				select {
				case <-ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
			}
		})
	}
	for len(seen) < calling {
		src, _ := netip.AddrFromSlice((<-server.received)[12:16])
		seen[src] = true
	}
	seenAll()
	for i, p := range s.Peers() {
		if called := !p.LastHandshake.IsZero(); called != (i < calling) {
			t.Errorf("peer %d: got a handshake %v, want %v", i, called, i < calling)
		}
	}
}

func TestServerRun(t *testing.T) {
	newServer := func(t *testing.T) (*Server, *fakeTUN, chan error) {
		s, inner := newTestServer(t, ServerConfig{PrivateKey: GeneratePrivateKey()})
		return s, inner, make(chan error, 1)
	}
	t.Run("ends with its context", func(t *testing.T) {
		s, inner, ended := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { ended <- s.Run(ctx) }()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want nil", err)
		}
		if !inner.isClosed() {
			t.Error("the inner device is open, want it closed")
		}
	})
	t.Run("ends with Close", func(t *testing.T) {
		s, _, ended := newServer(t)
		go func() { ended <- s.Run(t.Context()) }()
		s.Close()
		if err := <-ended; err != nil {
			t.Errorf("got %v, want nil", err)
		}
	})
	t.Run("ends with its inner device", func(t *testing.T) {
		s, inner, ended := newServer(t)
		go func() { ended <- s.Run(t.Context()) }()
		inner.Close()
		if err := <-ended; !errors.Is(err, errDeviceLost) {
			t.Errorf("got %v, want %v", err, errDeviceLost)
		}
	})
}

func TestNewServerRefuses(t *testing.T) {
	first, _ := newTestServer(t, ServerConfig{PrivateKey: GeneratePrivateKey()})
	t.Run("a port in use", func(t *testing.T) {
		inner := newFakeTUN()
		_, err := NewServer(ServerConfig{Device: inner, PrivateKey: GeneratePrivateKey(), ListenPort: first.Port()})
		if want := "UDP port " + strconv.Itoa(int(first.Port())) + " is in use"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("got %v, want it to wrap EADDRINUSE", err)
		}
		if !inner.isClosed() {
			t.Error("the inner device is open, want it closed")
		}
	})
	t.Run("no private key", func(t *testing.T) {
		if _, err := NewServer(ServerConfig{Device: newFakeTUN()}); !errors.Is(err, errNoPrivateKey) {
			t.Errorf("got %v, want %v", err, errNoPrivateKey)
		}
	})
	t.Run("peers that overlap", func(t *testing.T) {
		ana, bob := newAccount(2), newAccount(2)
		_, err := NewServer(ServerConfig{Device: newFakeTUN(), PrivateKey: GeneratePrivateKey(), Peers: List{ana.peer, bob.peer}})
		if err == nil || !strings.Contains(err.Error(), "overlap") {
			t.Errorf("got %v, want an overlap", err)
		}
	})
}

// TestAnAddressIsNoSetting calls a peer at addresses that others have told: the zone of one has lines that would make a stranger a peer.
func TestAnAddressIsNoSetting(t *testing.T) {
	ana, eve := newAccount(2), newAccount(3)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: GeneratePrivateKey(), Peers: List{ana.peer}})
	stranger := hex.EncodeToString(eve.peer.PublicKey[:])
	for _, text := range []string{
		"[fe80::1%a]:5\npublic_key=" + stranger + "\nallowed_ip=10.77.0.9/32\npublic_key=" + stranger + "\nnothing=]:1",
		"[fe80::1%a b]:1", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "192.0.2.1:0",
	} {
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Call(t.Context(), []PeerStatus{{PublicKey: ana.peer.PublicKey, Endpoint: at}}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		_, peers, err := readStatus(s.dev)
		if err != nil {
			t.Fatal(err)
		}
		if len(peers) != 1 || peers[0].Endpoint.IsValid() {
			t.Errorf("%q: got %+v, want one peer without an address", text, peers)
		}
	}
	if err := s.Call(t.Context(), []PeerStatus{{PublicKey: ana.peer.PublicKey}}); err != nil {
		t.Errorf("no address: %v", err)
	}
}
