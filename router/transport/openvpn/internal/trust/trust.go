// Package trust decides whether a certificate is the server's: the profile's authorities, fingerprints, revocation
// lists, purposes and names.
//
// It does not speak TLS, and does not read files except through the function that a list is handed.
package trust

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/text"
)

// Rules say which server certificates are good. The zero value accepts none.
type Rules struct {
	Authorities  []*x509.Certificate
	Fingerprints [][sha256.Size]byte // of accepted certificates; empty: any that an authority signed
	Revoked      *Lists              // nil: nothing is revoked
	Purpose      Purpose
	KeyUsages    []byte // one of these sets of bits must be in the key usage; empty: any (remote-cert-ku)
	Name         string // empty: any
	NameKind     NameKind
}

// Purpose says what a server's certificate must be made for.
type Purpose uint8

// Purposes.
const (
	AnyPurpose   Purpose = iota // a client's certificate will do: see TellsServers
	ServerUsual                 // not made for other purposes only (ns-cert-type)
	ServerStated                // made for servers by its own words (remote-cert-tls, remote-cert-eku)
)

// NameKind says what Name is compared with.
type NameKind uint8

// Kinds of names.
const (
	Subject      NameKind = iota // the whole subject
	CommonName                   // the common name
	CommonPrefix                 // the start of the common name
)

// TellsServers reports whether the rules tell the server from a client with a certificate of the same authority. The
// reference client warns where they do not.
func (r *Rules) TellsServers() bool {
	return r.Purpose != AnyPurpose || r.Name != "" || len(r.Fingerprints) > 0
}

// Verify checks the certificates that a server showed, its own first.
func (r *Rules) Verify(state tls.ConnectionState, now time.Time) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	switch {
	case len(r.Authorities) == 0 && len(r.Fingerprints) == 0:
		return errors.New("there is neither a ca nor a fingerprint to check the server's certificate with")
	case len(r.Fingerprints) > 0 && !slices.Contains(r.Fingerprints, sha256.Sum256(leaf.Raw)):
		return errors.New("the server's certificate has none of the fingerprints of peer-fingerprint")
	}
	if len(r.Authorities) > 0 {
		if err := r.verifyChain(leaf, state.PeerCertificates[1:], now); err != nil {
			return fmt.Errorf("the server's certificate %q: %w", text.Printable(leaf.Subject.CommonName), err)
		}
	}
	if err := r.verifyUsage(leaf); err != nil {
		return fmt.Errorf("the server's certificate %q: %w", text.Printable(leaf.Subject.CommonName), err)
	}
	return r.verifyName(leaf)
}

func (r *Rules) verifyChain(leaf *x509.Certificate, others []*x509.Certificate, now time.Time) error {
	options := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, c := range r.Authorities {
		options.Roots.AddCert(c)
	}
	for _, c := range others {
		options.Intermediates.AddCert(c)
	}
	if r.Purpose != AnyPurpose {
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	chains, err := leaf.Verify(options)
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return outOfDate(invalid.Cert, now)
	}
	if err != nil || r.Revoked == nil {
		return err
	}
	for _, chain := range chains {
		if err = r.Revoked.check(chain, now); err == nil {
			return nil
		}
	}
	return err
}

// outOfDate says which certificate of a chain is out of date, and what the clock reads: as often as not, it is the clock that is wrong.
func outOfDate(c *x509.Certificate, now time.Time) error {
	whose := fmt.Sprintf("certificate %q", text.Printable(c.Subject.CommonName))
	if now.Before(c.NotBefore) {
		return fmt.Errorf("%s is not valid before %s, and the clock reads %s: set the clock, if it is wrong", whose, date(c.NotBefore), date(now))
	}
	return fmt.Errorf("%s expired on %s, and the clock reads %s: set the clock, if it is wrong, or ask for a new certificate of the server", whose, date(c.NotAfter), date(now))
}

func (r *Rules) verifyUsage(leaf *x509.Certificate) error {
	// A certificate without extended key usages may serve any purpose by RFC 5280, 4.2.1.12. The reference refuses it as
	// a server's: otherwise every client with such a certificate is a server.
	if r.Purpose == ServerStated && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return errors.New("it is not made for servers: it lacks the extended key usage serverAuth")
	}
	if len(r.KeyUsages) == 0 {
		return nil
	}
	var usage byte // as remote-cert-ku counts: the first bit of the extension is the highest
	for i := range 8 {
		if leaf.KeyUsage&(1<<i) != 0 {
			usage |= 1 << (7 - i)
		}
	}
	if !slices.ContainsFunc(r.KeyUsages, func(want byte) bool { return usage&want == want }) {
		return fmt.Errorf("its key usage is %02x, remote-cert-ku wants one of % x", usage, r.KeyUsages)
	}
	return nil
}

func (r *Rules) verifyName(leaf *x509.Certificate) error {
	if r.Name == "" {
		return nil
	}
	name, ok := leaf.Subject.CommonName, false
	switch r.NameKind {
	case CommonName:
		ok = name == r.Name
	case CommonPrefix:
		ok = strings.HasPrefix(name, r.Name)
	default:
		name = subjectLine(leaf.Subject)
		ok = name == r.Name
	}
	if !ok {
		return fmt.Errorf("the server's certificate is for %q, verify-x509-name wants %q", text.Printable(name), r.Name)
	}
	return nil
}

// subjectLine writes a subject as verify-x509-name has it: "C=DE, O=Example, CN=server", in the certificate's order.
func subjectLine(subject pkix.Name) string {
	var parts []string
	for _, a := range subject.Names {
		label, ok := subjectLabels[a.Type.String()]
		if !ok {
			label = a.Type.String()
		}
		parts = append(parts, fmt.Sprintf("%s=%v", label, a.Value))
	}
	return strings.Join(parts, ", ")
}

var subjectLabels = map[string]string{
	"2.5.4.3": "CN", "2.5.4.4": "SN", "2.5.4.5": "serialNumber", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST",
	"2.5.4.9": "street", "2.5.4.10": "O", "2.5.4.11": "OU", "2.5.4.12": "title", "2.5.4.41": "name", "2.5.4.42": "GN",
	"1.2.840.113549.1.9.1": "emailAddress", "0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// Certificates reads all certificates of a PEM text. There must be one at least.
func Certificates(pemText string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(pemText); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("no certificate inside")
	}
	return out, nil
}
