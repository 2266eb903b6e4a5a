package openvpn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/internal/openvpntest"
	"penstock/router/transport/openvpn/profile"
)

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(90 * time.Second)
	for !ok() {
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("waited 90 s for %s", what)
		}
	}
}

// testClient is a Client with all a test wants to see of it.
type testClient struct {
	*Client
	device   *fakeDevice
	settings *settingsBox
	lost     chan error
}

func newTestClient(t testing.TB, profile *profile.Profile, change func(*Config)) *testClient {
	t.Helper()
	tc := &testClient{device: newFakeDevice(), settings: &settingsBox{}, lost: make(chan error, 16)}
	cfg := Config{
		Name: "corp", Profile: profile, Device: tc.device, Configure: tc.settings.set,
		Lost: func(err error) { tc.lost <- err },
		Log:  slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if tc.Client, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tc.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return tc
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func (c *testClient) connect(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Connect(ctx); err != nil {
		t.Fatalf("Connect: %v", err)
	}
}

func (c *testClient) addr(t testing.TB) netip.Addr { return c.settings.last(t).Addrs[0].Addr() }

// profileFor is a client profile for a server on this host.
func profileFor(t testing.TB, ca *certtest.Authority, network string, port int, lines string) *profile.Profile {
	t.Helper()
	id := ca.Client(t)
	host := "127.0.0.1"
	if network == "udp6" {
		host = "::1"
	}
	return mustParse(t, fmt.Sprintf("client\ndev tun\nremote %s %d %s\nremote-cert-tls server\n%s", host, port, network, lines)+
		certtest.Inline("ca", ca.PEM)+certtest.Inline("cert", id.Cert)+certtest.Inline("key", id.Key))
}

// serve starts an in-process server and makes the profile that fits it; change may be nil.
func serve(t testing.TB, lines string, change func(*openvpntest.Config)) (*openvpntest.Server, *profile.Profile) {
	t.Helper()
	ca := certtest.NewAuthority(t, "ca")
	id := ca.Server(t)
	certificate, err := tls.X509KeyPair([]byte(id.Cert), []byte(id.Key))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.Cert)
	cfg := openvpntest.Config{TLS: &tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
	}}
	cfg.Data.V2, cfg.Data.PeerID = true, 5
	if change != nil {
		change(&cfg)
	}
	if cfg.Network == "" {
		cfg.Network = "udp"
	}
	server := openvpntest.Start(t, cfg)
	return server, profileFor(t, ca, cfg.Network, int(server.Addr.Port()), lines)
}

// innerServer is the in-process server's address inside the tunnel.
func innerServer() netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, 1}) }

func mustParse(t testing.TB, text string) *profile.Profile {
	t.Helper()
	p, _, err := profile.Parse(strings.NewReader(text), "test.ovpn", profile.Files{Secret: os.ReadFile, Public: profile.ReadPublic})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// minimal is a profile that works, to which tests add lines.
func minimal() string {
	return "client\ndev tun\nremote vpn.example\n" + certtest.Inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")
}

// waitForKey waits until packets are sent with key id.
func waitForKey(t *testing.T, c *testClient, id uint8) {
	t.Helper()
	waitFor(t, fmt.Sprintf("key id %d", id), func() bool {
		s := c.session.Load()
		if s == nil {
			t.Fatal("the session is gone")
		}
		return s.data.Keys.Sending() == int(id)
	})
}

// freePort returns a port for a server that starts later. Linux gives none of this range to sockets that ask for any port, so nobody takes
// it meanwhile.
func freePort(t testing.TB, network string) int {
	t.Helper()
	var err error
	for range 100 {
		port := 20000 + rand.IntN(12000)
		at := fmt.Sprintf("127.0.0.1:%d", port)
		var taken io.Closer
		if network == "tcp" {
			taken, err = net.Listen("tcp4", at)
		} else {
			taken, err = net.ListenPacket("udp4", at)
		}
		if err == nil {
			_ = taken.Close()
			return port
		}
	}
	t.Fatal(err)
	return 0
}
