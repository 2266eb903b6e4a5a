package openvpn

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/certtest"
)

const probeEvery = 50 * time.Millisecond

// wrapLines are the lines of server and client for each protection of the control channel.
func wrapLines(t *testing.T, s *realServer, kind string) (server, client string) {
	t.Helper()
	key := certtest.StaticKey(t)
	switch kind {
	case "none":
		return "", ""
	case "tls-auth":
		return "auth SHA256\nkey-direction 0\n" + certtest.Inline("tls-auth", key), "auth SHA256\nkey-direction 1\n" + certtest.Inline("tls-auth", key)
	case "tls-auth without a direction":
		return certtest.Inline("tls-auth", key), certtest.Inline("tls-auth", key)
	case "tls-crypt":
		return certtest.Inline("tls-crypt", key), certtest.Inline("tls-crypt", key)
	}
	serverKey, clientKey := filepath.Join(s.dir, "v2-server.key"), filepath.Join(s.dir, "v2-client.key")
	genkey(t, s.binary, "tls-crypt-v2-server", serverKey)
	genkey(t, s.binary, "tls-crypt-v2-client", clientKey, "--tls-crypt-v2", serverKey)
	mode := ""
	if kind == "tls-crypt-v2 with a forced cookie" {
		mode = " force-cookie"
	} else if kind == "tls-crypt-v2 without a cookie" {
		mode = " allow-noncookie"
	}
	return fmt.Sprintf("tls-crypt-v2 %s%s\n", serverKey, mode), fmt.Sprintf("tls-crypt-v2 %s\n", clientKey)
}

func genkey(t *testing.T, binary, kind, file string, more ...string) {
	t.Helper()
	if out, err := exec.Command(binary, append([]string{"--genkey", kind, file}, more...)...).CombinedOutput(); err != nil {
		t.Fatalf("genkey %s: %v\n%s", kind, err, out)
	}
}

func TestInteropRenegotiationLosesNothing(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		for _, wrap := range []string{"none", "tls-auth", "tls-auth without a direction", "tls-crypt", "tls-crypt-v2 with a forced cookie", "tls-crypt-v2 without a cookie"} {
			t.Run(network+" with "+wrap, func(t *testing.T) {
				t.Parallel()
				ca := certtest.NewAuthority(t, "ca")
				server := newRealServer(t, ca, network, "reneg-sec 4 4\n")
				serverLines, clientLines := wrapLines(t, server, wrap)
				server.config += serverLines
				server.start()
				client := newTestClient(t, profileFor(t, ca, network, server.port, clientLines), nil)
				client.connect(t)
				p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
				waitForKey(t, client, 3)
				sent, lost := p.finish()
				if lost > 0 {
					t.Errorf("lost %d of %d probes, want 0", lost, sent)
				}
				if got := len(client.lost); got > 0 {
					t.Errorf("lost the session: %v", <-client.lost)
				}
			})
		}
	}
}

func TestInteropKeyIDsWrapFrom7To1(t *testing.T) {
	for _, wrap := range []string{"none", "tls-crypt"} {
		t.Run(wrap, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, "udp", "")
			serverLines, clientLines := wrapLines(t, server, wrap)
			server.config += serverLines
			server.start()
			client := newTestClient(t, profileFor(t, ca, "udp", server.port, "reneg-sec 1\n"+clientLines), nil)
			client.connect(t)
			p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
			waitForKey(t, client, 7)
			waitForKey(t, client, 2)
			if sent, lost := p.finish(); lost > 0 {
				t.Errorf("lost %d of %d probes, want 0", lost, sent)
			}
		})
	}
}

