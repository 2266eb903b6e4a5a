package wireguard

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"penstock/router/transport"
)

// newPair makes a server and a client that knows it.
func newPair(t testing.TB) (c *Client, s *Server, client, server *fakeTUN, a account) {
	t.Helper()
	key := GeneratePrivateKey()
	a = newAccount(2)
	s, server = newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	c, client = newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), s.Port())})
	return c, s, client, server, a
}

func TestDataBothWays(t *testing.T) {
	c, s, client, server, a := newPair(t)
	if got := c.Port(); got != 0 {
		t.Errorf("port before the first Connect: got %d, want 0", got)
	}
	connect(t, c)
	echo(t, client, server, a, "hello")

	got := c.Stats()
	if got.RxBytes == 0 || got.TxBytes == 0 || got.LastRx.IsZero() || got.LastTx.IsZero() || got.LastHandshake.IsZero() {
		t.Errorf("client's stats: got %+v, want all set", got)
	}
	if want := (netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), s.Port())).String(); got.Endpoint != want {
		t.Errorf("client's endpoint: got %s, want %s", got.Endpoint, want)
	}
	peer := s.Peers()[0]
	if peer.Name != a.peer.Name || peer.RxBytes == 0 || peer.TxBytes == 0 || peer.LastHandshake.IsZero() {
		t.Errorf("server's peer: got %+v, want %s with traffic", peer, a.peer.Name)
	}
	if peer.Endpoint.Port() != c.Port() {
		t.Errorf("server's view of the client's port: got %d, want %d", peer.Endpoint.Port(), c.Port())
	}
}

func TestConnectAgainMakesNewHandshake(t *testing.T) {
	c, _, client, server, a := newPair(t)
	connect(t, c)
	echo(t, client, server, a, "first session")
	before := c.Stats()
	connect(t, c)
	after := c.Stats()
	if !after.LastHandshake.After(before.LastHandshake) {
		t.Errorf("last handshake: got %v, want after %v", after.LastHandshake, before.LastHandshake)
	}
	if after.RxBytes <= before.RxBytes {
		t.Errorf("received bytes: got %d, want more than %d", after.RxBytes, before.RxBytes)
	}
	if client.isClosed() {
		t.Error("the inner device was closed, want it kept")
	}
	echo(t, client, server, a, "second session")
}

func TestServerRestart(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	first, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	port := first.Port()
	c, client := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), port)})
	connect(t, c)
	echo(t, client, server, a, "before")
	first.Close()

	_, server = newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}, ListenPort: port})
	connect(t, c)
	echo(t, client, server, a, "after")
}

func TestRebindKeepsSession(t *testing.T) {
	c, s, client, server, a := newPair(t)
	if err := c.Rebind(); err != nil {
		t.Errorf("rebind before the first Connect: got %v, want nil", err)
	}
	connect(t, c)
	echo(t, client, server, a, "before")
	before := s.Peers()[0]
	for range 3 {
		if err := c.Rebind(); err != nil {
			t.Fatal(err)
		}
		echo(t, client, server, a, "after")
	}
	if got := s.Peers()[0].LastHandshake; !got.Equal(before.LastHandshake) {
		t.Errorf("last handshake: got %v, want the one before the rebind, %v", got, before.LastHandshake)
	}
}

func TestRebindGoesOnAtAnotherPort(t *testing.T) {
	c, s, client, server, a := newPair(t)
	connect(t, c)
	echo(t, client, server, a, "before")
	old := c.Port()

	// As if another program took the port just then.
	c.mu.Lock()
	if err := c.dev.BindClose(); err != nil {
		t.Fatal(err)
	}
	thief, _ := newTestServer(t, ServerConfig{PrivateKey: GeneratePrivateKey(), ListenPort: old})
	c.mu.Unlock()
	defer thief.Close()

	if err := c.Rebind(); err != nil {
		t.Fatal(err)
	}
	if got := c.Port(); got == old || got == 0 {
		t.Errorf("port: got %d, want another than %d", got, old)
	}
	echo(t, client, server, a, "after")
	if got := s.Peers()[0].Endpoint.Port(); got != c.Port() {
		t.Errorf("server's view of the client's port: got %d, want %d", got, c.Port())
	}
}

// reasonOf returns the reason of a failure worth another try.
func reasonOf(err error) transport.Reason {
	if reasoned, ok := err.(*transport.ReasonedError); ok {
		return reasoned.Reason
	}
	return transport.ReasonNone
}

