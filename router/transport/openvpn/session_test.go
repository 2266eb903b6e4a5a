package openvpn

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/internal/data"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/openvpntest"
	"penstock/router/transport/openvpn/internal/wire"
	"penstock/router/transport/openvpn/profile"
)

func staticKey(t testing.TB, text string) *wire.StaticKey {
	t.Helper()
	k, err := wire.ParseStaticKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return &k
}

func tlsCryptServer(key *wire.StaticKey) func() (wire.Wrap, error) {
	return func() (wire.Wrap, error) { return wire.NewTLSCrypt(key, wire.Normal, time.Now) }
}

func TestSessionCarriesDataThroughRenegotiations(t *testing.T) {
	text := certtest.StaticKey(t)
	key := staticKey(t, text)
	tests := []struct {
		name, lines string
		change      func(*openvpntest.Config)
	}{
		{"classic format, exporter keys", "", nil},
		{"keys from the PRF", "", func(c *openvpntest.Config) { c.PRF = true }},
		{"the epoch format", "", func(c *openvpntest.Config) { c.Data.Epoch = true }},
		{"a server without peer ids", "", func(c *openvpntest.Config) { c.Data.V2 = false }},
		{"peer id 0", "", func(c *openvpntest.Config) { c.Data.PeerID = 0 }},
		{"chacha over TCP", "", func(c *openvpntest.Config) { c.Network, c.Data.Cipher = "tcp", datakey.ChaCha20 }},
		{"TLS 1.2", "tls-version-max 1.2\n", nil},
		{"dynamic tls-crypt alone", "", func(c *openvpntest.Config) { c.Dynamic = true }},
		{"dynamic tls-crypt on top of tls-crypt", certtest.Inline("tls-crypt", text), func(c *openvpntest.Config) {
			c.Dynamic, c.Key, c.Wrap = true, key, tlsCryptServer(key)
		}},
		{"static tls-crypt all the way", certtest.Inline("tls-crypt", text), func(c *openvpntest.Config) { c.Wrap = tlsCryptServer(key) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, profile := serve(t, tt.lines, tt.change)
			client := newTestClient(t, profile, nil)
			client.connect(t)
			p := startPinger(t, client.device, client.addr(t), innerServer(), 2*time.Millisecond)
			for id := range uint8(9) {
				want := id%7 + 1
				server.Renegotiate()
				waitFor(t, fmt.Sprintf("key id %d", want), func() bool { return server.KeyID() == int(want) })
				waitForKey(t, client, want)
			}
			if sent, lost := p.finish(); lost > 0 {
				t.Errorf("lost %d of %d probes, want 0", lost, sent)
			}
		})
	}
}

