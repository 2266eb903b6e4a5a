package profile

import (
	"cmp"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/identity"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/internal/trust"
	"penstock/router/transport/openvpn/internal/wire"
)

// finish joins what belongs together and refuses what cannot work.
func (p *parser) finish() (*Profile, error) {
	for _, step := range []func() error{p.finishDevice, p.finishRemotes, p.finishIdentity, p.finishTrust} {
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

func (p *parser) finishDevice() error {
	d, ok := p.devices["dev-type"]
	if !ok {
		d, ok = p.devices["dev"]
	}
	if ok && !strings.HasPrefix(d.arg(0), "tun") && d.arg(0) != "null" {
		return &lineError{d.line, fmt.Errorf("%s: device %q is not supported, only tun; the server needs dev tun as well", d.name, d.arg(0))}
	}
	return nil
}

func (p *parser) finishRemotes() (err error) {
	if p.out.Protection, err = p.protection(p); err != nil {
		return err
	}
	for _, r := range p.remotes {
		remote := Remote{Host: r.host, Port: r.port, Network: r.network}
		if len(r.local.tlsKeys) > 0 && r.local != p {
			own, err := p.protection(r.local)
			if err != nil {
				return err
			}
			remote.Protection = &own
		}
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
	if ok { // otherwise those of pkcs12, if there are any
		var err error
		if t.Authorities, err = trust.Certificates(ca.text); err != nil {
			return &lineError{ca.line, fmt.Errorf("ca: %w", err)}
		}
	}
	if len(t.Authorities) == 0 && len(t.Fingerprints) == 0 {
		return errors.New("neither ca nor peer-fingerprint: the server could be anyone: add the ca that came with the profile, or ask for a complete one")
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

func (p *parser) finishIdentity() (err error) {
	cert, hasCert := p.materials["cert"]
	key, hasKey := p.materials["key"]
	packed, isPacked := p.materials["pkcs12"]
	switch {
	case isPacked:
		if hasCert || hasKey {
			return &lineError{packed.line, errors.New("pkcs12 stands beside cert or key: keep one of them")}
		}
		return p.unpack(packed)
	case !hasCert && !hasKey:
		if p.asksPass {
			p.warn("askpass is ignored: there is no key")
		}
		return nil
	case !hasKey:
		return &lineError{cert.line, errors.New("cert without key")}
	case !hasCert:
		return &lineError{key.line, errors.New("key without cert")}
	}
	certificates := cert.text + "\n" + p.materials["extra-certs"].text
	p.out.Certificate, err = identity.FromPEM(certificates, key.text, string(p.passphrase))
	if errors.Is(err, identity.ErrEncrypted) && p.askPassphrase() {
		p.out.Certificate, err = identity.FromPEM(certificates, key.text, string(p.passphrase))
	}
	if err != nil {
		line := cert.line
		if errors.Is(err, identity.ErrEncrypted) || errors.Is(err, identity.ErrPassphrase) {
			line = key.line
		}
		return &lineError{line, p.mendKey(err, "openssl pkey -in "+cmp.Or(key.file, p.file)+" -out plain.key")}
	}
	return nil
}

// unpack reads a PKCS#12 file, whose authorities count if the profile names no others.
func (p *parser) unpack(packed material) error {
	pair, authorities, err := identity.FromPKCS12([]byte(packed.text), string(p.passphrase))
	if errors.Is(err, identity.ErrEncrypted) && p.askPassphrase() {
		pair, authorities, err = identity.FromPKCS12([]byte(packed.text), string(p.passphrase))
	}
	if err != nil {
		return &lineError{packed.line, p.mendKey(fmt.Errorf("pkcs12: %w", err),
			"openssl pkcs12 -in "+cmp.Or(packed.file, "client.p12")+" -nodes -out plain.pem")}
	}
	p.out.Certificate, p.out.Trust.Authorities = pair, authorities
	return nil
}

// askPassphrase gets the passphrase from whoever reads the profile, and reports whether there is one.
func (p *parser) askPassphrase() bool {
	if p.files.Passphrase == nil || p.passphrase != "" {
		return false
	}
	var pass string
	pass, p.passError = p.files.Passphrase()
	p.passphrase = text.Secret(pass)
	return p.passphrase != ""
}

// mendKey says how to go on with a key that cannot be read. command decrypts it.
func (p *parser) mendKey(err error, command string) error {
	switch {
	case p.passError != nil:
		return fmt.Errorf("the passphrase of the key: %w", p.passError)
	case errors.Is(err, identity.ErrEncrypted):
		return fmt.Errorf(`%w: set key_passphrase of the transport, or add "askpass FILE" with a file that holds it, or decrypt it with: %s`, err, command)
	case errors.Is(err, identity.ErrPassphrase):
		return fmt.Errorf("%w: correct key_passphrase of the transport, or the file that askpass names", err)
	case errors.Is(err, identity.ErrOldMethod):
		return fmt.Errorf("%w; decrypt it with: %s -provider legacy -provider default", err, command)
	case errors.Is(err, identity.ErrNoPKCS12):
		return err
	case p.passphrase != "" || strings.HasPrefix(err.Error(), "pkcs12"):
		return fmt.Errorf("%w; decrypt it with: %s", err, command)
	}
	return err
}

// protection is how the control channel is protected by the keys of the profile, or of one <connection>.
func (p *parser) protection(of *parser) (out wire.Protection, err error) {
	if len(of.tlsKeys) == 0 {
		return out, nil
	}
	d := of.tlsKeys[0]
	if len(of.tlsKeys) > 1 {
		return out, &lineError{of.tlsKeys[1].line, fmt.Errorf("%s and %s exclude each other", d.name, of.tlsKeys[1].name)}
	}
	out.Direction = of.keyDir
	var key wire.StaticKey
	switch d.name {
	case "tls-auth":
		out.Kind = wire.TLSAuthKey
		if out.Digest = digests[strings.TrimPrefix(strings.ReplaceAll(p.digest, "-", ""), "RSA")]; out.Digest == nil {
			return out, &lineError{max(p.digestAt, d.line), fmt.Errorf("auth %s is not supported", p.digest)}
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
		return out, &lineError{d.line, fmt.Errorf("%s: %w", d.name, err)}
	}
	out.Key = &key
	return out, nil
}

var digests = map[string]func() hash.Hash{
	"MD5": md5.New, "SHA1": sha1.New, "SHA224": sha256.New224, "SHA256": sha256.New, "SHA384": sha512.New384, "SHA512": sha512.New,
}
