package openvpn

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// tlsConfig is the TLS side of a profile. The server is verified by the profile's rules, which know no host name.
func (p *Profile) tlsConfig() *tls.Config {
	cfg := &tls.Config{
		MinVersion:             max(p.trust.minVersion, tls.VersionTLS12),
		MaxVersion:             p.trust.maxVersion,
		InsecureSkipVerify:     true, // VerifyConnection does it
		VerifyConnection:       p.trust.verify,
		SessionTicketsDisabled: true,
	}
	if p.certificate != nil {
		// Always ours, whatever authorities the server names: an intermediate's name is often missing there.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.certificate, nil }
	}
	return cfg
}

func (t *trust) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf := state.PeerCertificates[0]
	if len(t.fingerprints) > 0 && !slices.Contains(t.fingerprints, sha256.Sum256(leaf.Raw)) {
		return errors.New("the server's certificate has none of the fingerprints of peer-fingerprint")
	}
	if len(t.ca) > 0 {
		if err := t.verifyChain(leaf, state.PeerCertificates[1:]); err != nil {
			return fmt.Errorf("the server's certificate %q: %w", printable(leaf.Subject.CommonName), err)
		}
	}
	return t.verifyName(leaf)
}

func (t *trust) verifyChain(leaf *x509.Certificate, others []*x509.Certificate) error {
	options := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range t.ca {
		options.Roots.AddCert(c)
	}
	for _, c := range others {
		options.Intermediates.AddCert(c)
	}
	if t.serverUsage {
		options.KeyUsages = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	chains, err := leaf.Verify(options)
	if err != nil {
		return err
	}
	for _, chain := range chains {
		if err = t.checkRevoked(chain); err == nil {
			return nil
		}
	}
	return err
}

// checkRevoked looks each certificate up in the lists its issuer signed.
func (t *trust) checkRevoked(chain []*x509.Certificate) error {
	for i, c := range chain[:len(chain)-1] {
		for _, list := range t.crls {
			if list.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			if slices.ContainsFunc(list.RevokedCertificateEntries, func(r x509.RevocationListEntry) bool { return r.SerialNumber.Cmp(c.SerialNumber) == 0 }) {
				return fmt.Errorf("certificate %q is revoked", printable(c.Subject.CommonName))
			}
		}
	}
	return nil
}

func (t *trust) verifyName(leaf *x509.Certificate) error {
	if t.name == "" {
		return nil
	}
	name, ok := leaf.Subject.CommonName, false
	switch t.nameKind {
	case nameCommon:
		ok = name == t.name
	case namePrefix:
		ok = strings.HasPrefix(name, t.name)
	default:
		name = subjectLine(leaf.Subject)
		ok = name == t.name
	}
	if !ok {
		return fmt.Errorf("the server's certificate is for %q, verify-x509-name wants %q", printable(name), t.name)
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
