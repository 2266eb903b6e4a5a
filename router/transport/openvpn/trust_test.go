package openvpn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/internal/openvpntest"
	"penstock/router/transport/openvpn/profile"
)

// serveAs starts a server with this certificate and makes a profile of the ca alone, with these lines.
func serveAs(t *testing.T, ca *certtest.Authority, id certtest.Pair, lines string) *profile.Profile {
	t.Helper()
	certificate, err := tls.X509KeyPair([]byte(id.Cert), []byte(id.Key))
	if err != nil {
		t.Fatal(err)
	}
	cfg := openvpntest.Config{TLS: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}}
	cfg.Data.V2 = true
	server := openvpntest.Start(t, cfg)
	return mustParse(t, fmt.Sprintf("client\nremote 127.0.0.1 %d udp\n%s%s", server.Addr.Port(), certtest.Inline("ca", ca.PEM), lines))
}

func TestAClientThatPosesAsTheServer(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	colleague := ca.Client(t)
	t.Run("is taken for it where the profile does not tell them apart", func(t *testing.T) {
		client := newTestClient(t, serveAs(t, ca, colleague, ""), nil)
		client.connect(t)
	})
	for name, line := range map[string]string{"purpose": "remote-cert-tls server", "old purpose": "ns-cert-type server", "name": "verify-x509-name vpn.example name"} {
		t.Run("is refused by its "+name, func(t *testing.T) {
			client := newTestClient(t, serveAs(t, ca, colleague, line+"\n"), nil)
			if err := client.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), `certificate`) {
				t.Errorf("Connect: got %v, want a refusal of the certificate", err)
			}
		})
	}
}

func TestRequireServerCert(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	trust := "remote vpn.example\n" + certtest.Inline("ca", ca.PEM)
	tests := []struct {
		name, text string
		good       bool
	}{
		{"a ca alone", trust, false},
		{"a ca and a purpose", trust + "remote-cert-tls server\n", true},
		{"a ca and a name", trust + "verify-x509-name x name\n", true},
		{"a fingerprint", minimal(), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Name: "corp", Profile: mustParse(t, tt.text), Device: newFakeDevice(), RequireServerCert: true}
			_, err := New(cfg)
			if (err == nil) != tt.good || err != nil && !errors.Is(err, ErrServerUnverified) {
				t.Errorf("got %v, want good %v", err, tt.good)
			}
			if _, blocked := errors.AsType[*transport.BlockedError](err); blocked == tt.good {
				t.Errorf("got %T, want a BlockedError: %v", err, !tt.good)
			}
			cfg.RequireServerCert = false
			if _, err := New(cfg); err != nil {
				t.Errorf("not required: got %v", err)
			}
		})
	}
}

func TestConnectRefusesARevocationListThatIsOutOfDate(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	server := ca.Server(t)
	now := time.Now()
	path := filepath.Join(t.TempDir(), "crl.pem")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(ca.Revoke(t, now.Add(-2*time.Hour), now.Add(-time.Hour)))
	client := newTestClient(t, serveAs(t, ca, server, "remote-cert-tls server\ncrl-verify "+path+"\n"), nil)
	refused := func(want ...string) {
		t.Helper()
		err := client.Connect(t.Context())
		for _, part := range append(want, path) {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("Connect: got %v, want %q in it", err, part)
			}
		}
		if _, ok := errors.AsType[*transport.ReasonedError](err); !ok {
			t.Errorf("Connect: got %T, want a ReasonedError: the next attempt may find another list", err)
		}
	}
	refused("expired on " + now.Add(-time.Hour).UTC().Format("2006-01-02 15:04"))
	write(ca.Revoke(t, now.Add(time.Hour), now.Add(2*time.Hour)))
	refused("not valid before " + now.Add(time.Hour).UTC().Format("2006-01-02 15:04"))
	write(ca.Revoke(t, now.Add(-time.Minute), now.Add(time.Hour)))
	client.connect(t)
	write(ca.Revoke(t, now.Add(-time.Minute), now.Add(time.Hour), server.Parse(t)))
	if err := client.Connect(t.Context()); err == nil || !strings.Contains(err.Error(), "is revoked") {
		t.Errorf("Connect: got %v, want a refusal of the revoked certificate", err)
	}
}
