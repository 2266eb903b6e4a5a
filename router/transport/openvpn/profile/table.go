package profile

import (
	"strings"
	"time"

	"penstock/router/transport/openvpn/internal/text"
)

// fate is what happens to a directive.
type fate uint8

const (
	unknown  fate = iota
	honoured      // parsed into the Profile
	pushable      // may be pushed as well, and is read in the same way
	moot          // true of this client anyway, or without consequence
	ignored       // passed over with a warning that names the line
	program       // would run a program: passed over with a warning
	refused       // to ignore it would change what is sent, or to whom
)

// entry is what penstock knows about a directive. docs/openvpn.md is made from it.
type entry struct {
	fate  fate
	parse func(*parser, directive) error // of those that are honoured
	note  string                         // what it does here, why it has no effect, or the mend
	block bool                           // may be an inline block
}

// group is several directives of one fate and for one reason.
type group struct {
	names string
	fate  fate
	note  string
}

// table knows every directive of openvpn(8) 2.4 to 2.7. It is a function and no variable because <connection> reads it
// back.
func table() map[string]entry {
	t := make(map[string]entry)
	for name, parse := range parsers() {
		t[name] = entry{fate: honoured, parse: parse, note: meanings[name], block: blocks[name]}
	}
	for _, g := range groups {
		for _, name := range strings.Fields(g.names) {
			t[name] = entry{fate: g.fate, note: g.note, block: blocks[name]}
		}
	}
	return t
}

// blocks are the directives that may be inline blocks.
var blocks = map[string]bool{
	"ca": true, "cert": true, "key": true, "extra-certs": true, "pkcs12": true, "crl-verify": true, "tls-auth": true,
	"tls-crypt": true, "tls-crypt-v2": true, "auth-user-pass": true, "peer-fingerprint": true, "connection": true, "dh": true,
	"http-proxy-user-pass": true, "secret": true, "verify-hash": true, "auth-gen-token-secret": true,
}