func TestConnectFails(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	s, _ := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	taken, _ := newTestServer(t, ServerConfig{PrivateKey: GeneratePrivateKey()})
	noSuchHost := errors.New("no such host")
	tests := []struct {
		name    string
		change  func(*Config)
		resolve func(context.Context, string) ([]netip.Addr, error)
		reason  transport.Reason
		cause   error
		text    string
	}{
		{
			name:   "a wrong key of the server is a failed handshake at the end of ctx",
			change: func(c *Config) { c.Peers[0].PublicKey = GeneratePrivateKey().Public() },
			reason: transport.ReasonHandshakeFailed, cause: context.DeadlineExceeded, text: "no answer from 127.0.0.1:",
		},
		{
			name:   "a wrong key of ours is a failed handshake at the end of ctx",
			change: func(c *Config) { c.PrivateKey = GeneratePrivateKey() },
			reason: transport.ReasonHandshakeFailed, cause: context.DeadlineExceeded, text: "no answer from 127.0.0.1:",
		},
		{
			name:   "a wrong preshared key is a failed handshake at the end of ctx",
			change: func(c *Config) { c.Peers[0].PresharedKey = GeneratePresharedKey() },
			reason: transport.ReasonHandshakeFailed, cause: context.DeadlineExceeded, text: "no answer from 127.0.0.1:",
		},
		{
			name:    "a name that does not resolve",
			change:  func(c *Config) { c.Peers[0].Endpoints[0].Host = "vpn.example" },
			resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, noSuchHost },
			reason:  transport.ReasonEndpointUnresolved, cause: noSuchHost, text: "resolve endpoint vpn.example:",
		},
		{
			name:    "a name without an address",
			change:  func(c *Config) { c.Peers[0].Endpoints[0].Host = "vpn.example" },
			resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil },
			reason:  transport.ReasonEndpointUnresolved, text: "the name has no address",
		},
		{
			name:   "a local port in use",
			change: func(c *Config) { c.ListenPort = taken.Port() },
			reason: transport.ReasonError, text: "is in use",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := a.file(key.Public(), s.Port())
			tt.change(file)
			c, inner := newTestClient(t, ClientConfig{Wireguard: file, Resolve: tt.resolve})
			err := c.Connect(within(t, 200*time.Millisecond))
			if got := reasonOf(err); got != tt.reason {
				t.Errorf("error %v: got reason %q, want %q", err, got, tt.reason)
			}
			if tt.cause != nil && !errors.Is(err, tt.cause) {
				t.Errorf("got %v, want it to wrap %v", err, tt.cause)
			}
			if !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %q, want %q in it", err, tt.text)
			}
			if inner.isClosed() {
				t.Error("the inner device was closed, want it kept for the next Connect")
			}
		})
	}
}

func TestConnectCancelled(t *testing.T) {
	_, s, _, _, a := newPair(t)
	c, _ := newTestClient(t, ClientConfig{Wireguard: a.file(GeneratePrivateKey().Public(), s.Port())})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Connect(ctx); !errors.Is(err, context.Canceled) || reasonOf(err) != transport.ReasonNone {
		t.Errorf("got %v with reason %q, want a plain cancellation", err, reasonOf(err))
	}
}

func TestCandidatesInTurn(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	file := a.file(key.Public(), s.Port())
	file.Peers[0].Endpoints[0].Host = "vpn.example"
	answer := []netip.Addr{
		netip.MustParseAddr("127.0.0.1"),
		netip.MustParseAddr("ff01::1234"), // multicast that does not leave the machine: nobody answers
	}
	var answerErr error
	c, client := newTestClient(t, ClientConfig{Wireguard: file, Resolve: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{answer[1], answer[0]}, answerErr
	}})
	connect(t, c)
	echo(t, client, server, a, "the second address")
	if got, want := c.callees[0].addrs[0].Addr(), answer[1]; got != want {
		t.Errorf("first candidate of the first Connect: got %v, want %v", got, want)
	}

	answerErr = errors.New("no such host")
	connect(t, c)
	echo(t, client, server, a, "the last known addresses")
	if got, want := c.callees[0].addrs[0].Addr(), answer[0]; got != want {
		t.Errorf("first candidate of the second Connect: got %v, want %v, which answered", got, want)
	}
}

func TestNowhereToSend(t *testing.T) {
	c, _, _, _, _ := newPair(t)
	connect(t, c)
	if err := c.dev.BindClose(); err != nil { // as good as a network that takes no packet
		t.Fatal(err)
	}
	err := c.Connect(t.Context()) // without a deadline: it must not wait for an answer to nothing
	if got := reasonOf(err); got != transport.ReasonHandshakeFailed {
		t.Errorf("error %v: got reason %q, want %q", err, got, transport.ReasonHandshakeFailed)
	}
}

