package openvpn

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/wire"
)

// profileParser collects directives until finish can make a Profile of them.
type profileParser struct {
	file     string
	read     func(name string) ([]byte, error)
	warnings []Warning
	line     int

	out      Profile
	network  string // proto
	port     uint16
	remotes  []pendingRemote
	force    string // proto-force: "udp" or "tcp"
	table    map[string]func(*profileParser, directive) error
	unknown  map[string]bool // ignore-unknown-option
	files    map[string]material
	digest   string
	digestAt int
	tlsKeys  []directive // tls-auth, tls-crypt, tls-crypt-v2
	keyDir   wire.Direction
}

// pendingRemote is a remote whose port and network may be given by a later line.
type pendingRemote struct {
	host, network string
	port          uint16
	local         *profileParser // the <connection> block it stands in
}

// material is the content of ca, cert, key and such.
type material struct {
	line int
	text string
}

func newProfileParser(file string, read func(string) ([]byte, error)) *profileParser {
	return &profileParser{
		file: file, read: read, table: compileDirectives(),
		network: "udp", port: 1194,
		unknown: make(map[string]bool),
		files:   make(map[string]material),
		digest:  "SHA1",
	}
}

func (p *profileParser) warn(format string, args ...any) {
	p.warnings = append(p.warnings, Warning{p.file, p.line, fmt.Sprintf(format, args...)})
}

