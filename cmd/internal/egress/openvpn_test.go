//go:build unix

package egress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/transport/openvpn"
)

// writeAuthority writes a certificate that everybody may read, like a ca file.
func writeAuthority(t *testing.T, path string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfAProfile(t *testing.T) {
	static := "-----BEGIN OpenVPN Static key V1-----\n" + strings.Repeat("0123456789abcdef0123456789abcdef\n", 16) + "-----END OpenVPN Static key V1-----\n"
	tests := []struct {
		name, line, content string
		mode                os.FileMode
		want                string // "": good
	}{
		{"a password that everybody may read", "auth-user-pass secret", "ana\npw\n", 0o644, "chmod 600"},
		{"a password that only the owner may read", "auth-user-pass secret", "ana\npw\n", 0o600, ""},
		{"a tls-auth key that everybody may read", "tls-auth secret 1", static, 0o644, "chmod 600"},
		{"a tls-auth key that only the owner may read", "tls-auth secret 1", static, 0o600, ""},
		{"a tls-crypt key that everybody may read", "tls-crypt secret", static, 0o644, "chmod 600"},
		{"a private key that everybody may read", "key secret", "x", 0o644, "chmod 600"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			writeAuthority(t, filepath.Join(dir, "ca.crt"))
			for name, f := range map[string]struct {
				content string
				mode    os.FileMode
			}{"secret": {tt.content, tt.mode}, "corp.ovpn": {"client\nremote vpn.example\nremote-cert-tls server\nca ca.crt\n" + tt.line + "\n", 0o600}} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(f.content), f.mode); err != nil {
					t.Fatal(err)
				}
				if err := os.Chmod(filepath.Join(dir, name), f.mode); err != nil {
					t.Fatal(err)
				}
			}
			_, warnings, err := (&Plan{input: new(config.Config).Input}).openvpnProfile(&config.OpenVPN{Config: filepath.Join(dir, "corp.ovpn")})
			if tt.want == "" && (err != nil || len(warnings) > 0) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, warnings %q; want %q", err, warnings, tt.want)
			}
		})
	}
}

func TestAProfileThatCannotTellTheServer(t *testing.T) {
	dir := t.TempDir()
	writeAuthority(t, filepath.Join(dir, "ca.crt"))
	path := filepath.Join(dir, "corp.ovpn")
	if err := os.WriteFile(path, []byte("client\nremote vpn.example\nca ca.crt\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, warnings, err := (&Plan{input: new(config.Config).Input}).openvpnProfile(&config.OpenVPN{Config: path})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "no server certificate verification method has been enabled") {
		t.Errorf("got %v, warnings %q; want one with advice", err, warnings)
	}
	if _, _, err = (&Plan{input: new(config.Config).Input}).openvpnProfile(&config.OpenVPN{Config: path, RequireServerCert: true}); !errors.Is(err, openvpn.ErrServerUnverified) {
		t.Errorf("required: got %v, want %v", err, openvpn.ErrServerUnverified)
	}
}

// A copy of a configuration must work although the files that its profile names by their whole paths are gone.
func TestACopyHasTheFilesOfItsProfiles(t *testing.T) {
	dir, root := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	copied := filepath.Join(root, dir)
	if err := os.MkdirAll(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	writeAuthority(t, filepath.Join(copied, "ca.crt"))
	for name, text := range map[string]string{
		"config.yaml": "listen: {tun: {}}\ntransports: {corp: {openvpn: {config: corp.ovpn}}}\nrules: [{name: rest, do: {via: corp}}]\n",
		"corp.ovpn":   "client\nremote vpn.example\nremote-cert-tls server\nca " + filepath.Join(dir, "ca.crt") + "\nauth-user-pass " + filepath.Join(dir, "login") + "\n",
		"login":       "ana\npw\n",
	} {
		if err := os.WriteFile(filepath.Join(copied, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.LoadCopy(root, path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := NewPlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range p.Files() {
		if !strings.HasPrefix(file, root) {
			t.Errorf("got %s read, want that of the copy", file)
		}
	}
}
