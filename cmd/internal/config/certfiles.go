package config

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

const (
	maxCertificateFile = 1 << 20            // bytes
	renewWithin        = 7 * 24 * time.Hour // before the end of a certificate: somebody has forgotten to renew it
)

// CertificateFile is a file with a certificate that somebody else renews.
type CertificateFile struct {
	Use     string // section of the configuration: listen.enrol, dns.serve, sign_in or fleet.store.nats
	Path    string
	Restart bool // a new one is only taken into use by a restart
}

// CertificateFiles returns the files that the configuration names. What an authority issues by ACME, or the gateway itself makes, is in
// none of them.
func CertificateFiles(c *Config) (list []CertificateFile) {
	if e := c.Listen.Enrol; e != nil && e.Certificate != "" {
		list = append(list, CertificateFile{Use: "listen.enrol", Path: e.Certificate})
	}
	if s := c.DNS.Serve; s != nil && s.Certificate != "" {
		list = append(list, CertificateFile{Use: "dns.serve", Path: s.Certificate})
	}
	if s := c.SignIn; s != nil && s.Certificate != "" {
		list = append(list, CertificateFile{Use: "sign_in", Path: s.Certificate})
	}
	if f := c.Fleet; f != nil && f.Store.NATS != nil && f.Store.NATS.Certificate != "" {
		list = append(list, CertificateFile{Use: "fleet.store.nats", Path: f.Store.NATS.Certificate, Restart: true})
	}
	return list
}

// Leaf reads the first certificate in the file.
func (f CertificateFile) Leaf() (*x509.Certificate, error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxCertificateFile))
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			return x509.ParseCertificate(block.Bytes)
		}
	}
	return nil, errors.New("it has no certificate in PEM")
}

// Expired says that a certificate has expired at a time, or returns "".
func (f CertificateFile) Expired(leaf *x509.Certificate, now time.Time) string {
	if now.Before(leaf.NotAfter) {
		return ""
	}
	return fmt.Sprintf("%s: the certificate in %s expired at %s: %s", f.Use, f.Path, leaf.NotAfter.Local().Format(time.DateTime), f.renew())
}

// Expires says that a certificate will expire so soon that it should have been renewed: within seven days, or within a third of a life
// of less than three weeks. Else it returns "".
func (f CertificateFile) Expires(leaf *x509.Certificate, now time.Time) string {
	if left := leaf.NotAfter.Sub(now); left <= 0 || left > min(renewWithin, leaf.NotAfter.Sub(leaf.NotBefore)/3) {
		return ""
	}
	return fmt.Sprintf("%s: the certificate in %s expires at %s: %s", f.Use, f.Path, leaf.NotAfter.Local().Format(time.DateTime), f.renew())
}

func (f CertificateFile) renew() string {
	if f.Restart {
		return "renew it and restart penstock"
	}
	return "renew it"
}