// directive files one directive under what it means.
func (p *profileParser) directive(d directive) error {
	p.line = d.line
	if d.name == "setenv" && len(d.args) > 0 && d.args[0] == "opt" { // take it if known, else forget it
		if len(d.args) == 1 {
			return nil
		}
		d.name, d.args = d.args[1], d.args[2:]
		p.unknown[d.name] = true
	}
	if d.inline && !profileBlocks[d.name] && !p.unknown[d.name] {
		return fmt.Errorf("unknown inline block <%s>", d.name)
	}
	if parse, ok := p.table[d.name]; ok {
		if err := parse(p, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		return nil
	}
	switch kind := profileKinds[d.name]; {
	case kind == kindNoOp:
		return nil
	case kind == kindLeftOut:
		p.warn("%s is left out: it has no meaning here", d.name)
		return nil
	case kind == kindProgram:
		p.warn("%s is left out: a profile runs no programs", d.name)
		return nil
	case kind == kindOption:
		p.out.options = append(p.out.options, strings.Join(append([]string{d.name}, d.args...), " "))
		return nil
	case kind == kindRefused:
		return fmt.Errorf("%s is not supported", d.name)
	case p.unknown[d.name]:
		p.warn("%s is unknown and left out as the profile asks", d.name)
		return nil
	}
	if near := p.nearest(d.name); near != "" {
		return fmt.Errorf("unknown directive %q; did you mean %q?", d.name, near)
	}
	return fmt.Errorf("unknown directive %q", d.name)
}

type directiveKind uint8

const (
	kindUnknown directiveKind = iota
	kindNoOp                  // true of this client anyway, or without consequence
	kindLeftOut               // concerns the host or a server
	kindProgram               // runs a program
	kindOption                // may be pushed as well: treated the same
	kindRefused               // leaving it out would change what is sent, or to whom
)

var profileKinds = compileKinds(map[directiveKind]string{
	kindNoOp: `client tls-client pull nobind persist-tun persist-key persist-local-ip persist-remote-ip resolv-retry float
		verb mute mute-replay-warnings fast-io sndbuf rcvbuf socket-flags tun-ipv6 mssfix link-mtu tun-mtu-extra replay-window
		connect-retry connect-retry-max allow-compression push-peer-info tls-exit single-session tls-timeout auth-retry
		mtu-disc mtu-test suppress-timestamps machine-readable-output errors-to-stderr disable-dco disable-occ inactive
		setenv-safe keysize ping-timer-rem allow-recursive-routing session-timeout tls-cert-profile opt-verify explicit-exit-notify
		reneg-bytes reneg-pkts`,
	kindLeftOut: `user group daemon log log-append status status-version writepid cd chroot nice mlock syslog bind lport local
		multihome dev-node tap-sleep ip-win32 route-method route-delay dhcp-renew dhcp-release register-dns windows-driver
		show-net-up pause-exit service mark bind-dev txqueuelen route-noexec ifconfig-noexec lladdr
		tls-cipher tls-ciphersuites tls-groups ecdh-curve engine providers replay-persist remote-random-hostname
		ifconfig-nowarn shaper passtos vlan-tagging block-outside-dns-server win-sys auth-gen-token-secret`,
	kindProgram: `up down down-pre up-delay up-restart route-up route-pre-down ipchange script-security plugin
		tls-verify auth-user-pass-verify client-connect client-disconnect learn-address iproute dns-updown tls-crypt-v2-verify
		management management-query-passwords management-query-proxy management-query-remote management-forget-disconnect
		management-hold management-signal management-log-cache management-client management-client-user
		management-client-group management-up-down management-external-key management-external-cert`,
	kindOption: `route route-ipv6 route-gateway route-metric redirect-gateway redirect-private block-ipv6 block-outside-dns dhcp-option
		dns ifconfig ifconfig-ipv6 topology`,
	kindRefused: `secret tls-server server server-bridge server-ipv6 mode fragment http-proxy http-proxy-option
		http-proxy-user-pass socks-proxy askpass pkcs12 pkcs11-providers pkcs11-id cryptoapicert capath no-replay no-iv
		test-crypto mktun rmtun static-key prng ncp-disable tls-export-cert x509-track x509-username-field ping-exit-code`,
})

func compileKinds(lists map[directiveKind]string) map[string]directiveKind {
	kinds := make(map[string]directiveKind)
	for kind, list := range lists {
		for _, name := range strings.Fields(list) {
			kinds[name] = kind
		}
	}
	return kinds
}

var profileBlocks = map[string]bool{
	"ca": true, "cert": true, "key": true, "extra-certs": true, "crl-verify": true, "tls-auth": true, "tls-crypt": true,
	"tls-crypt-v2": true, "auth-user-pass": true, "peer-fingerprint": true, "connection": true,
}

// compileDirectives is a function and no variable because <connection> reads the table back.
func compileDirectives() map[string]func(*profileParser, directive) error {
	table := map[string]func(*profileParser, directive) error{
		"dev":      parseDev,
		"dev-type": parseDev,
		"proto": func(p *profileParser, d directive) (err error) {
			p.network, err = parseProto(d.arg(0))
			return err
		},
		"proto-force": parseProtoForce,
		"remote":      parseRemote,
		"port":        parsePort,
		"rport":       parsePort,
		"remote-random": func(p *profileParser, _ directive) error {
			p.out.RemoteRandom = true
			return nil
		},
		"auth-user-pass":   parseAuthUserPass,
		"static-challenge": parseStaticChallenge,
		"auth-nocache": func(p *profileParser, _ directive) error {
			p.out.noCache = true
			return nil
		},
		"remote-cert-tls":  parseRemoteCertTLS,
		"ns-cert-type":     parseRemoteCertTLS,
		"remote-cert-eku":  parseRemoteCertEKU,
		"remote-cert-ku":   func(p *profileParser, _ directive) error { p.out.trust.serverUsage = true; return nil },
		"verify-x509-name": parseVerifyName,
		"peer-fingerprint": parseFingerprint,
		"tls-version-min":  func(p *profileParser, d directive) error { return parseTLSVersion(d, &p.out.trust.minVersion) },
		"tls-version-max":  func(p *profileParser, d directive) error { return parseTLSVersion(d, &p.out.trust.maxVersion) },
		"key-direction":    parseKeyDirection,
		"auth": func(p *profileParser, d directive) error {
			p.digest, p.digestAt = strings.ToUpper(d.arg(0)), d.line
			return nil
		},
		"cipher":                parseCipher,
		"data-ciphers-fallback": parseCipher,
		"data-ciphers":          parseDataCiphers,
		"ncp-ciphers":           parseDataCiphers,
		"compress":              parseCompression,
		"comp-lzo":              parseCompression,
		"comp-noadapt":          func(*profileParser, directive) error { return nil },
		"keepalive":             parseKeepalive,
		"pull-filter":           parsePullFilter,
		"ignore-unknown-option": parseIgnoreUnknown,
		"setenv":                parseSetenv,
		"route-nopull":          func(p *profileParser, _ directive) error { p.out.noRoutes = true; return nil },
		"tun-mtu":               parseTunMTU,
		"reneg-sec":             seconds(func(t *timers) *time.Duration { return &t.renegotiate }),
		"hand-window":           seconds(func(t *timers) *time.Duration { return &t.handWindow }),
		"tran-window":           seconds(func(t *timers) *time.Duration { return &t.transition }),
		"ping":                  seconds(func(t *timers) *time.Duration { return &t.ping }),
		"ping-restart":          seconds(func(t *timers) *time.Duration { return &t.pingRestart }),
		"ping-exit":             seconds(func(t *timers) *time.Duration { return &t.pingRestart }),
		"connect-timeout":       seconds(func(t *timers) *time.Duration { return &t.connect }),
		"server-poll-timeout":   seconds(func(t *timers) *time.Duration { return &t.connect }),
		"tls-auth":              parseTLSKey,
		"tls-crypt":             parseTLSKey,
		"tls-crypt-v2":          parseTLSKey,
		"connection":            parseConnection,
	}
	for _, name := range []string{"ca", "cert", "key", "extra-certs", "crl-verify"} {
		table[name] = parseMaterial
	}
	return table
}

func (d directive) arg(i int) string {
	if i < len(d.args) {
		return d.args[i]
	}
	return ""
}

func parseDev(_ *profileParser, d directive) error {
	if !strings.HasPrefix(d.arg(0), "tun") && d.arg(0) != "null" {
		return fmt.Errorf("device %q is not supported, only tun", d.arg(0))
	}
	return nil
}

func parseProto(name string) (string, error) {
	switch name {
	case "udp", "udp4", "udp6", "tcp", "tcp4", "tcp6":
		return name, nil
	case "tcp-client", "tcp4-client", "tcp6-client":
		return strings.TrimSuffix(name, "-client"), nil
	}
	return "", fmt.Errorf("protocol %q is not one of udp, udp4, udp6, tcp, tcp4, tcp6", name)
}

// parseProtoForce keeps only the remotes of one protocol, in finish.
func parseProtoForce(p *profileParser, d directive) error {
	network, err := parseProto(d.arg(0))
	if err != nil {
		return err
	}
	p.force = network[:3]
	return nil
}

func parsePortNumber(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("port %q is not a number from 1 to 65535", s)
	}
	return uint16(port), nil
}

