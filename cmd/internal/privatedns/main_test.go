package privatedns

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"penstock/cmd/internal/config"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gatewayText = `listen: {wireguard: {address: 10.77.0.1/24, private_key: {file: gateway.key}}}
dns: {serve: {name: dns.example, https: "127.0.0.1:443", tls: "127.0.0.1:853", certificate: dns.pem, key: {file: dns.key}}}
peers:
  - {name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.77.0.2/32}
  - {name: ben}
rules: {name: rest, do: direct}
`

// gateway writes a configuration with its files, with pairs of old and new text replaced, and loads it.
func gateway(t *testing.T, edits ...string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "gateway.key"), "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	write(t, filepath.Join(dir, "config.yaml"), strings.NewReplacer(edits...).Replace(gatewayText))
	c, err := config.Load(filepath.Join(dir, "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.DNS.Serve != nil {
		certify(t, c.DNS.Serve, time.Hour, "dns.example", "*.dns.example")
	}
	return c
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// certify writes a new certificate and its key.
func certify(t *testing.T, s *config.DNSServe, life time.Duration, names ...string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, DNSNames: names, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.Certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, s.Key.File, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
}