// groups are the directives that need no parsing.
var groups = []group{
	{"route-gateway redirect-gateway", pushable, "says what goes through the tunnel by rules with `unrouted: direct`, as the short form of the configuration writes them"},
	{"route-metric redirect-private", pushable, "is read; penstock has no routes that could compete"},
	{"ifconfig ifconfig-ipv6 topology", pushable, "gives the address inside the tunnel"},
	{"block-ipv6 block-outside-dns", pushable, "is read; the rules of the configuration decide what is blocked"},

	{"client tls-client pull nobind persist-tun persist-key persist-local-ip persist-remote-ip float tun-ipv6 single-session " +
		"push-peer-info explicit-exit-notify allow-recursive-routing", moot, "penstock always behaves like this"},
	{"resolv-retry connect-retry auth-retry ping-timer-rem tls-exit", moot, "penstock tries again by itself, and asks before it repeats a refused password"},
	{"verb mute mute-replay-warnings suppress-timestamps machine-readable-output errors-to-stderr echo parameter setenv-safe opt-verify",
		moot, "concerns messages or scripts"},
	{"fast-io sndbuf rcvbuf socket-flags tcp-nodelay tcp-queue-limit bcast-buffers mssfix link-mtu tun-mtu-extra tun-max-mtu max-packet-size mtu-disc mtu-test " +
		"replay-window tls-timeout hash-size disable-dco disable-occ mtu-dynamic", moot,
		"penstock sizes packets, buffers and timers by itself"},
	{"allow-compression comp-noadapt keysize reneg-bytes reneg-pkts", moot, "concerns ciphers and compression that penstock does not use"},

	{"inactive session-timeout connect-retry-max", ignored, "penstock keeps the tunnel up until it is told to close it"},
	{"bind lport local multihome bind-dev mark passtos shaper", ignored, "penstock chooses its own socket, which stays out of its tunnel"},
	{"user group daemon log log-append status status-version writepid cd chroot nice mlock syslog service tmp-dir setcon remap-usr1 gremlin memstats " +
		"config-dir allow-nonadmin", ignored, "concerns the process; the service unit says how penstock runs"},
	{"dev-node txqueuelen lladdr ifconfig-noexec ifconfig-nowarn route-noexec route-delay route-method ip-win32 tap-sleep dhcp-renew dhcp-release register-dns " +
		"windows-driver win-sys show-net-up pause-exit client-nat-noexec max-routes stale-routes-check route-ipv6-gateway", ignored,
		"concerns the host's interface and routes, which penstock sets by its own configuration"},
	{"tls-cipher tls-ciphersuites tls-groups ecdh-curve tls-cert-profile engine providers replay-persist prng use-prediction-resistance " +
		"allow-deprecated-insecure-static-crypto force-tls-key-material-export keying-material-exporter", ignored,
		"TLS chooses by itself, from what is safe"},
	{"dh ncp-disable key-method compat-mode no-name-remapping compat-names inetd", ignored,
		"concerns old versions or a server, and penstock negotiates with the server"},
	{"allow-pull-fqdn preresolve remote-random-hostname", ignored, "penstock resolves the server's name by itself, as it is, and follows routes only to addresses"},
	{"http-proxy-override http-proxy-retry http-proxy-timeout http-proxy-option http-proxy-user-pass socks-proxy-retry", ignored, "concerns a proxy"},
	{"askpass-hold auth-user-pass-optional username-as-common-name x509-username-field x509-track verify-client-cert client-cert-not-required duplicate-cn " +
		"client-to-client client-config-dir ccd-exclusive connect-freq connect-freq-initial max-clients max-routes-per-client disable " +
		"ifconfig-pool ifconfig-pool-persist ifconfig-pool-linear ifconfig-ipv6-pool ifconfig-push ifconfig-push-constraint ifconfig-ipv6-push iroute iroute-ipv6 " +
		"push push-remove push-reset push-continuation port-share auth-gen-token auth-gen-token-secret auth-token auth-token-user opt-push " +
		"vlan-accept vlan-pvid vlan-tagging tls-crypt-v2-max-age tls-crypt-v2-force-cookie peer-id protocol-flags key-derivation", ignored, "concerns a server"},

	{"up down down-pre up-delay up-restart route-up route-pre-down ipchange script-security plugin auth-user-pass-verify " +
		"client-connect client-disconnect client-crresponse learn-address iproute dns-updown tls-crypt-v2-verify " +
		"management management-query-passwords management-query-proxy management-query-remote management-forget-disconnect " +
		"management-hold management-signal management-log-cache management-client management-client-user management-client-auth management-client-pf " +
		"management-client-group management-up-down", program, "nothing in a profile is run; penstock sets DNS and routes itself"},

	{"secret", refused, "a static key has no TLS; ask for a profile with certificates"},
	{"tls-server server server-bridge server-ipv6", refused, "this is the file of a server; ask for a client's"},
	{"fragment", refused, "splitting packets is not supported; remove the line here and in the server's file"},
	{"http-proxy socks-proxy", refused, "a proxy is not supported; remove the line if the server can be reached without one"},
	{"pkcs11-providers pkcs11-id pkcs11-id-management pkcs11-cert-private pkcs11-private-mode pkcs11-protected-authentication pkcs11-pin-cache cryptoapicert " +
		"management-external-key management-external-cert", refused,
		"keys in a token or in the system's store are not supported; ask for a certificate with a key file (cert and key, or pkcs12)"},
	{"tls-verify", refused, "nothing in a profile is run, and nobody else would check the server's certificate in its place; name that with verify-x509-name or peer-fingerprint"},
	{"tls-remote", refused, "openvpn has not known it since 2.4; name the server's certificate with verify-x509-name NAME name"},
	{"capath", refused, "a directory of authorities is not supported; join its files into one and name it with ca"},
	{"verify-hash", refused, "pinning the authority's certificate is not supported; name the server's certificate with peer-fingerprint"},
	{"client-nat", refused, "address translation is not supported; remove the line, and reach the hosts by their own addresses"},
	{"no-replay no-iv", refused, "this weakens encryption; remove the line here and in the server's file"},
	{"tls-export-cert", refused, "nothing is written for scripts; remove the line"},
	{"config", refused, "other files are not read; put their lines here"},
	{"static-key test-crypto mktun rmtun genkey help version show-ciphers show-digests show-engines show-tls show-curves show-groups show-gateway show-pkcs11-ids " +
		"show-adapters show-net show-valid-subnets", refused, "this is a command of openvpn, and no setting; remove the line"},
	{"ping-exit-code", refused, "penstock does not end with the tunnel; remove the line"},
}