func TestProbe(t *testing.T) {
	t.Run("before the first Connect there is nobody to ask", func(t *testing.T) {
		c, _, _, _, _ := newPair(t)
		if err := c.Probe(t.Context()); !errors.Is(err, transport.ErrNotUp) {
			t.Errorf("got %v, want ErrNotUp", err)
		}
	})
	t.Run("without a function of its own it is answered by a new handshake", func(t *testing.T) {
		c, _, client, server, a := newPair(t)
		connect(t, c)
		echo(t, client, server, a, "before")
		before := c.Stats().LastHandshake
		// A second initiation within 20 ms of the first is taken for a flood, so one probe may be lost.
		for c.Stats().LastHandshake.Equal(before) {
			if err := c.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := c.await(t.Context(), before, time.Second); err != nil {
				t.Fatal(err)
			}
		}
		echo(t, client, server, a, "after")
	})
	t.Run("the function that is given is called", func(t *testing.T) {
		want := errors.New("not sent")
		_, s, _, _, a := newPair(t)
		c, _ := newTestClient(t, ClientConfig{
			Wireguard: a.file(s.public, s.Port()),
			Probe:     func(context.Context) error { return want },
		})
		if got := c.Probe(t.Context()); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestClose(t *testing.T) {
	t.Run("twice, with counters that stay", func(t *testing.T) {
		c, _, client, server, a := newPair(t)
		connect(t, c)
		echo(t, client, server, a, "hello")
		before := c.Stats()
		for range 2 {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.Stats(); got.RxBytes < before.RxBytes || got.TxBytes < before.TxBytes {
			t.Errorf("stats after Close: got %+v, want no less than %+v", got, before)
		}
		if !client.isClosed() {
			t.Error("the inner device is open, want it closed")
		}
		if err := c.Connect(t.Context()); err == nil {
			t.Error("Connect after Close: got nil, want an error")
		}
	})
	t.Run("while Connect waits", func(t *testing.T) {
		_, s, _, _, a := newPair(t)
		c, _ := newTestClient(t, ClientConfig{Wireguard: a.file(GeneratePrivateKey().Public(), s.Port())})
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := c.Connect(t.Context()); err == nil {
				t.Error("Connect: got nil, want an error")
			}
		})
		for c.Stats().TxBytes == 0 {
			time.Sleep(time.Millisecond)
		}
		c.Close()
		wg.Wait()
	})
}

func TestLost(t *testing.T) {
	_, s, _, _, a := newPair(t)
	lost := make(chan error, 1)
	c, inner := newTestClient(t, ClientConfig{Wireguard: a.file(s.public, s.Port()), Lost: func(err error) { lost <- err }})
	connect(t, c)
	inner.Close()
	if err := <-lost; !errors.Is(err, errDeviceLost) {
		t.Errorf("got %v, want %v", err, errDeviceLost)
	}
	var blocked *transport.BlockedError
	if err := c.Connect(t.Context()); !errors.As(err, &blocked) {
		t.Errorf("Connect afterwards: got %v, want a BlockedError", err)
	}
}

func TestSeveralPeers(t *testing.T) {
	key, a := GeneratePrivateKey(), newAccount(2)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}})
	file := a.file(key.Public(), s.Port())
	file.Peers = append([]Peer{{
		PublicKey: GeneratePrivateKey().Public(), Endpoints: []Endpoint{{"127.0.0.1", s.Port()}},
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.99.0.0/16")},
	}}, file.Peers...)
	c, client := newTestClient(t, ClientConfig{Wireguard: file})
	connect(t, c) // one that answers is enough
	echo(t, client, server, a, "hello")
}

func TestNewClientRefuses(t *testing.T) {
	inner := newFakeTUN()
	_, err := NewClient(ClientConfig{Name: "corp", Device: inner, Wireguard: &Config{}})
	for _, want := range []string{"wireguard corp", "PrivateKey is missing", "Address is missing", "no [Peer]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	if !inner.isClosed() {
		t.Error("the inner device is open, want it closed")
	}
}

func TestNoKeyIsLogged(t *testing.T) {
	var mu sync.Mutex
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return out.Write(b)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	key, a := GeneratePrivateKey(), newAccount(2)
	s, server := newTestServer(t, ServerConfig{PrivateKey: key, Peers: List{a.peer}, Log: log})
	c, client := newTestClient(t, ClientConfig{Wireguard: a.file(key.Public(), s.Port()), Log: log})
	log.Info("made", "key", key, "config", a.file(key.Public(), 1), "peer", a.peer)
	connect(t, c)
	echo(t, client, server, a, "hello")
	c.Close()
	s.Close()

	mu.Lock()
	defer mu.Unlock()
	if out.Len() == 0 {
		t.Fatal("nothing was logged, want the device's commentary")
	}
	for name, k := range map[string]secret{"server": key.secret, "client": a.key.secret, "preshared": a.peer.PresharedKey.secret} {
		for _, form := range []string{k.Reveal(), hex.EncodeToString(k[:])} {
			if strings.Contains(strings.ToLower(out.String()), strings.ToLower(form)) {
				t.Errorf("the %s key is in the log", name)
			}
		}
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
