package enrol

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

// ownLife is how long the gateway's own certificate is valid. It is made anew at each start, for the same key.
const ownLife = 10 * 365 * 24 * time.Hour

// ownCertificate makes a certificate for host that the gateway signs itself. Its key is in a file, which is made if it is missing:
// links pin the key, and have to work after a restart.
func ownCertificate(path, host string, now time.Time) (*tls.Certificate, Pin, error) {
	key, err := ownKey(path)
	if err != nil {
		return nil, Pin{}, err
	}
	own, err := selfSigned(key, host, now)
	if err != nil {
		return nil, Pin{}, err
	}
	return own, pinOf(own.Leaf), nil
}

// selfSigned makes a certificate for host with a key of our own.
func selfSigned(key *ecdsa.PrivateKey, host string, now time.Time) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "penstock gateway"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(ownLife), // some clients' clocks are wrong
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// pinOf returns the pin of a certificate.
func pinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// ownKey reads the key of the gateway's own certificate, or makes it.
func ownKey(path string) (*ecdsa.PrivateKey, error) {
	text, err := private.Read(path, config.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return newKey(path)
	}
	if err != nil {
		return nil, err
	}
	if key, err := config.ParseOwnKey(text); err == nil {
		return key, nil
	}
	return nil, fmt.Errorf("%s does not hold the key of the gateway's certificate any more: restore it, or remove it: "+
		"then open invitations are void, and have to be made again", path)
}

// newKey makes the key of a certificate, in a new file.
func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, private.WriteNew(path, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
}