func parsePort(p *profileParser, d directive) (err error) {
	p.port, err = parsePortNumber(d.arg(0))
	return err
}

func parseRemote(p *profileParser, d directive) error {
	r := pendingRemote{host: d.arg(0), local: p}
	if r.host == "" {
		return errors.New("no host")
	}
	var err error
	if s := d.arg(1); s != "" {
		if r.port, err = parsePortNumber(s); err != nil {
			return err
		}
	}
	if s := d.arg(2); s != "" {
		if r.network, err = parseProto(s); err != nil {
			return err
		}
	}
	p.remotes = append(p.remotes, r)
	return nil
}

// parseConnection reads a <connection> block: a remote with settings of its own.
func parseConnection(p *profileParser, d directive) error {
	if !d.inline {
		return errors.New("is a block: <connection>")
	}
	inner, err := lex(d.content)
	if err != nil {
		return err
	}
	block := newProfileParser(p.file, p.read)
	block.network, block.port = p.network, p.port
	for _, i := range inner {
		switch i.name {
		case "remote", "proto", "port", "rport":
			if err := p.table[i.name](block, i); err != nil {
				return fmt.Errorf("line %d: %s: %w", d.line+i.line, i.name, err)
			}
		case "connection":
			return fmt.Errorf("line %d: <connection> inside <connection>", d.line+i.line)
		default: // the rest holds for the whole profile
			i.line += d.line
			if err := p.directive(i); err != nil {
				return fmt.Errorf("line %d: %w", i.line, err)
			}
		}
	}
	p.remotes = append(p.remotes, block.remotes...)
	return nil
}

func parseAuthUserPass(p *profileParser, d directive) error {
	p.out.AuthUserPass = true
	text := d.content
	if !d.inline {
		if d.arg(0) == "" || d.arg(0) == inlineFile {
			return nil
		}
		b, err := p.read(d.arg(0))
		if err != nil {
			return err
		}
		text = string(b)
	}
	user, rest, _ := strings.Cut(text, "\n")
	password, _, _ := strings.Cut(rest, "\n")
	p.out.user = strings.TrimRight(user, "\r")
	p.out.password = secret(strings.TrimRight(password, "\r"))
	return nil
}

func parseStaticChallenge(p *profileParser, d directive) error {
	if d.arg(0) == "" || d.arg(1) != "0" && d.arg(1) != "1" {
		return errors.New("want a text, and 1 or 0 for echo")
	}
	p.out.StaticChallenge, p.out.staticEcho = d.arg(0), d.arg(1) == "1"
	return nil
}

func parseRemoteCertTLS(p *profileParser, d directive) error {
	if d.arg(0) != "server" {
		return fmt.Errorf("%q: a client can only ask for server", d.arg(0))
	}
	p.out.trust.serverUsage = true
	return nil
}

func parseRemoteCertEKU(p *profileParser, d directive) error {
	switch d.arg(0) {
	case "TLS Web Server Authentication", "serverAuth", "1.3.6.1.5.5.7.3.1":
		p.out.trust.serverUsage = true
		return nil
	}
	return fmt.Errorf("%q is not supported, only serverAuth", d.arg(0))
}

func parseVerifyName(p *profileParser, d directive) error {
	kinds := map[string]nameKind{"": nameSubject, "subject": nameSubject, "name": nameCommon, "name-prefix": namePrefix}
	kind, ok := kinds[d.arg(1)]
	if !ok || d.arg(0) == "" {
		return errors.New("want a name, and subject, name or name-prefix")
	}
	p.out.trust.name, p.out.trust.nameKind = d.arg(0), kind
	return nil
}

