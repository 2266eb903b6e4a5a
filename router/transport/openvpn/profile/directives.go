package profile

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"penstock/policy/textfile"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/internal/trust"
	"penstock/router/transport/openvpn/internal/wire"
)

// parseDev keeps the device for finish: dev may be any name where dev-type says what it is.
func parseDev(p *parser, d directive) error {
	if d.arg(0) == "" {
		return errors.New("no device")
	}
	if p.devices == nil {
		p.devices = make(map[string]directive)
	}
	p.devices[d.name] = d
	return nil
}

func parseMode(_ *parser, d directive) error {
	if d.arg(0) != "p2p" {
		return fmt.Errorf("%q is not a client's; ask for a client's file", d.arg(0))
	}
	return nil
}

func parseProto(p *parser, d directive) (err error) {
	p.network, err = protocol(d.arg(0))
	return err
}

func protocol(name string) (string, error) {
	switch name {
	case "udp", "udp4", "udp6", "tcp", "tcp4", "tcp6":
		return name, nil
	case "tcp-client", "tcp4-client", "tcp6-client":
		return strings.TrimSuffix(name, "-client"), nil
	}
	return "", fmt.Errorf("protocol %q is not one of udp, udp4, udp6, tcp, tcp4, tcp6", name)
}

// parseProtoForce keeps only the remotes of one protocol, in finish.
func parseProtoForce(p *parser, d directive) error {
	network, err := protocol(d.arg(0))
	if err != nil {
		return err
	}
	p.force = network[:3]
	return nil
}

func portNumber(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", s)
	}
	return uint16(port), nil
}

func parsePort(p *parser, d directive) (err error) {
	p.port, err = portNumber(d.arg(0))
	return err
}

func parseRemote(p *parser, d directive) error {
	r := pendingRemote{host: d.arg(0), local: p}
	if r.host == "" {
		return errors.New("no host")
	}
	if mend := mendHost(r.host); mend != "" {
		return fmt.Errorf("%q is not a host: %s", r.host, mend)
	}
	var err error
	if s := d.arg(1); s != "" {
		if r.port, err = portNumber(s); err != nil {
			return err
		}
	}
	if s := d.arg(2); s != "" {
		if r.network, err = protocol(s); err != nil {
			return err
		}
	}
	p.remotes = append(p.remotes, r)
	return nil
}

// mendHost says how to write what nobody can look up as a host; empty if it looks like one.
func mendHost(host string) string {
	switch name, port, _ := strings.Cut(host, ":"); {
	case strings.Contains(host, "://"):
		return "write host and port alone, as in remote vpn.example 1194"
	case strings.Count(host, ":") == 1:
		return fmt.Sprintf("write the port apart from it: remote %s %s", name, port)
	case strings.ContainsFunc(host, func(r rune) bool { return r > unicode.MaxASCII }):
		return "write letters beyond ASCII in their xn-- form"
	}
	return ""
}

// parseConnection reads a <connection> block: a remote with settings of its own.
func parseConnection(p *parser, d directive) error {
	if !d.inline {
		return errors.New("is a block: <connection>")
	}
	inner, err := lex(d.content)
	if e, ok := errors.AsType[*lineError](err); ok {
		return fmt.Errorf("line %d: %w", d.line+e.line, e.err)
	}
	block := newParser(p.file, p.files)
	block.network, block.port, block.keyDir = p.network, p.port, p.keyDir
	for _, i := range inner {
		i.line += d.line
		switch i.name {
		case "remote", "proto", "port", "rport", "tls-auth", "tls-crypt", "tls-crypt-v2", "key-direction":
			if err := p.table[i.name].parse(block, i); err != nil {
				return fmt.Errorf("line %d: %s: %w", i.line, i.name, err)
			}
		case "connection":
			return fmt.Errorf("line %d: <connection> inside <connection>", i.line)
		default: // the rest holds for the whole profile
			if err := p.directive(i); err != nil {
				return fmt.Errorf("line %d: %w", i.line, err)
			}
		}
	}
	if len(block.remotes) == 0 {
		p.line = d.line
		p.warn("<connection> is ignored: it has no remote")
	}
	p.remotes = append(p.remotes, block.remotes...)
	return nil
}

// content is what an inline block holds, or the file that the directive names. It is empty for [inline]: the block
// follows, or came before.
func (p *parser) content(d directive, read func(string) ([]byte, error)) (string, error) {
	if d.inline {
		return d.content, nil
	}
	switch file := d.arg(0); file {
	case "":
		return "", errors.New("no file name")
	case inlineFile:
		return "", nil
	default:
		b, err := open(p.file, file, read)
		if err == nil && len(b) == 0 {
			err = fmt.Errorf("%s is empty", file)
		}
		if err != nil || d.name == "pkcs12" { // which is no text
			return string(b), err
		}
		content, err := decode(b)
		if err != nil {
			err = fmt.Errorf("%s %w", file, err)
		}
		return content, err
	}
}

