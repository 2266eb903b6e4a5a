package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"penstock/policy/spelling"
	"penstock/router/transport/openvpn/internal/wire"
)

// parser collects directives until finish can make a Profile of them.
type parser struct {
	file     string
	files    Files
	table    map[string]func(*parser, directive) error
	kinds    map[string]kind
	warnings []Warning
	line     int // of the directive at hand, for warnings

	out        Profile
	network    string // proto
	port       uint16
	remotes    []pendingRemote
	force      string          // proto-force: "udp" or "tcp"
	announced  map[string]bool // ignore-unknown-option, setenv opt
	compatible bool            // setenv FORWARD_COMPATIBLE: ignore all that is unknown
	materials  map[string]material
	digest     string
	digestAt   int
	tlsKeys    []directive // tls-auth, tls-crypt, tls-crypt-v2
	keyDir     wire.Direction
}

// pendingRemote is a remote whose port and network may be given by a later line.
type pendingRemote struct {
	host, network string
	port          uint16
	local         *parser // the <connection> block it stands in
}

// material is the content of ca, cert, key and such.
type material struct {
	line int
	file string // empty: inline
	text string
}

func newParser(file string, files Files) *parser {
	return &parser{
		file: file, files: files, table: directives(), kinds: kindsOfDirectives(),
		network: "udp", port: 1194,
		announced: make(map[string]bool),
		materials: make(map[string]material),
		digest:    "SHA1",
	}
}

func (p *parser) warn(format string, args ...any) {
	p.warnings = append(p.warnings, Warning{p.file, p.line, fmt.Sprintf(format, args...)})
}

// directive files one directive under what it means.
func (p *parser) directive(d directive) error {
	p.line = d.line
	if d.name == "setenv" && d.arg(0) == "opt" { // ignore it unless it is known
		if len(d.args) == 1 {
			return nil
		}
		d.name, d.args = d.args[1], d.args[2:]
		p.announced[d.name] = true
	}
	forgiven := p.compatible || p.announced[d.name]
	if d.inline && !blocks[d.name] && !forgiven {
		return fmt.Errorf("unknown inline block <%s>", d.name)
	}
	if parse, ok := p.table[d.name]; ok {
		if err := parse(p, d); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		return nil
	}
	switch k := p.kinds[d.name]; {
	case k == silent:
	case k == ignored:
		p.warn("%s is ignored: it has no meaning here", d.name)
	case k == program:
		p.warn("%s is ignored: nothing in a profile is run", d.name)
	case k == pushable:
		p.out.Options = append(p.out.Options, strings.Join(append([]string{d.name}, d.args...), " "))
	case k == refused:
		return fmt.Errorf("%s is not supported", d.name)
	case forgiven:
		p.warn("%s is unknown, and ignored as the profile asks", d.name)
	default:
		if near := spelling.Nearest(d.name, slices.Concat(slices.Collect(maps.Keys(p.kinds)), slices.Collect(maps.Keys(p.table)))); near != "" {
			return fmt.Errorf("unknown directive %q; did you mean %q?", d.name, near)
		}
		return fmt.Errorf("unknown directive %q", d.name)
	}
	return nil
}

// kind is what happens to a directive that needs no parsing.
type kind uint8

const (
	unknown  kind = iota
	silent        // true of this client anyway, or without consequence
	ignored       // concerns the host or a server
	program       // runs a program
	pushable      // may be pushed as well: treated the same
	refused       // to ignore it would change what is sent, or to whom
)

func kindsOfDirectives() map[string]kind {
	kinds := make(map[string]kind)
	for k, list := range map[kind]string{
		silent: `client tls-client pull nobind persist-tun persist-key persist-local-ip persist-remote-ip resolv-retry float
			verb mute mute-replay-warnings fast-io sndbuf rcvbuf socket-flags tun-ipv6 mssfix link-mtu tun-mtu-extra replay-window
			connect-retry connect-retry-max allow-compression push-peer-info tls-exit single-session tls-timeout auth-retry
			mtu-disc mtu-test suppress-timestamps machine-readable-output errors-to-stderr disable-dco disable-occ inactive
			setenv-safe keysize ping-timer-rem allow-recursive-routing session-timeout tls-cert-profile opt-verify explicit-exit-notify
			reneg-bytes reneg-pkts comp-noadapt`,
		ignored: `user group daemon log log-append status status-version writepid cd chroot nice mlock syslog bind lport local
			multihome dev-node tap-sleep ip-win32 route-method route-delay dhcp-renew dhcp-release register-dns windows-driver
			show-net-up pause-exit service mark bind-dev txqueuelen route-noexec ifconfig-noexec lladdr
			tls-cipher tls-ciphersuites tls-groups ecdh-curve engine providers replay-persist remote-random-hostname
			ifconfig-nowarn shaper passtos vlan-tagging block-outside-dns-server win-sys auth-gen-token-secret
			max-routes allow-pull-fqdn compat-mode http-proxy-retry preresolve key-method dh ncp-disable`,
		program: `up down down-pre up-delay up-restart route-up route-pre-down ipchange script-security plugin
			tls-verify auth-user-pass-verify client-connect client-disconnect learn-address iproute dns-updown tls-crypt-v2-verify
			management management-query-passwords management-query-proxy management-query-remote management-forget-disconnect
			management-hold management-signal management-log-cache management-client management-client-user
			management-client-group management-up-down management-external-key management-external-cert`,
		pushable: `route route-ipv6 route-gateway route-metric redirect-gateway redirect-private block-ipv6 block-outside-dns dhcp-option
			dns ifconfig ifconfig-ipv6 topology`,
		refused: `secret tls-server server server-bridge server-ipv6 mode fragment http-proxy http-proxy-option
			http-proxy-user-pass socks-proxy askpass pkcs12 pkcs11-providers pkcs11-id cryptoapicert capath no-replay no-iv
			test-crypto mktun rmtun static-key prng tls-export-cert x509-track x509-username-field ping-exit-code`,
	} {
		for _, name := range strings.Fields(list) {
			kinds[name] = k
		}
	}
	return kinds
}

// blocks are the directives that may be inline blocks.
var blocks = map[string]bool{
	"ca": true, "cert": true, "key": true, "extra-certs": true, "crl-verify": true, "tls-auth": true, "tls-crypt": true,
	"tls-crypt-v2": true, "auth-user-pass": true, "peer-fingerprint": true, "connection": true, "dh": true,
}