func parseTLSVersion(d directive, to *uint16) error {
	switch d.arg(0) {
	case "1.0", "1.1", "1.2": // below 1.2 nothing is spoken
		*to = tls.VersionTLS12
	case "1.3":
		*to = tls.VersionTLS13
	default:
		return fmt.Errorf("unknown TLS version %q", d.arg(0))
	}
	return nil
}

func parseKeyDirection(p *profileParser, d directive) (err error) {
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

func parseCipher(p *profileParser, d directive) error {
	c := datakey.Cipher(strings.ToUpper(d.arg(0)))
	if !c.Known() {
		p.warn("%s %s is left out: only AEAD ciphers are spoken, and most servers negotiate one", d.name, d.arg(0))
		return nil
	}
	p.out.fallback = c
	return nil
}

func parseDataCiphers(p *profileParser, d directive) error {
	p.out.ciphers = nil
	for name := range strings.SplitSeq(d.arg(0), ":") {
		switch c := datakey.Cipher(strings.ToUpper(strings.TrimPrefix(name, "?"))); {
		case c.Known() && !slices.Contains(p.out.ciphers, c):
			p.out.ciphers = append(p.out.ciphers, c)
		case c == "DEFAULT":
			p.out.ciphers = append(p.out.ciphers, defaultCiphers...)
		case !c.Known() && !strings.HasPrefix(name, "?"):
			p.warn("cipher %s is left out: only AEAD ciphers are spoken", name)
		}
	}
	if len(p.out.ciphers) == 0 {
		return fmt.Errorf("none of %q is supported: name AES-256-GCM, AES-128-GCM or CHACHA20-POLY1305", d.arg(0))
	}
	return nil
}

var defaultCiphers = []datakey.Cipher{datakey.AES256GCM, datakey.AES128GCM, datakey.ChaCha20}

func parseCompression(p *profileParser, d directive) error {
	switch d.arg(0) {
	case "no", "stub", "stub-v2", "migrate":
	case "":
		if d.name == "comp-lzo" {
			return errors.New("compression is not supported: it weakens encryption (VORACLE)")
		}
	default:
		return fmt.Errorf("compression %q is not supported: it weakens encryption (VORACLE)", d.arg(0))
	}
	p.warn("%s is left out: a server that insists on compression framing is refused", d.name)
	return nil
}

func seconds(field func(*timers) *time.Duration) func(*profileParser, directive) error {
	return func(p *profileParser, d directive) error {
		v, err := parseSeconds(d.arg(0))
		if err != nil {
			return err
		}
		*field(&p.out.timers) = v
		return nil
	}
}

// maxSeconds keeps every sum of durations far from overflow: a week.
const maxSeconds = 7 * 24 * 3600

func parseSeconds(s string) (time.Duration, error) {
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number of seconds", s)
	}
	return time.Duration(min(n, maxSeconds)) * time.Second, nil
}

func parseKeepalive(p *profileParser, d directive) (err error) {
	if p.out.ping, err = parseSeconds(d.arg(0)); err != nil {
		return err
	}
	p.out.pingRestart, err = parseSeconds(d.arg(1))
	return err
}

func parsePullFilter(p *profileParser, d directive) error {
	actions := map[string]pullAction{"accept": pullAccept, "ignore": pullIgnore, "reject": pullReject}
	action, ok := actions[d.arg(0)]
	if !ok || len(d.args) < 2 {
		return errors.New("want accept, ignore or reject, and a text")
	}
	p.out.filters = append(p.out.filters, pullFilter{action, d.arg(1)})
	return nil
}

func parseIgnoreUnknown(p *profileParser, d directive) error {
	for _, name := range d.args {
		p.unknown[name] = true
	}
	return nil
}

// parseSetenv keeps what the server is told and forgets what scripts would have seen.
func parseSetenv(p *profileParser, d directive) error {
	if name := d.arg(0); strings.HasPrefix(name, "UV_") && !strings.ContainsAny(name+d.arg(1), "\n\x00") {
		p.out.peerInfo = append(p.out.peerInfo, name+"="+d.arg(1))
	}
	return nil
}

func parseTunMTU(p *profileParser, d directive) error {
	n, err := strconv.Atoi(d.arg(0))
	if err != nil || n < minMTU || n > maxMTU {
		return fmt.Errorf("%q is not a number from %d to %d", d.arg(0), minMTU, maxMTU)
	}
	p.out.tunMTU = n
	return nil
}

// nearest finds a known directive one or two keystrokes away.
func (p *profileParser) nearest(name string) string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(profileKinds)), maps.Keys(p.table))
	slices.Sort(names)
	best, at := "", 3
	for _, known := range names {
		if d := distance(name, known); d < at && d < len(name)/2 {
			best, at = known, d
		}
	}
	return best
}

// distance is the Levenshtein distance, for short words.
func distance(a, b string) int {
	if len(a) > 64 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