// meanings say what the parsed directives do here, where openvpn(8) does not say all.
var meanings = map[string]string{
	"dev":                   "only tun devices",
	"dev-type":              "only tun devices",
	"mode":                  "only p2p, which a client is",
	"proto":                 "UDP and TCP, as a client",
	"proto-force":           "keeps the remotes of one protocol",
	"remote":                "remotes are tried in order",
	"port":                  "of remotes without their own",
	"rport":                 "of remotes without their own",
	"connection":            "a remote with its own port, protocol, tls-auth, tls-crypt and tls-crypt-v2; other lines hold for the whole profile",
	"remote-random":         "the first remote is chosen by chance",
	"auth-user-pass":        "from the file, from `username` and `password` of the configuration, or from `penstock login`",
	"static-challenge":      "`penstock login` asks for the answer",
	"route":                 "as redirect-gateway; only to addresses; a name with net_gateway is passed over with a warning",
	"route-ipv6":            "as redirect-gateway; only to addresses; a name with net_gateway is passed over with a warning",
	"dns":                   "gives the tunnel's DNS servers, search domains, and with resolve-domains the domains that the servers are for",
	"dhcp-option":           "gives the tunnel's DNS servers, search domains, and with DOMAIN-ROUTE the domains that the servers are for; other types are passed over with a warning",
	"auth-nocache":          "the password is forgotten after use",
	"ca":                    "",
	"cert":                  "",
	"extra-certs":           "",
	"crl-verify":            "a file, read again for each connection; no directory",
	"key":                   "PEM; an encrypted one needs `askpass` or `key_passphrase`",
	"pkcs12":                "as key, cert and, without a ca of its own, ca",
	"askpass":               "a file with the passphrase of the key; without a file, `key_passphrase` of the configuration",
	"remote-cert-tls":       "only server",
	"ns-cert-type":          "only server",
	"remote-cert-eku":       "only serverAuth",
	"remote-cert-ku":        "",
	"verify-x509-name":      "",
	"peer-fingerprint":      "of the server's certificate, SHA-256",
	"tls-version-min":       "at least 1.2 in any case",
	"tls-version-max":       "",
	"tls-auth":              "",
	"tls-crypt":             "",
	"tls-crypt-v2":          "",
	"key-direction":         "",
	"auth":                  "for tls-auth",
	"cipher":                "for servers that do not negotiate; only AEAD ciphers",
	"data-ciphers-fallback": "only AEAD ciphers",
	"data-ciphers":          "AES-256-GCM, AES-192-GCM, AES-128-GCM, CHACHA20-POLY1305; others are passed over with a warning",
	"ncp-ciphers":           "the old name of data-ciphers",
	"compress":              "framing only (stub, stub-v2); with an algorithm, packets are sent uncompressed, and a server that compresses is refused",
	"comp-lzo":              "framing only; unless it is `no`, packets are sent uncompressed, and a server that compresses is refused",
	"keepalive":             "",
	"reneg-sec":             "0 leaves it to the server",
	"hand-window":           "the time to sign in, once a server has answered",
	"tran-window":           "",
	"ping":                  "",
	"ping-restart":          "",
	"ping-exit":             "as ping-restart: penstock connects again",
	"connect-timeout":       "the time for a server's first answer",
	"server-poll-timeout":   "the time for a server's first answer",
	"pull-filter":           "",
	"route-nopull":          "the server's routes, DNS servers and blocks are not followed; those of the profile are",
	"tun-mtu":               "of the inner packets",
	"ignore-unknown-option": "",
	"setenv":                "FORWARD_COMPATIBLE 1 and opt are followed, UV_ variables are sent to the server, others forgotten",
}