func TestInteropCiphers(t *testing.T) {
	for _, cipher := range []string{"AES-128-GCM", "AES-192-GCM", "AES-256-GCM", "CHACHA20-POLY1305"} {
		t.Run("a server that speaks only "+cipher, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, "udp", "data-ciphers "+cipher+"\n")
			server.start()
			client := newTestClient(t, profileFor(t, ca, "udp", server.port, "data-ciphers AES-256-GCM:AES-192-GCM:AES-128-GCM:CHACHA20-POLY1305\n"), nil)
			client.connect(t)
			ping(t, client.device, client.addr(t), server.inner)
			if got := string(client.session.Load().options.Cipher); got != cipher {
				t.Errorf("cipher: got %s, want %s", got, cipher)
			}
		})
	}
}

func TestInteropCompressionFraming(t *testing.T) {
	tests := []struct{ name, server, client, want string }{
		{"pushed comp-lzo no", "comp-lzo no\npush \"comp-lzo no\"\n", "", ""},
		{"pushed compress", "compress\npush \"compress\"\n", "", ""},
		{"pushed compress stub-v2", "compress stub-v2\npush \"compress stub-v2\"\n", "", ""},
		{"comp-lzo no in both files", "comp-lzo no\n", "comp-lzo no\n", ""},
		{"compress in both files", "compress\n", "compress stub\n", ""},
		{"comp-lzo no in the profile alone", "", "comp-lzo no\n", ""},
		{"comp-lzo no in the server's file alone", "comp-lzo no\n", "", `add "comp-lzo no" to the profile`},
		{"comp-lzo in the profile alone", "", "comp-lzo\n", ""},
		{"comp-lzo in both files", "comp-lzo\n", "comp-lzo\n", ""},
		{"pushed compression", "compress lz4\npush \"compress lz4\"\n", "", "LZ4"},
		{"a server that splits packets", "fragment 1300\n", "", "remove fragment from the server's file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, "udp", tt.server)
			server.start()
			client := newTestClient(t, profileFor(t, ca, "udp", server.port, tt.client), nil)
			if tt.want != "" {
				if err := client.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Connect: got %v, want %q", err, tt.want)
				}
				return
			}
			client.connect(t)
			ping(t, client.device, client.addr(t), server.inner)
		})
	}
}

// The summaries of both sides say comp-lzo, whatever the kind: the server's pings authenticate, and mean nothing.
func TestInteropFramedPingsAreNoSignOfLife(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "compress\n")
	server.config = strings.Replace(server.config, "keepalive 5 60\n", "ping 1\n", 1)
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, "comp-lzo no\n"), nil)
	client.connect(t)
	err := <-client.lost
	if _, ok := errors.AsType[*transport.BlockedError](err); !ok || !strings.Contains(err.Error(), `cannot be read`) || !strings.Contains(err.Error(), `as "compress" does`) {
		t.Errorf("Lost: got %v, want a BlockedError that names the line", err)
	}
}

func TestInteropTLSVersions(t *testing.T) {
	for _, version := range []string{"1.2", "1.3"} {
		t.Run("TLS "+version, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, "udp", "tls-version-min "+version+"\ntls-version-max "+version+"\n")
			server.start()
			client := newTestClient(t, profileFor(t, ca, "udp", server.port, ""), nil)
			client.connect(t)
			ping(t, client.device, client.addr(t), server.inner)
		})
	}
}