// decode returns the text of a file, whatever editor wrote it.
func decode(b []byte) (string, error) {
	content := textfile.Decode(b)
	if bytes.IndexByte(content, 0) >= 0 {
		return "", errors.New("is not a text file: it holds a zero byte")
	}
	return string(content), nil
}

func (p *parser) keep(d directive, read func(string) ([]byte, error)) error {
	content, err := p.content(d, read)
	if err != nil || content == "" {
		return err
	}
	m := material{line: d.line, text: content}
	if !d.inline {
		m.file = d.arg(0)
	}
	p.materials[d.name] = m
	return nil
}

func parsePublic(p *parser, d directive) error { return p.keep(d, p.files.Public) }

func parseKey(p *parser, d directive) error { return p.keep(d, p.files.Secret) }

func parsePacked(p *parser, d directive) error { return p.keep(d, p.files.Secret) }

func parseAskpass(p *parser, d directive) error {
	p.asksPass = true
	if !d.inline && d.arg(0) == "" {
		return nil
	}
	content, err := p.content(d, p.files.Secret)
	first, _, _ := strings.Cut(content, "\n")
	p.passphrase = text.Secret(first)
	return err
}

func parseLists(p *parser, d directive) error {
	if d.arg(1) == "dir" {
		return errors.New("a directory of serial numbers is not supported: name a file with the revocation list")
	}
	return p.keep(d, p.files.Public)
}

func parseAuthUserPass(p *parser, d directive) error {
	p.out.AuthUserPass = true
	if !d.inline && d.arg(0) == "" {
		return nil
	}
	if d.arg(0) == "username-only" || d.arg(1) == "username-only" {
		return errors.New("username-only is not supported: remove the word, and give a password: any will do if the server does not check it")
	}
	content, err := p.content(d, p.files.Secret)
	if err != nil || content == "" {
		return err
	}
	user, rest, _ := strings.Cut(content, "\n")
	password, _, _ := strings.Cut(rest, "\n")
	p.out.User, p.out.Password = user, text.Secret(password)
	return nil
}

func parseStaticChallenge(p *parser, d directive) error {
	if d.arg(0) == "" || d.arg(1) != "0" && d.arg(1) != "1" {
		return errors.New("want a text, and 1 or 0 for echo")
	}
	switch d.arg(2) {
	case "", "scrv1":
	case "concat":
		p.out.StaticConcat = true
	default:
		return fmt.Errorf("format %q is not scrv1 or concat", d.arg(2))
	}
	p.out.StaticChallenge, p.out.StaticEcho = d.arg(0), d.arg(1) == "1"
	return nil
}

func parseRemoteCertTLS(p *parser, d directive) error {
	if d.arg(0) != "server" {
		return fmt.Errorf("%q: a client can only ask for server", d.arg(0))
	}
	purpose := trust.ServerStated
	if d.name == "ns-cert-type" {
		purpose = trust.ServerUsual
	}
	p.out.Trust.Purpose = max(p.out.Trust.Purpose, purpose)
	return nil
}

func parseRemoteCertEKU(p *parser, d directive) error {
	switch d.arg(0) {
	case "TLS Web Server Authentication", "serverAuth", "1.3.6.1.5.5.7.3.1":
		p.out.Trust.Purpose = trust.ServerStated
		return nil
	}
	return fmt.Errorf("%q is not supported, only serverAuth", d.arg(0))
}

func parseRemoteCertKU(p *parser, d directive) error {
	for _, s := range d.args {
		usage, err := strconv.ParseUint(s, 16, 8)
		if err != nil {
			return fmt.Errorf("%q is not a key usage of two hexadecimal digits", s)
		}
		p.out.Trust.KeyUsages = append(p.out.Trust.KeyUsages, byte(usage))
	}
	return nil
}

func parseVerifyName(p *parser, d directive) error {
	kinds := map[string]trust.NameKind{"": trust.Subject, "subject": trust.Subject, "name": trust.CommonName, "name-prefix": trust.CommonPrefix}
	kind, ok := kinds[d.arg(1)]
	if !ok || d.arg(0) == "" {
		return errors.New("want a name, and subject, name or name-prefix")
	}
	p.out.Trust.Name, p.out.Trust.NameKind = d.arg(0), kind
	return nil
}

func parseFingerprint(p *parser, d directive) error {
	lines := d.args
	if d.inline {
		lines = strings.Fields(d.content)
	}
	for _, line := range lines {
		b, err := hex.DecodeString(strings.ReplaceAll(line, ":", ""))
		if err != nil || len(b) != sha256.Size {
			return fmt.Errorf("%q is not a SHA-256 fingerprint", line)
		}
		p.out.Trust.Fingerprints = append(p.out.Trust.Fingerprints, [sha256.Size]byte(b))
	}
	return nil
}

