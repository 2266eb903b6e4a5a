package profile

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/trust"
	"penstock/router/transport/openvpn/internal/wire"
)

// finish joins what belongs together and refuses what cannot work.
func (p *parser) finish() (*Profile, error) {
	for _, step := range []func() error{p.finishRemotes, p.finishTrust, p.finishIdentity, p.finishProtection} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if p.out.Ciphers == nil {
		p.out.Ciphers = slices.Clone(defaultCiphers)
	}
	slices.SortStableFunc(p.warnings, func(a, b Warning) int { return a.Line - b.Line })
	return &p.out, nil
}

func (p *parser) finishRemotes() error {
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

func (p *parser) finishTrust() error {
	t := &p.out.Trust
	ca, ok := p.materials["ca"]
	if !ok && len(t.Fingerprints) == 0 {
		return errors.New("neither ca nor peer-fingerprint: the server could be anyone")
	}
	if ok {
		var err error
		if t.Authorities, err = trust.Certificates(ca.text); err != nil {
			return &lineError{ca.line, fmt.Errorf("ca: %w", err)}
		}
	}
	if p.line = 0; !t.TellsServers() {
		p.warn(`no server certificate verification method has been enabled: whoever has a client certificate of this ca ` +
			`can pose as the server; add "remote-cert-tls server"`)
	}
	if err := p.finishLists(); err != nil {
		return err
	}
	if p.out.TLSMax != 0 && p.out.TLSMin > p.out.TLSMax {
		return errors.New("tls-version-min is above tls-version-max")
	}
	return nil
}

func (p *parser) finishLists() error {
	crl, ok := p.materials["crl-verify"]
	if !ok {
		return nil
	}
	name := "<crl-verify> of " + p.file
	var read func() (string, error)
	if crl.file != "" {
		name = beside(p.file, crl.file)
		read = func() (string, error) {
			b, err := p.files.Public(name)
			return string(b), err
		}
	}
	lists, err := trust.NewLists(name, crl.text, read)
	if err != nil {
		return &lineError{crl.line, fmt.Errorf("crl-verify: %w", err)}
	}
	p.out.Trust.Revoked = lists
	if problem := lists.Problem(p.out.Trust.Authorities, time.Now()); problem != "" {
		p.line = crl.line
		p.warn("%s", problem)
	}
	return nil
}

func (p *parser) finishIdentity() error {
	cert, hasCert := p.materials["cert"]
	key, hasKey := p.materials["key"]
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
	pair, err := tls.X509KeyPair([]byte(cert.text+"\n"+p.materials["extra-certs"].text), []byte(key.text))
	if err != nil {
		return &lineError{cert.line, fmt.Errorf("cert and key: %w", err)}
	}
	p.out.Certificate = &pair
	return nil
}

func (p *parser) finishProtection() error {
	if len(p.tlsKeys) == 0 {
		return nil
	}
	d := p.tlsKeys[0]
	if len(p.tlsKeys) > 1 {
		return &lineError{p.tlsKeys[1].line, fmt.Errorf("%s and %s exclude each other", d.name, p.tlsKeys[1].name)}
	}
	out := wire.Protection{Direction: p.keyDir}
	var key wire.StaticKey
	var err error
	switch d.name {
	case "tls-auth":
		out.Kind = wire.TLSAuthKey
		if out.Digest = digests[strings.TrimPrefix(strings.ReplaceAll(p.digest, "-", ""), "RSA")]; out.Digest == nil {
			return &lineError{max(p.digestAt, d.line), fmt.Errorf("auth %s is not supported", p.digest)}
		}
		key, err = wire.ParseStaticKey(d.content)
	case "tls-crypt":
		out.Kind = wire.TLSCryptKey
		key, err = wire.ParseStaticKey(d.content)
	default:
		out.Kind = wire.TLSCryptV2Key
		key, out.WKC, err = wire.ParseClientKey(d.content)
	}
	if err != nil {
		return &lineError{d.line, fmt.Errorf("%s: %w", d.name, err)}
	}
	out.Key = &key
	p.out.Protection = out
	return nil
}

var digests = map[string]func() hash.Hash{
	"MD5": md5.New, "SHA1": sha1.New, "SHA224": sha256.New224, "SHA256": sha256.New, "SHA384": sha512.New384, "SHA512": sha512.New,
}