func TestInteropPushedSettings(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "server-ipv6 fd42:21::/64\n"+`push "dhcp-option DNS 10.8.21.1"
push "dhcp-option DOMAIN corp.test"
push "route 192.168.77.0 255.255.255.0"
push "route 192.168.78.1"
push "redirect-gateway def1"
push "route-ipv6 fd00::/8"
`)
	for i := range 200 { // more than one message holds
		server.config += fmt.Sprintf("push \"route 172.16.%d.0 255.255.255.0\"\n", i)
	}
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, ""), nil)
	client.connect(t)
	got := client.settings.last(t)
	if len(got.Addrs) != 2 || got.Addrs[0].Bits() != 24 || !got.Addrs[1].Addr().Is6() {
		t.Errorf("Addrs: got %v, want an IPv4 /24 and an IPv6 address", got.Addrs)
	}
	if got.MTU != 1440 {
		t.Errorf("MTU: got %d, want 1440", got.MTU)
	}
	if len(got.Routes) != 203 || got.Routes[0].Prefix != netip.MustParsePrefix("192.168.77.0/24") || got.Routes[1].Prefix.Bits() != 32 {
		t.Errorf("Routes: got %d, %v..., want 203", len(got.Routes), got.Routes[:min(3, len(got.Routes))])
	}
	if !got.Redirect4 || got.Redirect6 {
		t.Errorf("Redirect: got %v and %v, want true and false", got.Redirect4, got.Redirect6)
	}
	if len(got.DNS) != 1 || got.DNS[0].Addrs[0] != netip.MustParseAddrPort("10.8.21.1:53") {
		t.Errorf("DNS: got %v", got.DNS)
	}
	if strings.Join(got.SearchDomains, " ") != "corp.test" {
		t.Errorf("SearchDomains: got %v", got.SearchDomains)
	}
	if got.Gateway4 != server.inner {
		t.Errorf("Gateway4: got %v, want %v", got.Gateway4, server.inner)
	}
	ping(t, client.device, client.addr(t), server.inner)
}

// passwords makes a server check names and passwords with a script of its own.
func passwords(s *realServer, user, password string) string {
	check := s.file("check.sh", fmt.Sprintf("#!/bin/sh\n[ \"$(sed -n 1p \"$1\")\" = %q ] && [ \"$(sed -n 2p \"$1\")\" = %q ]\n", user, password))
	return "auth-user-pass-verify " + check + " via-file\nverify-client-cert none\nusername-as-common-name\n"
}

func TestInteropUserAndToken(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "reneg-sec 4 4\nhand-window 2\n")
	server.config += passwords(server, "ana", "geheim") + "auth-gen-token 3600\n"
	server.start()
	asked := 0
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, "auth-user-pass\nauth-nocache\n"), func(cfg *Config) {
		cfg.Credentials = func(_ context.Context, c Challenge) (string, string, error) {
			asked++
			return "ana", "geheim", nil
		}
	})
	client.connect(t)
	p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
	waitForKey(t, client, 3)
	if probes, lost := p.finish(); lost > 0 {
		t.Errorf("lost %d of %d probes, want 0", lost, probes)
	}
	client.connect(t) // with the token
	ping(t, client.device, client.addr(t), server.inner)
	if asked != 1 {
		t.Errorf("asked for the password %d times, want once", asked)
	}
	sent, err := client.login.Credentials(t.Context())
	if err != nil || !strings.HasPrefix(string(sent.Password), "SESS_ID_AT_") {
		t.Errorf("the next session would send %q, %v; want the server's token", string(sent.Password), err)
	}
}

// The check of the password holds the whole server up, for longer than server-poll-timeout and than a handshake may be silent:
// it is waited for, and asked once.
func TestInteropSlowSignIn(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "")
	server.config += passwords(server, "ana", "geheim")
	check := filepath.Join(server.dir, "check.sh")
	script, err := os.ReadFile(check)
	if err != nil {
		t.Fatal(err)
	}
	server.file("check.sh", strings.Replace(string(script), "#!/bin/sh\n", "#!/bin/sh\nsleep 17\n", 1))
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, "auth-user-pass\nserver-poll-timeout 2\n"), func(cfg *Config) {
		cfg.Credentials = func(context.Context, Challenge) (string, string, error) { return "ana", "geheim", nil }
	})
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
	if n := strings.Count(server.log.String(), "TLS: Username/Password authentication"); n != 1 {
		t.Errorf("the server checked the password %d times, want once", n)
	}
}

func TestInteropWrongPassword(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "")
	server.config += passwords(server, "ana", "geheim")
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, "auth-user-pass\n"), func(cfg *Config) {
		cfg.Credentials = func(context.Context, Challenge) (string, string, error) { return "ana", "falsch", nil }
	})
	err := client.Connect(t.Context())
	blocked, ok := errors.AsType[*transport.BlockedError](err)
	if !ok || blocked.Reason != transport.ReasonAuthFailed {
		t.Errorf("Connect: got %v, want a BlockedError with reason %s", err, transport.ReasonAuthFailed)
	}
}

