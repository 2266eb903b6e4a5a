package openvpn

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/wire"
)

func TestParseProfileOfACompany(t *testing.T) {
	ca := newAuthority(t, "ca")
	id := ca.client(t)
	p, warnings, err := ParseProfile(strings.NewReader(`
# exported 2026-01-01
client
dev tun
proto udp
remote vpn1.example 1194
remote vpn2.example 443 tcp-client ; the firewall's friend
remote-random
resolv-retry infinite
nobind
persist-tun
remote-cert-tls server
verify-x509-name "server.example" name
auth SHA256
data-ciphers AES-256-GCM:AES-256-CBC:CHACHA20-POLY1305
cipher AES-256-CBC
tls-version-min 1.2
key-direction 1
auth-user-pass
static-challenge "Code from\x your \"app\"" 1
auth-nocache
reneg-sec 0
hand-window 30
keepalive 10 60
explicit-exit-notify 2
tun-mtu 1420
pull-filter ignore "dhcp-option DNS6"
route 10.0.0.0 255.0.0.0
setenv UV_ASSET 'tag 7'
setenv CLIENT_CERT 0
setenv opt block-outside-dns
setenv opt something-new
ignore-unknown-option frobnicate
frobnicate 1 2
up /etc/openvpn/update-resolv-conf
script-security 2
comp-lzo no
verb 3
`+inline("ca", ca.pem)+inline("cert", id.cert)+inline("key", id.key)+inline("tls-auth", newStaticKey(t))), "corp.ovpn")
	if err != nil {
		t.Fatal(err)
	}
	wantRemotes := []Remote{{"vpn1.example", 1194, "udp"}, {"vpn2.example", 443, "tcp"}}
	if !slices.Equal(p.Remotes, wantRemotes) {
		t.Errorf("Remotes: got %v, want %v", p.Remotes, wantRemotes)
	}
	if !p.RemoteRandom || !p.AuthUserPass || !p.noCache {
		t.Errorf("flags: got %v %v %v, want all true", p.RemoteRandom, p.AuthUserPass, p.noCache)
	}
	if p.StaticChallenge != `Code fromx your "app"` || !p.staticEcho {
		t.Errorf("static challenge: got %q", p.StaticChallenge)
	}
	if want := []datakey.Cipher{datakey.AES256GCM, datakey.ChaCha20}; !slices.Equal(p.ciphers, want) || p.fallback != "" {
		t.Errorf("ciphers: got %v and %q, want %v", p.ciphers, p.fallback, want)
	}
	if p.wrap.kind != wrapTLSAuth || p.wrap.direction != wire.Inverse || p.wrap.digest().Size() != sha256.Size {
		t.Errorf("wrap: got %+v", p.wrap)
	}
	if want := (timers{handWindow: 30 * time.Second, ping: 10 * time.Second, pingRestart: time.Minute}); p.timers != want {
		t.Errorf("timers: got %+v, want %+v", p.timers, want)
	}
	if want := []string{"route 10.0.0.0 255.0.0.0", "block-outside-dns"}; !slices.Equal(p.options, want) {
		t.Errorf("options: got %q, want %q", p.options, want)
	}
	if p.tunMTU != 1420 || !slices.Equal(p.peerInfo, []string{"UV_ASSET=tag 7"}) || !p.trust.serverUsage || p.trust.name != "server.example" {
		t.Errorf("got MTU %d, peer info %q, name %q", p.tunMTU, p.peerInfo, p.trust.name)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	want := []string{
		"corp.ovpn:15: cipher AES-256-CBC is left out: only AEAD ciphers are spoken",
		"corp.ovpn:16: cipher AES-256-CBC is left out: only AEAD ciphers are spoken, and most servers negotiate one",
		"corp.ovpn:32: something-new is unknown and left out as the profile asks",
		"corp.ovpn:34: frobnicate is unknown and left out as the profile asks",
		"corp.ovpn:35: up is left out: a profile runs no programs",
		"corp.ovpn:36: script-security is left out: a profile runs no programs",
		"corp.ovpn:37: comp-lzo is left out: a server that insists on compression framing is refused",
	}
	if !slices.Equal(got, want) {
		t.Errorf("warnings:\ngot  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// minimal is a profile that works, to which rows add lines.
func minimal(t testing.TB) string {
	return "client\ndev tun\nremote vpn.example\n" + inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")
}

func TestParseProfileRefuses(t *testing.T) {
	ca := newAuthority(t, "ca")
	id, other := ca.client(t), ca.client(t)
	encrypted := pemText("ENCRYPTED PRIVATE KEY", []byte("x"))
	tests := []struct{ name, text, want string }{
		{"an unknown directive", minimal(t) + "frobnicate\n", `x.ovpn:7: unknown directive "frobnicate"`},
		{"a misspelt directive", minimal(t) + "tls-cript x\n", `x.ovpn:7: unknown directive "tls-cript"; did you mean "tls-crypt"?`},
		{"a TAP device", minimal(t) + "dev tap0\n", `x.ovpn:7: dev: device "tap0" is not supported, only tun`},
		{"fragments", minimal(t) + "fragment 1300\n", "x.ovpn:7: fragment is not supported"},
		{"a static key", minimal(t) + "secret k\n", "x.ovpn:7: secret is not supported"},
		{"a proxy", minimal(t) + "http-proxy p 8080\n", "x.ovpn:7: http-proxy is not supported"},
		{"compression", minimal(t) + "comp-lzo\n", "x.ovpn:7: comp-lzo: compression is not supported: it weakens encryption (VORACLE)"},
		{"an algorithm to compress with", minimal(t) + "compress lz4-v2\n", `x.ovpn:7: compress: compression "lz4-v2" is not supported: it weakens encryption (VORACLE)`},
		{"an open block", minimal(t) + "<ca>\nx\n", "x.ovpn:7: <ca> has no </ca>"},
		{"a block that is none", minimal(t) + inline("verb", "3\n"), "x.ovpn:7: unknown inline block <verb>"},
		{"an unknown block", minimal(t) + inline("nonsense", "3\n"), "x.ovpn:7: unknown inline block <nonsense>"},
		{"an open quote", minimal(t) + "verify-x509-name \"x\n", "x.ovpn:7: a quote is not closed"},
		{"a backslash at the end", minimal(t) + "verify-x509-name x\\\n", "x.ovpn:7: a backslash ends the line"},
		{"a bad port", minimal(t) + "remote h 70000\n", `x.ovpn:7: remote: port "70000" is not a number from 1 to 65535`},
		{"a bad protocol", minimal(t) + "proto sctp\n", `x.ovpn:7: proto: protocol "sctp" is not one of udp, udp4, udp6, tcp, tcp4, tcp6`},
		{"no remote", "client\n" + inline("ca", ca.pem), `x.ovpn: no remote: a client profile needs a line such as "remote vpn.example 1194 udp"`},
		{"no trust", "client\nremote h\n", "x.ovpn: neither ca nor peer-fingerprint: the server could be anyone"},
		{"a missing file", minimal(t) + "ca nowhere.crt\n", "x.ovpn:7: ca: open nowhere.crt: file does not exist"},
		{"a ca without a certificate", minimal(t) + inline("ca", "hello\n"), "x.ovpn:7: ca: no certificate inside"},
		{"a cert without key", minimal(t) + inline("cert", id.cert), "x.ovpn:7: cert without key"},
		{"a key without cert", minimal(t) + inline("key", id.key), "x.ovpn:7: key without cert"},
		{"a key of another cert", minimal(t) + inline("cert", id.cert) + inline("key", other.key), "x.ovpn:7: cert and key: tls: private key does not match public key"},
		{"an encrypted key", minimal(t) + inline("cert", id.cert) + "<key>\n" + encrypted + "</key>\n", "key: is encrypted, which is not supported; decrypt it with: openssl pkey -in client.key -out plain.key"},
		{"two wraps", minimal(t) + inline("tls-auth", newStaticKey(t)) + inline("tls-crypt", newStaticKey(t)), "tls-auth and tls-crypt exclude each other"},
		{"a broken static key", minimal(t) + inline("tls-crypt", "x\n"), "x.ovpn:7: tls-crypt: static key: no BEGIN line"},
		{"a digest that is unknown", minimal(t) + "auth WHIRLPOOL\n" + inline("tls-auth", newStaticKey(t)), "auth WHIRLPOOL is not supported"},
		{"a bad direction", minimal(t) + "key-direction 2\n", `x.ovpn:7: key-direction: direction "2" is not 0 or 1`},
		{"no cipher that is supported", minimal(t) + "data-ciphers BF-CBC\n", `x.ovpn:7: data-ciphers: none of "BF-CBC" is supported: name AES-256-GCM, AES-128-GCM or CHACHA20-POLY1305`},
		{"a bad number of seconds", minimal(t) + "hand-window soon\n", `x.ovpn:7: hand-window: "soon" is not a number of seconds`},
		{"an MTU that is too large", minimal(t) + "tun-mtu 64000\n", `x.ovpn:7: tun-mtu: "64000" is not a number from 576 to 9000`},
		{"a role that is not a client's", minimal(t) + "remote-cert-tls client\n", `x.ovpn:7: remote-cert-tls: "client": a client can only ask for server`},
		{"TLS versions that exclude all", minimal(t) + "tls-version-min 1.3\ntls-version-max 1.2\n", "x.ovpn: tls-version-min is above tls-version-max"},
		{"an error inside a connection", minimal(t) + inline("connection", "remote h 0\n"), `x.ovpn:7: connection: line 8: remote: port "0" is not a number from 1 to 65535`},
		{"too much", strings.Repeat("#", maxProfile+1), "x.ovpn: larger than 1048576 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := parseProfile(strings.NewReader(tt.text), "x.ovpn", noFiles)
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func noFiles(name string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func TestParseProfileRemotes(t *testing.T) {
	trust := inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")
	tests := []struct {
		name, text string
		want       []Remote
	}{
		{"defaults", "remote h\n", []Remote{{"h", 1194, "udp"}}},
		{"port and proto after the remote", "remote h\nport 7\nproto tcp4\n", []Remote{{"h", 7, "tcp4"}}},
		{"an IPv6 address", "remote 2001:db8::1 1194 udp6\n", []Remote{{"2001:db8::1", 1194, "udp6"}}},
		{"connection blocks", "<connection>\nremote a 1 udp\n</connection>\n<connection>\nremote b\nproto tcp-client\nport 2\nexplicit-exit-notify 1\n</connection>\n", []Remote{{"a", 1, "udp"}, {"b", 2, "tcp"}}},
		{"one protocol forced", "proto-force tcp\nremote a 1 udp\nremote b 2 tcp\n", []Remote{{"b", 2, "tcp"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := parseProfile(strings.NewReader(tt.text+trust), "x.ovpn", noFiles)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Remotes, tt.want) {
				t.Errorf("got %v, want %v", p.Remotes, tt.want)
			}
		})
	}
}

func TestParseProfileReadsFilesBesideIt(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, "ca")
	for name, content := range map[string]string{"ca.crt": ca.pem, "login.txt": "ana\r\ngeheim\r\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p, _, err := ParseProfile(strings.NewReader("remote h\nca ca.crt\nauth-user-pass login.txt\n"), filepath.Join(dir, "x.ovpn"))
	if err != nil {
		t.Fatal(err)
	}
	if p.user != "ana" || p.password != "geheim" || len(p.trust.ca) != 1 {
		t.Errorf("got user %q, %d authorities", p.user, len(p.trust.ca))
	}
	if _, _, err := ParseProfile(strings.NewReader("remote h\nca "+dir+"\n"), "x.ovpn"); err == nil {
		t.Error("a directory as ca: got no error")
	}
	if _, _, err := ParseProfile(strings.NewReader("remote h\nca missing.crt\n"), filepath.Join(dir, "x.ovpn")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	p := &Profile{password: "geheim"}
	if got := fmt.Sprintf("%v %+v %#v %#v", p, *p, *p, p.password); strings.Contains(got, "geheim") {
		t.Errorf("got %s", got)
	}
}

func TestVerify(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	parse := func(p pair) *x509.Certificate {
		block, _ := pem.Decode([]byte(p.cert))
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	server, client := parse(ca.server(t)), parse(ca.client(t))
	expired := parse(ca.issue(t, "server.example", x509.ExtKeyUsageServerAuth, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}))
	print := sha256.Sum256(server.Raw)
	cas := []*x509.Certificate{ca.cert}
	tests := []struct {
		name  string
		trust trust
		leaf  *x509.Certificate
		want  string // "": good
	}{
		{"the authority's server", trust{ca: cas, serverUsage: true}, server, ""},
		{"another authority's", trust{ca: []*x509.Certificate{other.cert}}, server, "unknown authority"},
		{"a client in the role of the server", trust{ca: cas, serverUsage: true}, client, "incompatible key usage"},
		{"a client where the profile does not mind", trust{ca: cas}, client, ""},
		{"an expired certificate", trust{ca: cas}, expired, "expired"},
		{"the fingerprint", trust{fingerprints: [][32]byte{print}}, server, ""},
		{"another fingerprint", trust{fingerprints: [][32]byte{{1}}}, server, "fingerprints"},
		{"the fingerprint of an untrusted one", trust{fingerprints: [][32]byte{print}, ca: []*x509.Certificate{other.cert}}, server, "unknown authority"},
		{"the name", trust{ca: cas, name: "server.example", nameKind: nameCommon}, server, ""},
		{"the start of the name", trust{ca: cas, name: "server.", nameKind: namePrefix}, server, ""},
		{"another start", trust{ca: cas, name: "vpn.", nameKind: namePrefix}, server, "wants"},
		{"the subject", trust{ca: cas, name: "O=Example, CN=server.example"}, server, ""},
		{"another subject", trust{ca: cas, name: "CN=server.example"}, server, "wants"},
		{"a revoked certificate", trust{ca: cas, crls: []*x509.RevocationList{ca.revoke(t, server)}}, server, "revoked"},
		{"a list of another authority's", trust{ca: cas, crls: []*x509.RevocationList{other.revoke(t, server)}}, server, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.trust.verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{tt.leaf}})
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if err := (&trust{ca: cas}).verify(tls.ConnectionState{}); err == nil {
		t.Error("no certificate: got no error")
	}
}

func TestEveryDirectiveIsInOnePlace(t *testing.T) {
	for name := range compileDirectives() {
		if kind := profileKinds[name]; kind != kindUnknown {
			t.Errorf("%s is parsed and also of kind %d", name, kind)
		}
	}
	for name := range profileBlocks {
		if _, ok := compileDirectives()[name]; !ok {
			t.Errorf("<%s> may be a block and is not parsed", name)
		}
	}
}

func TestSplitWords(t *testing.T) {
	tests := []struct {
		line string
		want []string
	}{
		{"", nil},
		{"  a\tb  ", []string{"a", "b"}},
		{"a # b", []string{"a"}},
		{"a;b ;c", []string{"a;b"}},
		{`a "b c" 'd "e'`, []string{"a", "b c", `d "e`}},
		{`a\ b "c\"d" 'e\f'`, []string{"a b", `c"d`, `e\f`}},
		{`a ""`, []string{"a", ""}},
	}
	for _, tt := range tests {
		if got, err := splitWords(tt.line); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %q, %v; want %q", tt.line, got, err, tt.want)
		}
	}
}

func FuzzParseProfile(f *testing.F) {
	f.Add(minimal(f))
	f.Add("client\nremote a 1 udp\n<connection>\nremote b\n</connection>\ntls-auth k 1\nauth-user-pass\nstatic-challenge \"x\" 1\n")
	f.Add("remote h\n<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n<tls-crypt-v2>\n</tls-crypt-v2>\n")
	f.Add("setenv opt x \\\" 'y' ;z\npull-filter ignore \"a b\"\nroute 1.2.3.4\nkeepalive 1 2\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, _, err := parseProfile(strings.NewReader(text), "x.ovpn", noFiles)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p != nil, err)
		}
		if p != nil && len(p.Remotes) == 0 {
			t.Error("a profile without a remote")
		}
	})
}
