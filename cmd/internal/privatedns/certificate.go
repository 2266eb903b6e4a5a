package privatedns

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
)

// lookEvery is how often certificate and key are looked at.
const lookEvery = 2 * time.Second

// maxPEM bounds the file of the certificate, bytes.
const maxPEM = 1 << 20

// LoadCertificate reads the certificate and its key. They must belong together, and to the name. The error says what to do.
func LoadCertificate(s *config.DNSServe) (*tls.Certificate, error) {
	chain, err := readPublic(s.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: write where its certificate and chain are, or get one for %s", err, s.Names())
	}
	secret, err := s.Key.Read()
	if err != nil {
		return nil, err
	}
	cert, err := tls.X509KeyPair(chain, []byte(secret))
	if err != nil {
		return nil, fmt.Errorf("%s and its key: %w: write the two of one certificate", s.Certificate, err)
	}
	if err := cert.Leaf.VerifyHostname(s.Name); err != nil {
		return nil, fmt.Errorf("%s is not for %s: get one for %s", s.Certificate, s.Name, s.Names())
	}
	return &cert, nil
}

// readPublic reads a file that everybody may see.
func readPublic(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxPEM)
	}
	return text, err
}

// Warning says what phones will find wrong with a certificate, or "".
func Warning(s *config.DNSServe, cert *tls.Certificate) string {
	switch {
	case !time.Now().Before(cert.Leaf.NotAfter):
		return fmt.Sprintf("dns.serve: the certificate expired at %s: renew it", cert.Leaf.NotAfter.Format(time.DateTime))
	case len(s.TLS) > 0 && cert.Leaf.VerifyHostname("any."+s.Name) != nil:
		return fmt.Sprintf("dns.serve: the certificate is not for *.%s, so phones with a name for TLS refuse it: get one for %s", s.Name, s.Names())
	}
	return ""
}

// certificate is the one in force, which follows its files.
type certificate struct {
	serve func() *config.DNSServe
	acme  Authority
	now   atomic.Pointer[tls.Certificate]
	bad   atomic.Pointer[string] // what is wrong with the files; nil: nothing
	seen  string                 // what they looked like when they were read
}

// follow takes a new certificate into use, and says with changed whether there was anything new.
func (c *certificate) follow() (changed bool, err error) {
	s := c.serve()
	switch {
	case s == nil:
		return false, nil
	case s.ACME: // there are no files any more
		c.seen = ""
		c.bad.Store(nil)
		return c.now.Swap(nil) != nil, nil
	}
	seen := look(s)
	if seen == c.seen && c.bad.Load() == nil {
		return false, nil
	}
	changed, c.seen = seen != c.seen, seen
	next, err := LoadCertificate(s)
	if err != nil {
		text := err.Error()
		if before := c.bad.Swap(&text); before != nil && *before == text {
			return false, err
		}
		return true, err
	}
	mended := c.bad.Swap(nil) != nil
	c.now.Store(next)
	return changed || mended, nil
}

// look returns what certificate and key look like: path, size, time and mode of each.
func look(s *config.DNSServe) string {
	text := s.Name
	for _, path := range []string{s.Certificate, s.Key.File} {
		text += "\n" + path
		if info, err := os.Stat(path); err == nil {
			text += fmt.Sprintf(" %d %d %v", info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
	}
	return text
}

// get returns the certificate in force, for crypto/tls.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s := c.serve(); s != nil && s.ACME {
		if cert := c.acme.Certificate(s.Name); cert != nil {
			return cert, nil
		}
		return nil, errors.New("there is no certificate from the authority yet")
	}
	if cert := c.now.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("there is no certificate")
}

// Trouble says what is wrong with the certificate, for the status, or returns "".
func (s *Service) Trouble() string {
	if s == nil {
		return ""
	}
	serve := s.cert.serve()
	if serve == nil || serve.ACME {
		return "" // what keeps the certificate by ACME says what is wrong
	}
	if bad := s.cert.bad.Load(); bad != nil {
		return "dns.serve: the certificate before stays in force: " + *bad
	}
	if now := s.cert.now.Load(); now != nil {
		return Warning(serve, now)
	}
	return ""
}

// followCertificate looks at the files until ctx ends.
func (s *Service) followCertificate(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		switch changed, err := s.cert.follow(); {
		case !changed:
		case err != nil:
			s.log.Error("cannot use the new certificate of dns.serve; the one before stays in force", "err", err)
		default:
			s.inForce()
		}
	}
}

// inForce tells about a new certificate.
func (s *Service) inForce() {
	if now := s.cert.now.Load(); now != nil {
		s.log.Info("the certificate of dns.serve is in force", "until", now.Leaf.NotAfter)
	}
}