func TestSessionWithTLSCryptV2SendsTheWrappedKeyOnTwoPacketsOnly(t *testing.T) {
	text := certtest.StaticKey(t)
	key := staticKey(t, text)
	wkc := append([]byte(strings.Repeat("w", 297)), 299>>8, 299&0xff)
	clientKey := certtest.PEM("OpenVPN tls-crypt-v2 client key", append(slices.Clone(key[:]), wkc...))
	server, profile := serve(t, certtest.Inline("tls-crypt-v2", clientKey), func(c *openvpntest.Config) { c.WKC, c.Wrap = wkc, tlsCryptServer(key) })
	client := newTestClient(t, profile, nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
	seen := server.Seen()
	if seen[0].Op != wire.HardResetClientV3 || seen[1].Op != wire.ControlWKC {
		t.Errorf("first packets: got %v, want opcodes %d and %d and no acknowledgement between", seen[:2], wire.HardResetClientV3, wire.ControlWKC)
	}
	for _, p := range seen[2:] {
		if p.Op == wire.HardResetClientV3 || p.Op == wire.ControlWKC {
			t.Errorf("the wrapped key was sent once more: %v", seen)
		}
	}
	for _, p := range seen {
		if p.Size > 1250 {
			t.Errorf("a packet of %d bytes, want at most 1250", p.Size)
		}
	}
}

func TestSessionWhenBothSidesRenegotiateAtOnce(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	s := client.session.Load()
	for id := range uint8(3) {
		if err := s.do(func() error {
			server.Renegotiate()
			if s.control.Pending() == nil {
				s.control.Renegotiate(time.Now())
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the negotiation", func() bool { return server.KeyID() == int(id+1) })
		ping(t, client.device, client.addr(t), innerServer())
	}
}

func TestSessionRenegotiatesWhenItsKeyIsSpent(t *testing.T) {
	t.Parallel()
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	s := client.session.Load()
	if err := s.do(func() error {
		o, n := s.options, s.control.Current()
		key, err := s.control.Key(n, o.Exporter, datakey.Params{Cipher: o.Cipher, PeerID: o.PeerID, V2: o.V2})
		s.data.Install(n.KeyID(), spentKey{key}, data.Format{V2: o.V2}, time.Time{}, time.Time{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the negotiation", func() bool { return server.KeyID() == 1 })
	ping(t, client.device, client.addr(t), innerServer())
}

type spentKey struct{ datakey.Key }

func (spentKey) Spent() bool { return true }

func TestSessionKeepsTheOldKeyUntilTheServerUsesTheNew(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	s := client.session.Load()
	server.Renegotiate()
	waitFor(t, "the new key", func() bool { return slices.Contains(s.data.Keys.Opening(), 1) })
	if got := s.data.Keys.Sending(); got != 0 {
		t.Errorf("sending before the server has used the new key: got key id %d, want 0", got)
	}
	ping(t, client.device, client.addr(t), innerServer())
	if got := s.data.Keys.Sending(); got != 1 {
		t.Errorf("after an answer: got key id %d, want 1", got)
	}
}

func TestSessionDropsWhatIsNotTheServers(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	own, peer := server.IDs()
	stranger := wire.SessionID{1, 2, 3, 4, 5, 6, 7, 8}
	for _, p := range []wire.Packet{
		{Op: wire.SoftReset, KeyID: 1, Session: stranger},                                                 // an old server session
		{Op: wire.Control, KeyID: 0, Session: own, Acks: []uint32{0}, Peer: stranger, ID: 9},              // meant for an old session of ours
		{Op: wire.SoftReset, KeyID: 4, Session: own},                                                      // not the next key id
		{Op: wire.HardResetServer, KeyID: 0, Session: stranger},                                           // unprompted
		{Op: wire.HardResetClient, KeyID: 0, Session: stranger, Acks: []uint32{0}, Peer: peer, ID: 0},     // a client's
		{Op: wire.Control, KeyID: 0, Session: own, ID: 1 << 30, Payload: []byte("far beyond the window")}, // beyond the window
		{Op: wire.Ack, KeyID: 0, Session: own, Acks: []uint32{0, 0, 99, 7}, Peer: peer},                   // doubled and unknown
	} {
		server.SendPacket(wire.Plain{}.Seal(&p))
	}
	for _, raw := range []string{"", "\x08", "\xff\xff\xff", "\x48\x00\x00\x05junk", "\x30junkjunkjunkjunkjunkjunkjunk", "\x20short", "\x4f\x00\x00\x05" + strings.Repeat("x", 60)} {
		server.SendPacket([]byte(raw))
	}
	ping(t, client.device, client.addr(t), innerServer())
	s := client.session.Load()
	if s == nil {
		t.Fatal("a stray packet ended the session")
	}
	if err := s.do(func() error {
		if s.control.Pending() != nil {
			t.Error("a stray packet began a negotiation")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestSessionIsLostWhenTheServerHasForgottenIt(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	_, peer := server.IDs()
	server.SendPacket(wire.Plain{}.Seal(&wire.Packet{Op: wire.HardResetServer, Session: wire.SessionID{9}, Acks: []uint32{0}, Peer: peer}))
	if err := <-client.lost; !strings.Contains(err.Error(), "forgotten") {
		t.Errorf("Lost: got %v", err)
	}
}

func TestSessionMessages(t *testing.T) {
	tests := []struct {
		name, message, want string
		blocked             bool
	}{
		{"RESTART", "RESTART,maintenance", `the server restarts: "maintenance"`, false},
		{"RESTART with flags", "RESTART,[P]maintenance", `the server restarts: "maintenance"`, false},
		{"HALT", "HALT,go away", `for good: "go away"`, true},
		{"EXIT", "EXIT", "the server ends the session", false},
		{"AUTH_FAILED", "AUTH_FAILED,account closed", `refuses: "account closed"`, true},
		{"AUTH_FAILED for now", "AUTH_FAILED,TEMP[backoff 3]:busy", `refuses for now: "busy"`, false},
		{"several messages in one record", "INFO,hello\x00WHAT\x00\x00RESTART,last", `"last"`, false},
		{"a reason that would forge log lines", "HALT,a\nb\x1b[2J", `"a b [2J"`, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, profile := serve(t, "", nil)
			client := newTestClient(t, profile, nil)
			client.connect(t)
			server.Send(tt.message)
			err := <-client.lost
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Lost: got %v, want %q in it", err, tt.want)
			}
			if _, blocked := errors.AsType[*transport.BlockedError](err); blocked != tt.blocked {
				t.Errorf("Lost: got %T, want blocked %v", err, tt.blocked)
			}
		})
	}
}

func TestSessionPushInManyMessages(t *testing.T) {
	server, profile := serve(t, "", func(c *openvpntest.Config) {
		var push []string
		for i := range 150 {
			var routes []string
			for j := range 20 {
				routes = append(routes, fmt.Sprintf("route 172.%d.%d.0 255.255.255.0", 16+i, j))
			}
			push = append(push, "PUSH_REPLY,"+strings.Join(routes, ",")+",push-continuation 2")
		}
		c.Push = append(push, "PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm,push-continuation 1")
	})
	client := newTestClient(t, profile, nil)
	client.connect(t)
	if got := len(client.settings.last(t).Routes); got != 3000 {
		t.Errorf("routes: got %d, want 3000", got)
	}
	ping(t, client.device, client.addr(t), innerServer())
	server.Send("PUSH_UPDATE,-route,push-continuation 2")
	server.Send("PUSH_UPDATE,route 192.168.9.0 255.255.255.0,dhcp-option DNS 10.9.0.1,?dns nonsense,cipher none,push-continuation 1")
	waitFor(t, "the update", func() bool { return len(client.settings.last(t).Routes) == 1 })
	got := client.settings.last(t)
	if len(got.Addrs) != 1 || len(got.DNS) != 1 {
		t.Errorf("after the update: got %+v", got)
	}
	ping(t, client.device, client.addr(t), innerServer())
}

func TestConnectRefusesPushes(t *testing.T) {
	reply := "PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,protocol-flags tls-ekm,"
	tests := []struct {
		name, push, lines, want string
		blocked                 bool
	}{
		{"compression demanded", reply + "cipher AES-256-GCM,compress lz4", "", "demands compression", true},
		{"compression demanded, the old way", reply + "cipher AES-256-GCM,comp-lzo adaptive", "", "demands compression", true},
		{"no cipher", reply, "", "data-ciphers-fallback", true},
		{"a cipher not offered", reply + "cipher AES-192-GCM", "", "was not offered", true},
		{"an unknown cipher", reply + "cipher BF-CBC", "", "was not offered", true},
		{"epoch keys without the exporter", "PUSH_REPLY,cipher AES-256-GCM,protocol-flags aead-epoch", "", "without the TLS exporter", false},
		{"an option that pull-filter rejects", reply + "cipher AES-256-GCM,route 10.0.0.0 255.0.0.0", "pull-filter reject \"route 10.\"\n", "pull-filter rejects", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, profile := serve(t, tt.lines, func(c *openvpntest.Config) { c.Push = []string{tt.push} })
			client := newTestClient(t, profile, nil)
			err := client.Connect(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Connect: got %v, want %q in it", err, tt.want)
			}
			if _, blocked := errors.AsType[*transport.BlockedError](err); blocked != tt.blocked {
				t.Errorf("Connect: got %T, want blocked %v", err, tt.blocked)
			}
		})
	}
}

func TestConnectEndsWithTheHandshake(t *testing.T) {
	tests := []struct {
		name, lines, want string
		change            func(*openvpntest.Config)
	}{
		{"a server that stops in the middle", "hand-window 1\n", "TLS handshake took longer than 1s", func(c *openvpntest.Config) { c.Silent = true }},
		{"a server that falls silent in TLS", "", "the TLS handshake: nothing came from the server for 15s", func(c *openvpntest.Config) { c.Silent = true }},
		{"a wrong tls-crypt key", "connect-timeout 1\n", "no answer from udp", func(c *openvpntest.Config) {
			c.Wrap = tlsCryptServer(staticKey(t, certtest.StaticKey(t)))
		}},
		{"a server that refuses our certificate", "", "tls: unknown certificate authority", func(c *openvpntest.Config) {
			c.TLS.ClientCAs = nil
			c.TLS.ClientAuth = tls.RequireAndVerifyClientCert
			c.TLS.MaxVersion = tls.VersionTLS12
		}},
		{"a server without an answer to the key exchange", "hand-window 1\n", "waiting for the server's options took longer", func(c *openvpntest.Config) { c.Push = []string{} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, profile := serve(t, tt.lines, tt.change)
			client := newTestClient(t, profile, nil)
			err := client.Connect(t.Context())
			reasoned, ok := errors.AsType[*transport.ReasonedError](err)
			if !ok || reasoned.Reason != transport.ReasonHandshakeFailed || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Connect: got %v, want a ReasonedError with %q", err, tt.want)
			}
		})
	}
}

func TestConnectTriesTheNextRemote(t *testing.T) {
	server, p := serve(t, "", nil)
	closed := freePort(t, "tcp")
	p.Remotes = append([]profile.Remote{{Host: "127.0.0.1", Port: uint16(closed), Network: "tcp"}, {Host: "nowhere.invalid", Port: 1, Network: "udp"}}, p.Remotes...)
	client := newTestClient(t, p, nil)
	client.connect(t)
	if got := client.Stats().Endpoint; got != server.Addr.String() {
		t.Errorf("endpoint: got %s, want %s", got, server.Addr)
	}
}

func TestConnectWaitsForAServerThatChecksTheUser(t *testing.T) {
	t.Parallel()
	server, profile := serve(t, "server-poll-timeout 1\n"+certtest.Inline("auth-user-pass", "ana\ngeheim\n"), func(c *openvpntest.Config) {
		c.Reply = func(string, string) string {
			time.Sleep(3 * time.Second) // stands for a script that asks a directory
			return ""
		}
	})
	client := newTestClient(t, profile, nil)
	client.connect(t)
	if got := server.Logins(); len(got) != 1 {
		t.Errorf("logins: got %q, want one", got)
	}
}

func TestConnectPassesSilentRemotes(t *testing.T) {
	t.Parallel()
	_, p := serve(t, "server-poll-timeout 60\n", nil)
	for range 2 {
		silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = silent.Close() }()
		port := uint16(silent.LocalAddr().(*net.UDPAddr).Port)
		p.Remotes = append([]profile.Remote{{Host: "127.0.0.1", Port: port, Network: "udp"}}, p.Remotes...)
	}
	client := newTestClient(t, p, nil)
	client.connect(t) // in less than one silent server would have, were it alone
}

func TestConnectStopsWhenClosed(t *testing.T) {
	_, profile := serve(t, "", func(c *openvpntest.Config) { c.Silent = true })
	client := newTestClient(t, profile, nil)
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	waitFor(t, "the attempt", func() bool { return client.Stats().TxBytes > 0 })
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err == nil {
		t.Error("Connect: got nil")
	}
	if err := client.Connect(t.Context()); err == nil {
		t.Error("Connect after Close: got nil")
	}
	if err := client.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestConnectReplacesTheSessionAndKeepsTheDevice(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	for range 3 {
		client.connect(t)
		ping(t, client.device, client.addr(t), innerServer())
	}
	if got := len(client.lost); got != 0 {
		t.Errorf("Lost was called %d times, want 0", got)
	}
	if got := server.Messages(); len(got) == 0 || got[0] != "EXIT" {
		t.Errorf("messages: got %q, want EXIT", got)
	}
}

func TestBeforeItIsUp(t *testing.T) {
	_, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	if err := client.Probe(t.Context()); !errors.Is(err, transport.ErrNotUp) {
		t.Errorf("Probe: got %v, want %v", err, transport.ErrNotUp)
	}
	if err := client.Rebind(); !errors.Is(err, transport.ErrNotUp) {
		t.Errorf("Rebind: got %v, want %v", err, transport.ErrNotUp)
	}
	if got := client.Stats(); got != (transport.Stats{}) {
		t.Errorf("Stats: got %+v, want zero", got)
	}
}

func TestRebindOverTCPSaysToConnectAgain(t *testing.T) {
	_, profile := serve(t, "", func(c *openvpntest.Config) { c.Network = "tcp" })
	client := newTestClient(t, profile, nil)
	client.connect(t)
	if err := client.Rebind(); err == nil {
		t.Error("got nil")
	}
}

func TestLostIsToldOfSilence(t *testing.T) {
	t.Parallel()
	server, profile := serve(t, "", func(c *openvpntest.Config) {
		c.Push = []string{"PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm,ping 1,ping-restart 2"}
	})
	client := newTestClient(t, profile, nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
	server.Forget()
	err := <-client.lost
	if got, ok := errors.AsType[transport.ErrKeepaliveTimeout](err); !ok || got.LastReceived.IsZero() {
		t.Errorf("Lost: got %v, want ErrKeepaliveTimeout", err)
	}
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
}

func TestLostIsToldOfAClosedPort(t *testing.T) {
	t.Parallel()
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	server.Close()
	if _, ok := errors.AsType[transport.ErrKeepaliveTimeout](<-client.lost); !ok {
		t.Error("Lost: want ErrKeepaliveTimeout")
	}
}

func TestCredentials(t *testing.T) {
	encode := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	type answers map[ChallengeKind]string
	tests := []struct {
		name, lines string
		reply       func(user, pass string) string
		answers     answers
		logins      []string
		asked       []ChallengeKind
		blocked     bool
	}{
		{
			name: "user and password", lines: "auth-user-pass\n", answers: answers{ChallengePassword: "geheim"},
			logins: []string{"ana:geheim"}, asked: []ChallengeKind{ChallengePassword},
		},
		{
			name: "user and password in the profile", lines: certtest.Inline("auth-user-pass", "bo\npw\n"),
			logins: []string{"bo:pw"},
		},
		{
			name: "a static challenge", lines: "auth-user-pass\nstatic-challenge \"Code?\" 1\n", answers: answers{ChallengePassword: "geheim", ChallengeStatic: "123"},
			logins: []string{"ana:SCRV1:" + encode("geheim") + ":" + encode("123")}, asked: []ChallengeKind{ChallengePassword, ChallengeStatic},
		},
		{
			name: "a dynamic challenge", lines: "auth-user-pass\n", answers: answers{ChallengePassword: "geheim", ChallengeDynamic: "42"},
			reply: func(_, pass string) string {
				if pass == "CRV1::state7::42" {
					return ""
				}
				return "AUTH_FAILED,CRV1:R,E:state7:" + encode("ana") + ":Code: now?"
			},
			logins: []string{"ana:geheim", "ana:CRV1::state7::42"}, asked: []ChallengeKind{ChallengePassword, ChallengeDynamic},
		},
		{
			name: "a wrong password", lines: "auth-user-pass\n", answers: answers{ChallengePassword: "falsch"},
			reply:  func(string, string) string { return "AUTH_FAILED" },
			logins: []string{"ana:falsch"}, asked: []ChallengeKind{ChallengePassword}, blocked: true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			server, profile := serve(t, tt.lines, func(c *openvpntest.Config) { c.Reply = tt.reply })
			var asked []ChallengeKind
			client := newTestClient(t, profile, func(cfg *Config) {
				cfg.Credentials = func(_ context.Context, c Challenge) (string, string, error) {
					asked = append(asked, c.Kind)
					return "ana", tt.answers[c.Kind], nil
				}
			})
			err := client.Connect(t.Context())
			if _, blocked := errors.AsType[*transport.BlockedError](err); blocked != tt.blocked || err != nil && !blocked {
				t.Errorf("Connect: got %v, want blocked %v", err, tt.blocked)
			}
			if got := server.Logins(); !slices.Equal(got, tt.logins) {
				t.Errorf("logins: got %q, want %q", got, tt.logins)
			}
			if !slices.Equal(asked, tt.asked) {
				t.Errorf("asked: got %v, want %v", asked, tt.asked)
			}
		})
	}
}

func TestCredentialsNobodyToAsk(t *testing.T) {
	_, profile := serve(t, "auth-user-pass\n", nil)
	client := newTestClient(t, profile, nil)
	if _, ok := errors.AsType[*transport.BlockedError](client.Connect(t.Context())); !ok {
		t.Error("want a BlockedError")
	}
}

func TestTokenStandsInForThePassword(t *testing.T) {
	var expired atomic.Bool
	server, profile := serve(t, certtest.Inline("auth-user-pass", "ana\ngeheim\n"), func(c *openvpntest.Config) {
		c.Reply = func(_, pass string) string {
			if pass == "TOKEN2" && expired.Load() {
				return "AUTH_FAILED,SESSION:token expired"
			}
			return ""
		}
	})
	client := newTestClient(t, profile, nil)
	client.connect(t)
	server.Send("PUSH_REPLY,auth-token TOKEN1")
	server.Send("PUSH_REPLY,auth-token TOKEN2,auth-token-user " + base64.StdEncoding.EncodeToString([]byte("anna")))
	server.Send("PUSH_UPDATE,route 1.2.3.0 255.255.255.0")
	waitFor(t, "the messages", func() bool { return len(client.settings.last(t).Routes) == 1 })
	server.Renegotiate()
	waitFor(t, "the negotiation", func() bool { return server.KeyID() == 1 })
	client.connect(t)
	expired.Store(true)
	client.connect(t)
	want := []string{"ana:geheim", "anna:TOKEN2", "anna:TOKEN2", "anna:TOKEN2", "ana:geheim"}
	if got := server.Logins(); !slices.Equal(got, want) {
		t.Errorf("logins: got %q, want %q", got, want)
	}
}

func TestAuthPending(t *testing.T) {
	_, profile := serve(t, "hand-window 1\n", func(c *openvpntest.Config) {
		c.Push = []string{
			"AUTH_PENDING,timeout 30",
			"INFO_PRE,WEB_AUTH::https://sso.example/x",
			"INFO_PRE,CR_TEXT:R,E:Your code?",
		}
	})
	var asked []Challenge
	client := newTestClient(t, profile, func(cfg *Config) {
		cfg.Credentials = func(_ context.Context, c Challenge) (string, string, error) {
			if c.Kind == ChallengeText {
				return "", "", errors.New("not now")
			}
			asked = append(asked, c)
			return "", "", nil
		}
	})
	err := client.Connect(t.Context())
	if _, ok := errors.AsType[*transport.BlockedError](err); !ok || !strings.Contains(err.Error(), "not now") {
		t.Errorf("Connect: got %v", err)
	}
	if len(asked) != 1 || asked[0].Kind != ChallengeWeb || asked[0].Text != "https://sso.example/x" {
		t.Errorf("asked: got %+v", asked)
	}
}

func TestAServerThatWaitsForItsUserIsAskedForOptions(t *testing.T) {
	t.Parallel() // it takes 20 s to be sure
	server, profile := serve(t, "", func(c *openvpntest.Config) {
		c.Push = []string{"AUTH_PENDING,timeout 60", "INFO_PRE,WEB_AUTH::https://sso.example/"}
	})
	var user asker
	client := newTestClient(t, profile, func(cfg *Config) { cfg.Credentials = user.ask })
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	waitFor(t, "two requests", func() bool {
		return strings.Count(strings.Join(server.Messages(), " "), "PUSH_REQUEST") == 2
	})
	server.Close()
	err := <-result
	if _, blocked := errors.AsType[*transport.BlockedError](err); blocked || err == nil || !strings.Contains(err.Error(), "nothing came from the server") {
		t.Errorf("a server that is gone: got %v, want another attempt to be worth it", err)
	}
}

func TestAuthPendingAnswered(t *testing.T) {
	server, profile := serve(t, "hand-window 1\n", func(c *openvpntest.Config) {
		c.Push = []string{"AUTH_PENDING,timeout 30", "INFO_PRE,CR_TEXT:E:Your code?"}
	})
	client := newTestClient(t, profile, func(cfg *Config) {
		cfg.Credentials = func(_ context.Context, c Challenge) (string, string, error) { return "", "4711", nil }
	})
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	want := "CR_RESPONSE," + base64.StdEncoding.EncodeToString([]byte("4711"))
	waitFor(t, "the answer", func() bool { return slices.Contains(server.Messages(), want) })
	server.Send("PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm")
	if err := <-result; err != nil {
		t.Errorf("Connect: %v", err)
	}
}

// asker is a user who sees questions and answers none.
type asker struct {
	mu    sync.Mutex // guards below
	asked []Challenge
}

func (a *asker) ask(ctx context.Context, c Challenge) (string, string, error) {
	a.mu.Lock()
	a.asked = append(a.asked, c)
	a.mu.Unlock()
	<-ctx.Done()
	return "", "", ctx.Err()
}

func (a *asker) last() (c Challenge, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n = len(a.asked); n > 0 {
		c = a.asked[n-1]
	}
	return c, n
}

func TestASignInThatDoesNotHappen(t *testing.T) {
	const push = "PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm"
	long := "https://sso.example/" + strings.Repeat("a", 1000)
	flood := func(message string, n int) (list []string) {
		for range n {
			list = append(list, message)
		}
		return list
	}
	for _, row := range []struct {
		name, lines string
		push        []string
		after       []string // sent once the user was asked
		want        string   // of the error; empty: it connects
		reason      transport.Reason
		asked       int
	}{
		{"nobody comes", "hand-window 4\n", []string{"AUTH_PENDING,timeout 5", "INFO_PRE,WEB_AUTH::" + long}, nil, "nobody has signed in within the server's 5s", transport.ReasonSignIn, 1},
		{"nobody confirms what the server asks elsewhere", "", []string{"AUTH_PENDING,timeout 1"}, nil, "nobody has signed in within the server's 1s", transport.ReasonSignIn, 0},
		{"a server that asks for more and more time has half of reneg-sec", "hand-window 4\nreneg-sec 10\n",
			append(flood("AUTH_PENDING,timeout 3600", 500), "INFO_PRE,CR_TEXT:R:Code"), nil, "nobody has signed in within the server's 5s", transport.ReasonSignIn, 1},
		{"the server refuses", "", []string{"AUTH_PENDING,timeout 60", "INFO_PRE,OPEN_URL:" + long}, []string{"AUTH_FAILED,too late"}, `the server refuses: "too late"`, transport.ReasonSignIn, 1},
		{"the server refuses what was confirmed elsewhere", "", []string{"AUTH_PENDING,timeout 60", "AUTH_FAILED,denied"}, nil, `the server refuses: "denied"`, transport.ReasonSignIn, 0},
		{"a page that is none", "", []string{"AUTH_PENDING,timeout 60", "INFO_PRE,WEB_AUTH::file:///etc/passwd"}, nil, "neither http nor https", transport.ReasonError, 0},
		{"a page with a line in it", "", []string{"INFO_PRE,OPEN_URL:https://x.example/\nsign in: y"}, nil, "an address with the byte 0xa", transport.ReasonError, 0},
		{"a flood of questions", "", append([]string{"AUTH_PENDING,timeout 60"}, flood("INFO_PRE,CR_TEXT:R:Code", 100)...), nil, "more than 16 times", transport.ReasonError, 16},
		{"the user is let in", "", []string{"AUTH_PENDING,timeout 60", "INFO_PRE,WEB_AUTH:external:" + long}, []string{push}, "", "", 1},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			server, profile := serve(t, row.lines, func(c *openvpntest.Config) { c.Push = row.push })
			var user asker
			client := newTestClient(t, profile, func(cfg *Config) { cfg.Credentials = user.ask })
			result := make(chan error, 1)
			go func() { result <- client.Connect(t.Context()) }()
			if len(row.after) > 0 {
				waitFor(t, "the question", func() bool { c, _ := user.last(); return c.Text == long })
				for _, m := range row.after {
					server.Send(m)
				}
			}
			err := <-result
			if row.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			if b, ok := errors.AsType[*transport.BlockedError](err); !ok || b.Reason != row.reason || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want it blocked by %s for %q", err, row.reason, row.want)
			}
			if _, n := user.last(); n > row.asked || row.asked == 1 && n != 1 {
				t.Errorf("got %d questions, want %d", n, row.asked)
			}
			if got := server.Logins(); len(got) != 1 {
				t.Errorf("got %d attempts, want one: %q", len(got), got)
			}
		})
	}
}

func TestAQuestionTakesThePlaceOfTheLast(t *testing.T) {
	server, profile := serve(t, "", func(c *openvpntest.Config) {
		c.Push = []string{"AUTH_PENDING,timeout 60", "INFO_PRE,CR_TEXT:E:Code"}
	})
	taken := make(chan string, 1)
	second := make(chan struct{})
	client := newTestClient(t, profile, func(cfg *Config) {
		cfg.Credentials = func(ctx context.Context, c Challenge) (string, string, error) {
			if c.Text == "Code" {
				<-ctx.Done()
				taken <- c.Text
				return "", "", ctx.Err()
			}
			close(second)
			return "", "42", nil
		}
	})
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	waitFor(t, "the first session", func() bool { return len(server.Logins()) == 1 && server.KeyID() == 0 })
	server.Send("INFO_PRE,CR_TEXT:R:Wrong. Code again")
	<-second
	want := "CR_RESPONSE," + base64.StdEncoding.EncodeToString([]byte("42"))
	waitFor(t, "the answer", func() bool { return slices.Contains(server.Messages(), want) })
	select {
	case <-taken:
	case err := <-result:
		t.Fatalf("Connect: %v", err)
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; err == nil {
		t.Error("Connect: got nil after Close")
	}
}

func TestCloseEndsAQuestion(t *testing.T) {
	_, profile := serve(t, "", func(c *openvpntest.Config) {
		c.Push = []string{"AUTH_PENDING,timeout 60", "INFO_PRE,WEB_AUTH::https://sso.example/"}
	})
	var user asker
	client := newTestClient(t, profile, func(cfg *Config) { cfg.Credentials = user.ask })
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	waitFor(t, "the question", func() bool { _, n := user.last(); return n == 1 })
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; err == nil {
		t.Error("Connect: got nil after Close")
	}
}

func TestOptionsAreAskedForWhereTheServerWaits(t *testing.T) {
	t.Parallel()
	server, profile := serve(t, "", func(c *openvpntest.Config) { c.Push = []string{} })
	client := newTestClient(t, profile, nil)
	result := make(chan error, 1)
	go func() { result <- client.Connect(t.Context()) }()
	waitFor(t, "the request", func() bool { return slices.Contains(server.Messages(), "PUSH_REQUEST") })
	server.Send("PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm")
	if err := <-result; err != nil {
		t.Errorf("Connect: %v", err)
	}
}

func TestConfigureFailureFailsTheSession(t *testing.T) {
	_, profile := serve(t, "", nil)
	client := newTestClient(t, profile, func(cfg *Config) {
		cfg.Configure = func(Settings) error { return errors.New("no room") }
	})
	if err := client.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("Connect: got %v", err)
	}
}

func TestOnlyTheNewestTwoKeysOpen(t *testing.T) {
	server, profile := serve(t, "", nil)
	client := newTestClient(t, profile, nil)
	client.connect(t)
	s := client.session.Load()
	for id := range 4 {
		server.Renegotiate()
		waitFor(t, "the negotiation", func() bool { return slices.Contains(s.data.Keys.Opening(), id+1) })
		open := s.data.Keys.Opening()
		if want := []int{id, id + 1}; !slices.Equal(open, want) {
			t.Errorf("keys: got %v, want %v", open, want)
		}
		waitFor(t, "the server's end of it", func() bool { return server.KeyID() == id+1 })
	}
}

func TestPeerIDIsReadAgainOnEveryConnect(t *testing.T) {
	first, p := serve(t, "", func(c *openvpntest.Config) { c.Data.PeerID = 7 })
	client := newTestClient(t, p, nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
	if got := client.session.Load().options.PeerID; got != 7 {
		t.Errorf("first: got peer id %d, want 7", got)
	}
	first.Close()
	second, other := serve(t, "", func(c *openvpntest.Config) { c.Data.PeerID = 0 })
	p.Remotes, p.Trust, p.Certificate = other.Remotes, other.Trust, other.Certificate
	client.connect(t)
	ping(t, client.device, client.addr(t), innerServer())
	if got := client.session.Load().options.PeerID; got != 0 || second.KeyID() != 0 {
		t.Errorf("second: got peer id %d, want 0", got)
	}
}

func TestSecretsAreNotLogged(t *testing.T) {
	server, profile := serve(t, certtest.Inline("auth-user-pass", "ana\ngeheim\n"), func(c *openvpntest.Config) {
		c.Push = []string{"PUSH_REPLY,ifconfig 10.9.0.2 255.255.255.0,topology subnet,peer-id 5,cipher AES-256-GCM,protocol-flags tls-ekm,auth-token TOKEN1,frobnicate TOKEN2,dhcp-option TOKEN3"}
	})
	var log bytes.Buffer
	client := newTestClient(t, profile, func(cfg *Config) {
		cfg.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	client.connect(t)
	server.Send("PUSH_REPLY,auth-token TOKEN4")
	server.Send("WHATEVER,TOKEN5")
	server.Send("AUTH_FAILED")
	<-client.lost
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"geheim", "TOKEN1", "TOKEN2", "TOKEN4", "TOKEN5"} {
		if strings.Contains(log.String(), s) {
			t.Errorf("%s is in the log:\n%s", s, &log)
		}
	}
	if !strings.Contains(log.String(), "frobnicate") {
		t.Errorf("an option left out is not in the log:\n%s", &log)
	}
}
