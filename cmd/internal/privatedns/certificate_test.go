package privatedns

import (
	"crypto/tls"
	"os"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
)

// TestCertificateFaults: what is wrong with a certificate is said with what to do, and the key is not shown.
func TestCertificateFaults(t *testing.T) {
	c := gateway(t)
	s := c.DNS.Serve
	cert, err := LoadCertificate(s)
	if err != nil || Warning(s, cert) != "" {
		t.Fatalf("a good one: got %v, %q", err, Warning(s, cert))
	}
	good, err := os.ReadFile(s.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		says string
		do   func()
		want string
	}{
		{"another's key", func() { certify(t, s, time.Hour, "dns.example"); write(t, s.Certificate, string(good)) }, "and its key: tls: private key does not match public key: write the two of one certificate"},
		{"half a file", func() { write(t, s.Certificate, string(good[:40])) }, "write the two of one certificate"},
		{"none", func() { os.Remove(s.Certificate) }, "no such file or directory: write where its certificate and chain are, or get one for dns.example and *.dns.example"},
		{"too much", func() { write(t, s.Certificate, strings.Repeat("x", maxPEM+1)) }, "is larger than"},
		{"another name", func() { certify(t, s, time.Hour, "other.example") }, "is not for dns.example: get one for dns.example and *.dns.example"},
		{"a key for all to read", func() { certify(t, s, time.Hour, "dns.example"); os.Chmod(s.Key.File, 0o644) }, "chmod"},
		{"no key", func() { os.Remove(s.Key.File) }, "there is no file"},
	} {
		tt.do()
		_, err := LoadCertificate(s)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: got %v, want %s", tt.says, err, tt.want)
			continue
		}
		if f := CertificateFault(c, err); !strings.Contains(f.String(), "config.yaml:2:") {
			t.Errorf("%s: got %v, want the place", tt.says, f)
		}
	}
	for _, tt := range []struct {
		says  string
		life  time.Duration
		names []string
		want  string
	}{
		{"expired", -time.Minute, []string{"dns.example", "*.dns.example"}, "expired at"},
		{"without the names for TLS", time.Hour, []string{"dns.example"}, "not for *.dns.example"},
	} {
		certify(t, s, tt.life, tt.names...)
		cert, err := LoadCertificate(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := Warning(s, cert); !strings.Contains(got, tt.want) {
			t.Errorf("%s: got %q", tt.says, got)
		}
	}
}

// TestFollow: a new certificate is taken when its files change, a bad one is told of once, and the one before stays.
func TestFollow(t *testing.T) {
	c := gateway(t)
	s := c.DNS.Serve
	follow := certificate{serve: func() *config.DNSServe { return s }}
	step := func(says string, wantChanged, wantErr, wantNew bool) {
		t.Helper()
		before := follow.now.Load()
		changed, err := follow.follow()
		if changed != wantChanged || (err != nil) != wantErr || (follow.now.Load() != before) != wantNew {
			t.Errorf("%s: got %t, %v, new %t; want %t, %t, %t", says, changed, err, follow.now.Load() != before, wantChanged, wantErr, wantNew)
		}
	}
	step("the first", true, false, true)
	step("nothing new", false, false, false)
	certify(t, s, 2*time.Hour, "dns.example")
	step("a new one", true, false, true)
	write(t, s.Certificate, "half of")
	step("a bad one", true, true, false)
	step("a bad one still", false, true, false)
	os.Remove(s.Certificate)
	step("bad in another way", true, true, false)
	certify(t, s, 2*time.Hour, "dns.example")
	step("mended", true, false, true)
	files := s
	s = nil
	step("no longer served", false, false, false)
	if _, err := follow.get(nil); err != nil {
		t.Error(err)
	}
	issued := follow.now.Load()
	s, follow.acme = &config.DNSServe{Name: "dns.example", ACME: true}, authority{"dns.example": issued}
	step("no files any more", true, false, true)
	step("no files still", false, false, false)
	if cert, err := follow.get(nil); err != nil || cert != issued {
		t.Errorf("the certificate of the authority: got %v, %v", cert, err)
	}
	follow.acme = authority{}
	if _, err := follow.get(nil); err == nil {
		t.Error("got a certificate that no authority has issued")
	}
	s = files
	step("files again", true, false, true)
	unread := certificate{serve: func() *config.DNSServe { return files }}
	if _, err := unread.get(nil); err == nil {
		t.Error("got a certificate that nobody has read")
	}
}

// authority has issued certificates, by host.
type authority map[string]*tls.Certificate

func (a authority) Certificate(host string) *tls.Certificate { return a[host] }
func (a authority) Answering(base *tls.Config) *tls.Config   { return base }