func TestInteropCipherNotShared(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "data-ciphers AES-128-GCM\n")
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, "data-ciphers CHACHA20-POLY1305\n"), nil)
	err := client.Connect(t.Context())
	if _, ok := errors.AsType[*transport.BlockedError](err); !ok || !strings.Contains(err.Error(), "no shared cipher") {
		t.Errorf("Connect: got %v, want a BlockedError with the server's reason", err)
	}
}

func TestInteropServerStopsWithNotice(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "explicit-exit-notify 1\n")
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, ""), nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
	server.signal(syscall.SIGTERM)
	err := <-client.lost
	if err == nil || !strings.Contains(err.Error(), "restarts") {
		t.Errorf("Lost: got %v, want the server's notice", err)
	}
	<-server.end
	server.start()
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
}

func TestInteropServerKilledAndStartedAgain(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, network, "")
			server.start()
			client := newTestClient(t, profileFor(t, ca, network, server.port, ""), nil)
			client.connect(t)
			p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
			waitFor(t, "an answer", func() bool { _, answered := p.count(); return answered > 0 })
			server.signal(syscall.SIGKILL)
			err := <-client.lost
			if _, ok := errors.AsType[transport.ErrKeepaliveTimeout](err); !ok && network == "udp" {
				t.Errorf("Lost: got %v, want ErrKeepaliveTimeout", err)
			}
			<-server.end
			server.start()
			client.connect(t)
			_, before := p.count()
			waitFor(t, "an answer after the restart", func() bool { _, answered := p.count(); return answered > before })
			p.finish()
		})
	}
}

func TestInteropServerFrozen(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", `push "ping 1"`+"\n"+`push "ping-restart 3"`+"\n")
	server.config = strings.Replace(server.config, "keepalive 5 60\n", "ping 1\n", 1)
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, ""), nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
	server.signal(syscall.SIGSTOP)
	got, ok := errors.AsType[transport.ErrKeepaliveTimeout](<-client.lost)
	if !ok || got.Transport != "corp" || got.LastReceived.IsZero() || got.LastSent.IsZero() {
		t.Errorf("Lost: got %+v, want ErrKeepaliveTimeout with its facts", got)
	}
	server.signal(syscall.SIGCONT)
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
}

func TestInteropRebindFloats(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp", "")
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp", server.port, ""), nil)
	client.connect(t)
	session := client.session.Load()
	p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
	for i := range 3 {
		waitFor(t, "answers", func() bool { _, answered := p.count(); return answered > 10*i+5 })
		if err := client.Rebind(); err != nil {
			t.Fatalf("Rebind: %v", err)
		}
	}
	waitFor(t, "answers", func() bool { _, answered := p.count(); return answered > 40 })
	// An answer that was on its way to the old socket is gone with it.
	if sent, lost := p.finish(); lost > 3 {
		t.Errorf("lost %d of %d probes, want at most one for each move", lost, sent)
	}
	if client.session.Load() != session {
		t.Error("the session was replaced")
	}
	if !strings.Contains(server.log.String(), "float") {
		t.Error("the server saw no float")
	}
}

func TestInteropProbeIsAnswered(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, network, "")
			server.start()
			client := newTestClient(t, profileFor(t, ca, network, server.port, ""), nil)
			client.connect(t)
			for range 5 {
				before := client.Stats().RxBytes
				if err := client.Probe(t.Context()); err != nil {
					t.Fatalf("Probe: %v", err)
				}
				waitFor(t, "an answer", func() bool { return client.Stats().RxBytes > before })
			}
		})
	}
}

func TestInteropLeavingIsTold(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, network, "")
			server.start()
			client := newTestClient(t, profileFor(t, ca, network, server.port, ""), nil)
			client.connect(t)
			if err := client.Close(); err != nil {
				t.Fatalf("Close: %v", err)
			}
			waitFor(t, "the server to note the exit", func() bool {
				return strings.Contains(server.log.String(), "CC-EEN exit message received")
			})
		})
	}
}

