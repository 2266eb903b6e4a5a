// Package certtest makes certificates, keys and revocation lists for tests of the OpenVPN driver, in the forms that a
// profile holds them.
//
// It checks none of them.
package certtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"
)

// Authority is a certificate authority for one test.
type Authority struct {
	Cert *x509.Certificate
	PEM  string

	key *ecdsa.PrivateKey
}

// Pair is a certificate with its key, both PEM.
type Pair struct{ Cert, Key string }

// NewAuthority makes an authority with this common name.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{Cert: cert, key: key, PEM: PEM("CERTIFICATE", der)}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// PEM makes a PEM block.
func PEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// Issue makes a certificate; change may be nil.
func (a *Authority) Issue(t testing.TB, name string, usage x509.ExtKeyUsage, change func(*x509.Certificate)) Pair {
	t.Helper()
	key := newKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: []string{"Example"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{usage},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{Cert: PEM("CERTIFICATE", der), Key: PEM("PRIVATE KEY", keyDER)}
}

// Server makes the certificate of server.example.
func (a *Authority) Server(t testing.TB) Pair {
	t.Helper()
	return a.Issue(t, "server.example", x509.ExtKeyUsageServerAuth, nil)
}

// Client makes the certificate of a laptop.
func (a *Authority) Client(t testing.TB) Pair {
	t.Helper()
	return a.Issue(t, "laptop", x509.ExtKeyUsageClientAuth, nil)
}

// Parse returns the certificate of p.
func (p Pair) Parse(t testing.TB) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(p.Cert))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Revoke makes a revocation list, PEM, that is valid from this time to that one.
func (a *Authority) Revoke(t testing.TB, from, until time.Time, certs ...*x509.Certificate) string {
	t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: from, NextUpdate: until}
	for _, c := range certs {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: c.SerialNumber, RevocationTime: from})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.Cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return PEM("X509 CRL", der)
}

// StaticKey makes the text of a static key file.
func StaticKey(t testing.TB) string {
	t.Helper()
	b := make([]byte, 256)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("-----BEGIN OpenVPN Static key V1-----\n")
	for i := range 16 {
		fmt.Fprintln(&out, hex.EncodeToString(b[16*i:16*i+16]))
	}
	out.WriteString("-----END OpenVPN Static key V1-----\n")
	return out.String()
}

// Inline makes an inline block of a profile.
func Inline(name, content string) string {
	return fmt.Sprintf("<%s>\n%s</%s>\n", name, content, name)
}