// parsers read the directives that are honoured.
func parsers() map[string]func(*parser, directive) error {
	return map[string]func(*parser, directive) error{
		"dev":         parseDev,
		"dev-type":    parseDev,
		"mode":        parseMode,
		"proto":       parseProto,
		"proto-force": parseProtoForce,
		"remote":      parseRemote,
		"port":        parsePort,
		"rport":       parsePort,
		"connection":  parseConnection,
		"remote-random": func(p *parser, _ directive) error {
			p.out.RemoteRandom = true
			return nil
		},

		"auth-user-pass":   parseAuthUserPass,
		"static-challenge": parseStaticChallenge,
		"route":            parseRoute,
		"dhcp-option":      parseDHCP,
		"dns":              parseDNS,
		"route-ipv6":       parseRoute,
		"auth-nocache": func(p *parser, _ directive) error {
			p.out.NoCache = true
			return nil
		},

		"ca":               parsePublic,
		"cert":             parsePublic,
		"extra-certs":      parsePublic,
		"crl-verify":       parseLists,
		"key":              parseKey,
		"pkcs12":           parsePacked,
		"askpass":          parseAskpass,
		"remote-cert-tls":  parseRemoteCertTLS,
		"ns-cert-type":     parseRemoteCertTLS,
		"remote-cert-eku":  parseRemoteCertEKU,
		"remote-cert-ku":   parseRemoteCertKU,
		"verify-x509-name": parseVerifyName,
		"peer-fingerprint": parseFingerprint,
		"tls-version-min":  func(p *parser, d directive) error { return parseTLSVersion(d, &p.out.TLSMin) },
		"tls-version-max":  func(p *parser, d directive) error { return parseTLSVersion(d, &p.out.TLSMax) },

		"tls-auth":      parseTLSKey,
		"tls-crypt":     parseTLSKey,
		"tls-crypt-v2":  parseTLSKey,
		"key-direction": parseKeyDirection,
		"auth": func(p *parser, d directive) error {
			p.digest, p.digestAt = strings.ToUpper(d.arg(0)), d.line
			return nil
		},
		"cipher":                parseCipher,
		"data-ciphers-fallback": parseCipher,
		"data-ciphers":          parseDataCiphers,
		"ncp-ciphers":           parseDataCiphers,
		"compress":              parseCompression,
		"comp-lzo":              parseCompression,

		"keepalive":           parseKeepalive,
		"reneg-sec":           seconds(func(t *Timers) *time.Duration { return &t.Renegotiate }),
		"hand-window":         seconds(func(t *Timers) *time.Duration { return &t.HandWindow }),
		"tran-window":         seconds(func(t *Timers) *time.Duration { return &t.Transition }),
		"ping":                seconds(func(t *Timers) *time.Duration { return &t.Ping }),
		"ping-restart":        seconds(func(t *Timers) *time.Duration { return &t.PingRestart }),
		"ping-exit":           seconds(func(t *Timers) *time.Duration { return &t.PingRestart }),
		"connect-timeout":     seconds(func(t *Timers) *time.Duration { return &t.Poll }),
		"server-poll-timeout": seconds(func(t *Timers) *time.Duration { return &t.Poll }),

		"pull-filter":  parsePullFilter,
		"route-nopull": func(p *parser, _ directive) error { p.out.NoRoutes = true; return nil },
		"tun-mtu": func(p *parser, d directive) (err error) {
			p.out.MTU, err = text.MTU(d.arg(0))
			return err
		},
		"ignore-unknown-option": parseIgnoreUnknown,
		"setenv":                parseSetenv,
	}
}