func TestInteropWrongCertificates(t *testing.T) {
	t.Parallel()
	ca, other := certtest.NewAuthority(t, "ca"), certtest.NewAuthority(t, "other")
	server := newRealServer(t, ca, "udp", "")
	server.start()
	id := ca.Client(t)
	base := fmt.Sprintf("client\ndev tun\nremote 127.0.0.1 %d udp\n", server.port)
	identity := certtest.Inline("cert", id.Cert) + certtest.Inline("key", id.Key)
	for _, tt := range []struct{ name, lines, want string }{
		{"another authority", identity + certtest.Inline("ca", other.PEM), "unknown authority"},
		{"another name", identity + certtest.Inline("ca", ca.PEM) + "verify-x509-name vpn.example name\n", `is for "server.example"`},
		{"another subject", identity + certtest.Inline("ca", ca.PEM) + "verify-x509-name \"CN=x\"\n", `is for "O=Example, CN=server.example"`},
		{"another fingerprint", identity + "peer-fingerprint " + strings.Repeat("00:", 31) + "00\n", "fingerprint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := newTestClient(t, mustParse(t, base+tt.lines), nil)
			err := client.Connect(t.Context())
			if _, ok := errors.AsType[*transport.ReasonedError](err); !ok || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Connect: got %v, want a ReasonedError with %q", err, tt.want)
			}
		})
	}
}

func TestInteropOverABadPath(t *testing.T) {
	for _, loss := range []float64{0.05, 0.15} {
		for _, wrap := range []string{"none", "tls-crypt-v2 with a forced cookie"} {
			t.Run(fmt.Sprintf("%.0f%% loss with reordering, %s", 100*loss, wrap), func(t *testing.T) {
				t.Parallel()
				ca := certtest.NewAuthority(t, "ca")
				server := newRealServer(t, ca, "udp", "")
				serverLines, clientLines := wrapLines(t, server, wrap)
				server.config += serverLines
				server.start()
				path := startBadLink(t, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(server.port)), loss)
				client := newTestClient(t, profileFor(t, ca, "udp", path.port(), "reneg-sec 2\n"+clientLines), nil)
				client.connect(t)
				session := client.session.Load()
				p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
				waitForKey(t, client, 2) // the server waits 2, 4, 8 s before it sends again
				sent, lost := p.finish()
				t.Logf("lost %d of %d probes", lost, sent)
				if share := float64(lost) / float64(sent); share > 2*loss+0.1 {
					t.Errorf("lost %d of %d probes, want about what the path loses both ways", lost, sent)
				}
				if client.session.Load() != session {
					t.Error("the session was replaced")
				}
			})
		}
	}
}

func TestInteropOverIPv6(t *testing.T) {
	t.Parallel()
	ca := certtest.NewAuthority(t, "ca")
	server := newRealServer(t, ca, "udp6", "")
	server.start()
	client := newTestClient(t, profileFor(t, ca, "udp6", server.port, ""), nil)
	client.connect(t)
	ping(t, client.device, client.addr(t), server.inner)
	if got := client.settings.last(t).MTU; got != 1420 {
		t.Errorf("MTU: got %d, want 1420", got)
	}
}

func TestInteropBothSidesRenegotiate(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			ca := certtest.NewAuthority(t, "ca")
			server := newRealServer(t, ca, network, "reneg-sec 2 2\n")
			server.start()
			client := newTestClient(t, profileFor(t, ca, network, server.port, "reneg-sec 2\n"), nil)
			client.connect(t)
			p := startPinger(t, client.device, client.addr(t), server.inner, probeEvery)
			waitForKey(t, client, 5)
			if sent, lost := p.finish(); lost > 0 {
				t.Errorf("lost %d of %d probes, want 0", lost, sent)
			}
			if got := len(client.lost); got > 0 {
				t.Errorf("lost the session: %v", <-client.lost)
			}
		})
	}
}