func parseTLSVersion(d directive, to *uint16) error {
	switch d.arg(0) {
	case "1.0", "1.1", "1.2": // nothing below 1.2 is offered
		*to = tls.VersionTLS12
	case "1.3":
		*to = tls.VersionTLS13
	default:
		return fmt.Errorf("unknown TLS version %q", d.arg(0))
	}
	return nil
}

// parseTLSKey keeps the key for finish: key-direction may come later.
func parseTLSKey(p *parser, d directive) error {
	content, err := p.content(d, p.files.Secret)
	if err != nil {
		return err
	}
	if s := d.arg(1); s != "" && d.name == "tls-auth" {
		if p.keyDir, err = direction(s); err != nil {
			return err
		}
	}
	if content == "" {
		return nil
	}
	d.content = content
	if i := slices.IndexFunc(p.tlsKeys, func(k directive) bool { return k.name == d.name }); i >= 0 {
		p.tlsKeys[i] = d
		return nil
	}
	p.tlsKeys = append(p.tlsKeys, d)
	return nil
}

func parseKeyDirection(p *parser, d directive) (err error) {
	p.keyDir, err = direction(d.arg(0))
	return err
}

func direction(s string) (wire.Direction, error) {
	switch s {
	case "0":
		return wire.Normal, nil
	case "1":
		return wire.Inverse, nil
	}
	return 0, fmt.Errorf("direction %q is not 0 or 1", s)
}

func parseCipher(p *parser, d directive) error {
	c := datakey.Cipher(strings.ToUpper(d.arg(0)))
	if !c.Known() {
		p.warn("%s %s is ignored: only AEAD ciphers are supported, and most servers negotiate one", d.name, d.arg(0))
		return nil
	}
	p.out.Fallback = c
	return nil
}

func parseDataCiphers(p *parser, d directive) error {
	p.out.Ciphers = nil
	for name := range strings.SplitSeq(d.arg(0), ":") {
		switch c := datakey.Cipher(strings.ToUpper(strings.TrimPrefix(name, "?"))); {
		case c.Known() && !slices.Contains(p.out.Ciphers, c):
			p.out.Ciphers = append(p.out.Ciphers, c)
		case c == "DEFAULT":
			p.out.Ciphers = append(p.out.Ciphers, defaultCiphers...)
		case !c.Known() && !strings.HasPrefix(name, "?"):
			p.warn("cipher %s is ignored: only AEAD ciphers are supported", name)
		}
	}
	if len(p.out.Ciphers) == 0 {
		return fmt.Errorf("none of %q is supported: name AES-256-GCM, AES-128-GCM or CHACHA20-POLY1305", d.arg(0))
	}
	return nil
}

var defaultCiphers = []datakey.Cipher{datakey.AES256GCM, datakey.AES128GCM, datakey.ChaCha20}

// parseCompression takes the framing of a line that asks for compression: the server may have it without compressing.
func parseCompression(p *parser, d directive) (err error) {
	p.out.Framing, err = framing.Parse(d.name, d.args)
	if errors.Is(err, framing.ErrCompression) {
		p.warn("%s: %v; packets are sent uncompressed, and a server that compresses is refused", d.name, err)
		return nil
	}
	return err
}

func seconds(field func(*Timers) *time.Duration) func(*parser, directive) error {
	return func(p *parser, d directive) error {
		v, err := text.Seconds(d.arg(0))
		if err != nil {
			return err
		}
		*field(&p.out.Timers) = v
		return nil
	}
}

func parseKeepalive(p *parser, d directive) (err error) {
	if p.out.Timers.Ping, err = text.Seconds(d.arg(0)); err != nil {
		return err
	}
	p.out.Timers.PingRestart, err = text.Seconds(d.arg(1))
	return err
}

func parsePullFilter(p *parser, d directive) error {
	actions := map[string]Action{"accept": Accept, "ignore": Ignore, "reject": Reject}
	action, ok := actions[d.arg(0)]
	if !ok || len(d.args) < 2 {
		return errors.New("want accept, ignore or reject, and a text")
	}
	p.out.Filters = append(p.out.Filters, Filter{action, d.arg(1)})
	return nil
}

func parseIgnoreUnknown(p *parser, d directive) error {
	for _, name := range d.args {
		p.announced[name] = true
	}
	return nil
}

// parseSetenv keeps what is meant for the server. What is meant for scripts is forgotten.
func parseSetenv(p *parser, d directive) error {
	switch name, value := d.arg(0), d.arg(1); {
	case name == "FORWARD_COMPATIBLE":
		p.compatible = value == "1"
	case strings.HasPrefix(name, "UV_") && !strings.ContainsAny(name+value, "\n\x00"):
		p.out.PeerInfo = append(p.out.PeerInfo, name+"="+value)
	}
	return nil
}
