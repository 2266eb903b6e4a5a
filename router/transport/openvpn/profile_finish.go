package openvpn

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/wire"
)

// wrapKind is how the control channel is protected.
type wrapKind uint8

const (
	wrapNone wrapKind = iota
	wrapTLSAuth
	wrapTLSCrypt
	wrapTLSCryptV2
)

// wrapSpec is the profile's control-channel protection.
type wrapSpec struct {
	kind      wrapKind
	key       *wire.StaticKey
	direction wire.Direction
	digest    func() hash.Hash
	wkc       []byte
}

// wrap makes a fresh wrap for one session.
func (s *wrapSpec) wrap(now func() time.Time) (wire.Wrap, error) {
	switch s.kind {
	case wrapTLSAuth:
		return wire.NewTLSAuth(s.key, s.direction, s.digest, now), nil
	case wrapTLSCrypt:
		return wire.NewTLSCrypt(s.key, wire.Inverse, now)
	case wrapTLSCryptV2:
		return wire.NewTLSCryptV2(s.key, now)
	}
	return wire.Plain{}, nil
}

func (p *profileParser) content(d directive) (string, error) {
	if d.inline {
		return d.content, nil
	}
	switch name := d.arg(0); name {
	case "":
		return "", errors.New("no file name")
	case inlineFile:
		return "", nil // the block follows, or came before
	default:
		b, err := p.read(name)
		return string(b), err
	}
}

func parseMaterial(p *profileParser, d directive) error {
	text, err := p.content(d)
	if err != nil || text == "" {
		return err
	}
	p.files[d.name] = material{d.line, text}
	return nil
}

// parseTLSKey keeps the key for finish: key-direction may come later.
func parseTLSKey(p *profileParser, d directive) error {
	text, err := p.content(d)
	if err != nil {
		return err
	}
	if s := d.arg(1); s != "" && d.name == "tls-auth" {
		if p.keyDir, err = direction(s); err != nil {
			return err
		}
	}
	if text == "" {
		return nil
	}
	d.content = text
	if i := slices.IndexFunc(p.tlsKeys, func(k directive) bool { return k.name == d.name }); i >= 0 {
		p.tlsKeys[i] = d
		return nil
	}
	p.tlsKeys = append(p.tlsKeys, d)
	return nil
}

func parseFingerprint(p *profileParser, d directive) error {
	lines := d.args
	if d.inline {
		lines = strings.Fields(d.content)
	}
	for _, line := range lines {
		b, err := hex.DecodeString(strings.ReplaceAll(line, ":", ""))
		if err != nil || len(b) != sha256.Size {
			return fmt.Errorf("%q is not a SHA-256 fingerprint", line)
		}
		p.out.trust.fingerprints = append(p.out.trust.fingerprints, [sha256.Size]byte(b))
	}
	return nil
}

// finish joins what belongs together and refuses what cannot work.
func (p *profileParser) finish() (*Profile, error) {
	for _, step := range []func() error{p.finishRemotes, p.finishTrust, p.finishIdentity, p.finishWrap} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if p.out.ciphers == nil {
		p.out.ciphers = slices.Clone(defaultCiphers)
	}
	return &p.out, nil
}

func (p *profileParser) finishRemotes() error {
	for _, r := range p.remotes {
		remote := Remote{Host: r.host, Port: r.port, Network: r.network}
		if remote.Port == 0 {
			remote.Port = r.local.port
		}
		if remote.Network == "" {
			remote.Network = r.local.network
		}
		if p.force == "" || strings.HasPrefix(remote.Network, p.force) {
			p.out.Remotes = append(p.out.Remotes, remote)
		}
	}
	if len(p.out.Remotes) == 0 {
		return errors.New("no remote: a client profile needs a line such as \"remote vpn.example 1194 udp\"")
	}
	return nil
}

func (p *profileParser) finishTrust() error {
	t := &p.out.trust
	ca, ok := p.files["ca"]
	if !ok && len(t.fingerprints) == 0 {
		return errors.New("neither ca nor peer-fingerprint: the server could be anyone")
	}
	if ok {
		var err error
		if t.ca, err = certificates(ca.text); err != nil {
			return &lineError{ca.line, fmt.Errorf("ca: %w", err)}
		}
	}
	if crl, ok := p.files["crl-verify"]; ok {
		for rest := []byte(crl.text); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			list, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return &lineError{crl.line, fmt.Errorf("crl-verify: %w", err)}
			}
			t.crls = append(t.crls, list)
		}
		if len(t.crls) == 0 {
			return &lineError{crl.line, errors.New("crl-verify: no revocation list inside")}
		}
	}
	if t.maxVersion != 0 && t.minVersion > t.maxVersion {
		return errors.New("tls-version-min is above tls-version-max")
	}
	return nil
}

func certificates(text string) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for rest := []byte(text); ; {
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

func (p *profileParser) finishIdentity() error {
	cert, hasCert := p.files["cert"]
	key, hasKey := p.files["key"]
	switch {
	case !hasCert && !hasKey:
		return nil
	case !hasKey:
		return &lineError{cert.line, errors.New("cert without key")}
	case !hasCert:
		return &lineError{key.line, errors.New("key without cert")}
	case strings.Contains(key.text, "ENCRYPTED"):
		return &lineError{key.line, errors.New("key: is encrypted, which is not supported; decrypt it with: openssl pkey -in client.key -out plain.key")}
	}
	pair, err := tls.X509KeyPair([]byte(cert.text+"\n"+p.files["extra-certs"].text), []byte(key.text))
	if err != nil {
		return &lineError{cert.line, fmt.Errorf("cert and key: %w", err)}
	}
	p.out.certificate = &pair
	return nil
}

func (p *profileParser) finishWrap() error {
	if len(p.tlsKeys) == 0 {
		return nil
	}
	d := p.tlsKeys[0]
	if len(p.tlsKeys) > 1 {
		return &lineError{p.tlsKeys[1].line, fmt.Errorf("%s and %s exclude each other", d.name, p.tlsKeys[1].name)}
	}
	spec := wrapSpec{direction: p.keyDir}
	var key wire.StaticKey
	var err error
	switch d.name {
	case "tls-auth":
		spec.kind = wrapTLSAuth
		if spec.digest = digests[strings.TrimPrefix(strings.ReplaceAll(p.digest, "-", ""), "RSA")]; spec.digest == nil {
			return &lineError{max(p.digestAt, d.line), fmt.Errorf("auth %s is not supported", p.digest)}
		}
		key, err = wire.ParseStaticKey(d.content)
	case "tls-crypt":
		spec.kind = wrapTLSCrypt
		key, err = wire.ParseStaticKey(d.content)
	default:
		spec.kind = wrapTLSCryptV2
		key, spec.wkc, err = wire.ParseClientKey(d.content)
	}
	if err != nil {
		return &lineError{d.line, fmt.Errorf("%s: %w", d.name, err)}
	}
	spec.key = &key
	p.out.wrap = spec
	return nil
}

var digests = map[string]func() hash.Hash{
	"MD5": md5.New, "SHA1": sha1.New, "SHA224": sha256.New224, "SHA256": sha256.New, "SHA384": sha512.New384, "SHA512": sha512.New,
}
