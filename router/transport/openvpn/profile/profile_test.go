package profile

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/trust"
	"penstock/router/transport/openvpn/internal/wire"
)

func TestParseOfACompany(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	id := ca.Client(t)
	p, warnings, err := Parse(strings.NewReader(`
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
`+certtest.Inline("ca", ca.PEM)+certtest.Inline("cert", id.Cert)+certtest.Inline("key", id.Key)+certtest.Inline("tls-auth", certtest.StaticKey(t))), "corp.ovpn", Files{})
	if err != nil {
		t.Fatal(err)
	}
	wantRemotes := []Remote{{Host: "vpn1.example", Port: 1194, Network: "udp"}, {Host: "vpn2.example", Port: 443, Network: "tcp"}}
	if !slices.Equal(p.Remotes, wantRemotes) {
		t.Errorf("Remotes: got %v, want %v", p.Remotes, wantRemotes)
	}
	if !p.RemoteRandom || !p.AuthUserPass || !p.NoCache {
		t.Errorf("flags: got %v %v %v, want all true", p.RemoteRandom, p.AuthUserPass, p.NoCache)
	}
	if p.StaticChallenge != `Code fromx your "app"` || !p.StaticEcho {
		t.Errorf("static challenge: got %q", p.StaticChallenge)
	}
	if want := []datakey.Cipher{datakey.AES256GCM, datakey.ChaCha20}; !slices.Equal(p.Ciphers, want) || p.Fallback != "" {
		t.Errorf("ciphers: got %v and %q, want %v", p.Ciphers, p.Fallback, want)
	}
	if p.Protection.Kind != wire.TLSAuthKey || p.Protection.Direction != wire.Inverse || p.Protection.Digest().Size() != sha256.Size {
		t.Errorf("wrap: got %+v", p.Protection)
	}
	if want := (Timers{HandWindow: 30 * time.Second, Ping: 10 * time.Second, PingRestart: time.Minute}); p.Timers != want {
		t.Errorf("timers: got %+v, want %+v", p.Timers, want)
	}
	if want := []string{"route 10.0.0.0 255.0.0.0", "block-outside-dns"}; !slices.Equal(p.Options, want) {
		t.Errorf("options: got %q, want %q", p.Options, want)
	}
	if p.MTU != 1420 || p.Framing != framing.Byte || !slices.Equal(p.PeerInfo, []string{"UV_ASSET=tag 7"}) || p.Trust.Purpose != trust.ServerStated || p.Trust.Name != "server.example" {
		t.Errorf("got MTU %d, peer info %q, name %q", p.MTU, p.PeerInfo, p.Trust.Name)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	want := []string{
		"corp.ovpn:15: cipher AES-256-CBC is ignored: only AEAD ciphers are supported",
		"corp.ovpn:16: cipher AES-256-CBC is ignored: only AEAD ciphers are supported, and most servers negotiate one",
		"corp.ovpn:32: something-new is unknown, and ignored as the profile asks",
		"corp.ovpn:34: frobnicate is unknown, and ignored as the profile asks",
		"corp.ovpn:35: up is ignored: nothing in a profile is run; penstock sets DNS and routes itself",
		"corp.ovpn:36: script-security is ignored: nothing in a profile is run; penstock sets DNS and routes itself",
	}
	if !slices.Equal(got, want) {
		t.Errorf("warnings:\ngot  %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// minimal is a profile that works, to which rows add lines.
func minimal(t testing.TB) string {
	return "client\ndev tun\nremote vpn.example\n" + certtest.Inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")
}

func TestParseRefuses(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	id, other := ca.Client(t), ca.Client(t)
	encrypted := certtest.PEM("ENCRYPTED PRIVATE KEY", []byte("x"))
	tests := []struct{ name, text, want string }{
		{"an unknown directive", minimal(t) + "frobnicate\n", `x.ovpn:7: unknown directive "frobnicate": remove the line, or add "ignore-unknown-option frobnicate" above it if the profile can do without`},
		{"a misspelt directive", minimal(t) + "tls-cript x\n", `x.ovpn:7: unknown directive "tls-cript"; did you mean "tls-crypt"?`},
		{"a directory of revoked serial numbers", minimal(t) + "crl-verify crls dir\n", "x.ovpn:7: crl-verify: a directory of serial numbers is not supported: name a file with the revocation list"},
		{"a key usage that is none", minimal(t) + "remote-cert-ku zz\n", `x.ovpn:7: remote-cert-ku: "zz" is not a key usage of two hexadecimal digits`},
		{"a TAP device", minimal(t) + "dev tap0\n", `x.ovpn:7: dev: device "tap0" is not supported, only tun; the server needs dev tun as well`},
		{"fragments", minimal(t) + "fragment 1300\n", "x.ovpn:7: fragment: splitting packets is not supported; remove the line here and in the server's file"},
		{"a static key", minimal(t) + "secret k\n", "x.ovpn:7: secret: a static key has no TLS; ask for a profile with certificates"},
		{"a proxy", minimal(t) + "http-proxy p 8080\n", "x.ovpn:7: http-proxy: a proxy is not supported; remove the line if the server can be reached without one"},
		{"an algorithm that nobody knows", minimal(t) + "compress snappy\n", `x.ovpn:7: compress: unknown algorithm "snappy"`},
		{"a user name alone", minimal(t) + "auth-user-pass username-only\n", "x.ovpn:7: auth-user-pass: username-only is not supported: remove the word, and give a password: any will do if the server does not check it"},
		{"an unknown format of a challenge", minimal(t) + "static-challenge Code 1 crv1\n", `x.ovpn:7: static-challenge: format "crv1" is not scrv1 or concat`},
		{"an open block", minimal(t) + "<ca>\nx\n", "x.ovpn:7: <ca> has no </ca>"},
		{"a block that is none", minimal(t) + certtest.Inline("verb", "3\n"), "x.ovpn:7: unknown inline block <verb>"},
		{"a script that checks the server", minimal(t) + "tls-verify /x\n", "x.ovpn:7: tls-verify: nothing in a profile is run, and nobody else would check the server's certificate in its place; name that with verify-x509-name or peer-fingerprint"},
		{"a check of the server that openvpn has lost", minimal(t) + "tls-remote vpn\n", "x.ovpn:7: tls-remote: openvpn has not known it since 2.4; name the server's certificate with verify-x509-name NAME name"},
		{"a block in capitals", minimal(t) + certtest.Inline("TLS-crypt", "3\n"), "x.ovpn:7: unknown inline block <TLS-crypt>; write it in small letters: <tls-crypt>"},
		{"an unknown block", minimal(t) + certtest.Inline("nonsense", "3\n"), "x.ovpn:7: unknown inline block <nonsense>"},
		{"an open quote", minimal(t) + "verify-x509-name \"x\n", "x.ovpn:7: a quote is not closed"},
		{"a backslash at the end", minimal(t) + "verify-x509-name x\\\n", "x.ovpn:7: a backslash ends the line"},
		{"a bad port", minimal(t) + "remote h 70000\n", `x.ovpn:7: remote: port "70000" is not a number from 1 to 65535`},
		{"a port behind the host", minimal(t) + "remote h:443\n", `x.ovpn:7: remote: "h:443" is not a host: write the port apart from it: remote h 443`},
		{"a remote that is a URL", minimal(t) + "remote https://h\n", `x.ovpn:7: remote: "https://h" is not a host: write host and port alone, as in remote vpn.example 1194`},
		{"a host beyond ASCII", minimal(t) + "remote bücher.example\n", `x.ovpn:7: remote: "bücher.example" is not a host: write letters beyond ASCII in their xn-- form`},
		{"a bad protocol", minimal(t) + "proto sctp\n", `x.ovpn:7: proto: protocol "sctp" is not one of udp, udp4, udp6, tcp, tcp4, tcp6`},
		{"no remote", "client\n" + certtest.Inline("ca", ca.PEM), `x.ovpn: no remote: a client profile needs a line such as "remote vpn.example 1194 udp"`},
		{"no trust", "client\nremote h\n", "x.ovpn: neither ca nor peer-fingerprint: the server could be anyone: add the ca that came with the profile, or ask for a complete one"},
		{"a missing file", minimal(t) + "ca nowhere.crt\n", "x.ovpn:7: ca: open nowhere.crt: file does not exist"},
		{"a ca without a certificate", minimal(t) + certtest.Inline("ca", "hello\n"), "x.ovpn:7: ca: no certificate inside"},
		{"a cert without key", minimal(t) + certtest.Inline("cert", id.Cert), "x.ovpn:7: cert without key"},
		{"a key without cert", minimal(t) + certtest.Inline("key", id.Key), "x.ovpn:7: key without cert"},
		{"a key of another cert", minimal(t) + certtest.Inline("cert", id.Cert) + certtest.Inline("key", other.Key), "x.ovpn:7: cert and key: tls: private key does not match public key"},
		{"an encrypted key", minimal(t) + certtest.Inline("cert", id.Cert) + "<key>\n" + encrypted + "</key>\n", "key: is encrypted, and there is no passphrase: set key_passphrase of the transport, or add \"askpass FILE\" with a file that holds it, or decrypt it with: openssl pkey -in x.ovpn -out plain.key"},
		{"two wraps", minimal(t) + certtest.Inline("tls-auth", certtest.StaticKey(t)) + certtest.Inline("tls-crypt", certtest.StaticKey(t)), "tls-auth and tls-crypt exclude each other"},
		{"a broken static key", minimal(t) + certtest.Inline("tls-crypt", "x\n"), "x.ovpn:7: tls-crypt: static key: no BEGIN line"},
		{"a digest that is unknown", minimal(t) + "auth WHIRLPOOL\n" + certtest.Inline("tls-auth", certtest.StaticKey(t)), "auth WHIRLPOOL is not supported"},
		{"a bad direction", minimal(t) + "key-direction 2\n", `x.ovpn:7: key-direction: direction "2" is not 0 or 1`},
		{"no cipher that is supported", minimal(t) + "data-ciphers BF-CBC\n", `x.ovpn:7: data-ciphers: none of "BF-CBC" is supported: name AES-256-GCM, AES-128-GCM or CHACHA20-POLY1305`},
		{"a bad number of seconds", minimal(t) + "hand-window soon\n", `x.ovpn:7: hand-window: "soon" is not a number of seconds`},
		{"an MTU that is too large", minimal(t) + "tun-mtu 64000\n", `x.ovpn:7: tun-mtu: "64000" is not a number from 576 to 9000`},
		{"a role that is not a client's", minimal(t) + "remote-cert-tls client\n", `x.ovpn:7: remote-cert-tls: "client": a client can only ask for server`},
		{"TLS versions that exclude all", minimal(t) + "tls-version-min 1.3\ntls-version-max 1.2\n", "x.ovpn: tls-version-min is above tls-version-max"},
		{"an error inside a connection", minimal(t) + certtest.Inline("connection", "remote h 0\n"), `x.ovpn:7: connection: line 8: remote: port "0" is not a number from 1 to 65535`},
		{"a web page", "\n<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "x.ovpn: this is a web page, not a profile: sign in where it comes from, and download it again"},
		{"too much", strings.Repeat("#", MaxFile+1), "x.ovpn: larger than 1048576 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse(strings.NewReader(tt.text), "x.ovpn", Files{Secret: noFiles, Public: noFiles})
			if err == nil || !strings.HasSuffix(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func noFiles(name string) ([]byte, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func TestOwnRoutesAndOptions(t *testing.T) {
	for _, tt := range []struct {
		line, option, warning string
		refused               bool
	}{
		{"route 10.20.0.0 255.255.0.0", "route 10.20.0.0 255.255.0.0", "", false},
		{"route 192.0.2.1 255.255.255.255 net_gateway", "route 192.0.2.1 255.255.255.255 net_gateway", "", false},
		{"route-ipv6 fd00::/8", "route-ipv6 fd00::/8", "", false},
		{"route-ipv6 fd00::1", "route-ipv6 fd00::1", "", false},
		{"route vpn.example 255.255.255.255 net_gateway", "", "route vpn.example is ignored", false},
		{"route remote_host 255.255.255.255 net_gateway 1", "", "route remote_host is ignored", false},
		{"route vpn_gateway", "", "", false},
		{"route intranet.corp.example", "", "", true},
		{"route-ipv6 intranet.corp.example", "", "", true},
		{"route 10.20.0.0/16", "", "", true},
		{"route 10.20.0.0 255.255.0.255", "", "", true},
		{"route 10.20.0.0 255.255.0.0 gw.example", "", "", true},
		{"route fd00::1", "", "", true},
		{"route-ipv6 fd00::/200", "", "", true},
		{"route-ipv6 10.20.0.0/16", "", "", true},
		{"route-ipv6 vpn.example net_gateway", "", "route-ipv6 vpn.example is ignored", false},
		{"dhcp-option DNS 10.20.0.53 ; the resolver", "dhcp-option DNS 10.20.0.53", "", false},
		{"dhcp-option DNS6 fd00::53", "dhcp-option DNS6 fd00::53", "", false},
		{"dhcp-option DOMAIN-ROUTE corp.example", "dhcp-option DOMAIN-ROUTE corp.example", "", false},
		{"dhcp-option WINS 10.20.0.1", "", "dhcp-option WINS is ignored", false},
		{"dhcp-option DISABLE-NBT", "", "dhcp-option DISABLE-NBT is ignored", false},
		{"dhcp-option DNS", "", "", true},
		{"dhcp-option DNS resolver.example", "", "", true},
		{"dhcp-option", "", "", true},
		{"dns server 1 address 10.20.0.53 [fd00::53]:5353", "dns server 1 address 10.20.0.53 [fd00::53]:5353", "", false},
		{"dns server 1 resolve-domains corp.example", "dns server 1 resolve-domains corp.example", "", false},
		{"dns search-domains corp.example", "dns search-domains corp.example", "", false},
		{"dns server 1 exclude-domains corp.example", "", "dns server exclude-domains is ignored", false},
		{"dns server 1 address resolver.example", "", "", true},
		{"dns server first address 10.20.0.53", "", "", true},
		{"dns server 1 address", "", "", true},
		{"dns resolver 10.20.0.53", "", "", true},
		{"route", "", "", true},
	} {
		p, warnings, err := Parse(strings.NewReader(minimal(t)+tt.line+"\n"), "x.ovpn", Files{})
		if (err != nil) != tt.refused {
			t.Errorf("%s: got %v, want refused %v", tt.line, err, tt.refused)
			continue
		}
		if err != nil {
			continue
		}
		if got := strings.Join(p.Options, ","); got != tt.option {
			t.Errorf("%s: got options %q, want %q", tt.line, got, tt.option)
		}
		if len(warnings) > 0 != (tt.warning != "") || len(warnings) > 0 && !strings.Contains(warnings[0].Text, tt.warning) {
			t.Errorf("%s: got warnings %q, want %q", tt.line, warnings, tt.warning)
		}
	}
}

func TestCompressionIsForReceivingOnly(t *testing.T) {
	for line, want := range map[string]framing.Kind{
		"comp-lzo": framing.Byte, "comp-lzo yes": framing.Byte, "comp-lzo adaptive": framing.Byte, "compress lzo": framing.Byte,
		"compress lz4": framing.Swap, "compress lz4-v2": framing.V2,
	} {
		p, warnings, err := Parse(strings.NewReader("remote-cert-tls server\n"+minimal(t)+line+"\n"), "x.ovpn", Files{})
		if err != nil || p.Framing != want || len(warnings) != 1 || !strings.Contains(warnings[0].String(), "packets are sent uncompressed") {
			t.Errorf("%s: got %v, warnings %q; want it accepted with a warning", line, err, warnings)
		}
	}
}

func TestParseRemotes(t *testing.T) {
	trust := certtest.Inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")
	tests := []struct {
		name, text string
		want       []Remote
	}{
		{"defaults", "remote h\n", []Remote{{Host: "h", Port: 1194, Network: "udp"}}},
		{"port and proto after the remote", "remote h\nport 7\nproto tcp4\n", []Remote{{Host: "h", Port: 7, Network: "tcp4"}}},
		{"an IPv6 address", "remote 2001:db8::1 1194 udp6\n", []Remote{{Host: "2001:db8::1", Port: 1194, Network: "udp6"}}},
		{"connection blocks", "<connection>\nremote a 1 udp\n</connection>\n<connection>\nremote b\nproto tcp-client\nport 2\nexplicit-exit-notify 1\n</connection>\n", []Remote{{Host: "a", Port: 1, Network: "udp"}, {Host: "b", Port: 2, Network: "tcp"}}},
		{"one protocol forced", "proto-force tcp\nremote a 1 udp\nremote b 2 tcp\n", []Remote{{Host: "b", Port: 2, Network: "tcp"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _, err := Parse(strings.NewReader(tt.text+trust), "x.ovpn", Files{Secret: noFiles, Public: noFiles})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(p.Remotes, tt.want) {
				t.Errorf("got %v, want %v", p.Remotes, tt.want)
			}
		})
	}
}

func TestParseReadsFilesBesideIt(t *testing.T) {
	dir := t.TempDir()
	ca := certtest.NewAuthority(t, "ca")
	for name, content := range map[string]string{"ca.crt": ca.PEM, "login.txt": "ana\r\ngeheim\r\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parse := func(text string) (*Profile, error) {
		p, _, err := Parse(strings.NewReader(text), filepath.Join(dir, "x.ovpn"), Files{Secret: os.ReadFile, Public: ReadPublic})
		return p, err
	}
	p, err := parse("remote h\nca ca.crt\nauth-user-pass login.txt\n")
	if err != nil {
		t.Fatal(err)
	}
	if p.User != "ana" || p.Password != "geheim" || len(p.Trust.Authorities) != 1 {
		t.Errorf("got user %q, %d authorities", p.User, len(p.Trust.Authorities))
	}
	if _, err := parse("remote h\nca " + dir + "\n"); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory as ca: got %v", err)
	}
	if _, err := parse("remote h\nca missing.crt\n"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: got %v, want %v", err, fs.ErrNotExist)
	}
}

func TestSecretsAreReadAsSecrets(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	id := ca.Client(t)
	content := map[string]string{
		"/p/ca": ca.PEM, "/p/cert": id.Cert, "/p/extra": ca.PEM, "/p/crl": ca.Revoke(t, time.Now(), time.Now().Add(time.Hour)),
		"/elsewhere/key": "x", "/p/key": id.Key, "/p/ta": certtest.StaticKey(t), "/p/login": "a\nb\n",
	}
	var secret, public []string
	reader := func(list *[]string) func(string) ([]byte, error) {
		return func(path string) ([]byte, error) {
			*list = append(*list, path)
			return []byte(content[path]), nil
		}
	}
	files := Files{Secret: reader(&secret), Public: reader(&public)}
	for _, wrap := range []string{"tls-auth", "tls-crypt"} {
		text := "remote h\nca ca\ncert cert\nextra-certs extra\ncrl-verify crl\nkey key\nauth-user-pass login\n" + wrap + " ta\n"
		if _, _, err := Parse(strings.NewReader(text), "/p/x.ovpn", files); err != nil {
			t.Fatal(err)
		}
		if want := []string{"/p/key", "/p/login", "/p/ta"}; !slices.Equal(secret, want) {
			t.Errorf("%s: secrets: got %q, want %q", wrap, secret, want)
		}
		if want := []string{"/p/ca", "/p/cert", "/p/extra", "/p/crl"}; !slices.Equal(public, want) {
			t.Errorf("%s: public files: got %q, want %q", wrap, public, want)
		}
		secret, public = nil, nil
	}
	if _, _, err := Parse(strings.NewReader("remote h\nca ca\ntls-crypt-v2 /elsewhere/key\n"), "/p/x.ovpn", files); err == nil || !slices.Equal(secret, []string{"/elsewhere/key"}) {
		t.Errorf("tls-crypt-v2: got %v, secrets %q", err, secret)
	}
}

func TestAnEmptyFileIsNoKey(t *testing.T) {
	nothing := func(string) ([]byte, error) { return nil, nil }
	files := Files{Secret: nothing, Public: nothing}
	for _, line := range []string{"ca f", "key f", "crl-verify f", "auth-user-pass f", "tls-auth f", "tls-crypt f", "tls-crypt-v2 f"} {
		if _, _, err := Parse(strings.NewReader(minimal(t)+line+"\n"), "x.ovpn", files); err == nil || !strings.Contains(err.Error(), "f is empty") {
			t.Errorf("%s: got %v, want an error", line, err)
		}
	}
}

func TestNoFileIsReadWithoutAFunction(t *testing.T) {
	for _, line := range []string{"ca f", "cert f", "key f", "crl-verify f", "extra-certs f", "auth-user-pass f", "tls-auth f", "tls-crypt f", "tls-crypt-v2 f"} {
		_, _, err := Parse(strings.NewReader(minimal(t)+line+"\n"), "x.ovpn", Files{})
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "put its content into the profile") {
			t.Errorf("%s: got %v, want a refusal that names the mend", line, err)
		}
	}
}

func TestReadPublicIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(path, make([]byte, MaxFile+1), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPublic(path); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want a refusal for its size", err)
	}
	if err := os.Truncate(path, MaxFile); err != nil {
		t.Fatal(err)
	}
	if b, err := ReadPublic(path); err != nil || len(b) != MaxFile {
		t.Errorf("at the limit: got %d bytes, %v", len(b), err)
	}
}

func TestWarnings(t *testing.T) {
	const unverified = `x.ovpn: no server certificate verification method has been enabled: whoever has a client certificate of this ca ` +
		`can pose as the server; add "remote-cert-tls server"`
	ca := certtest.NewAuthority(t, "ca")
	now := time.Now()
	trust := "remote h\n" + certtest.Inline("ca", ca.PEM)
	lists := func(from, until time.Time) string { return certtest.Inline("crl-verify", ca.Revoke(t, from, until)) }
	tests := []struct {
		name, text string
		want       []string // the start of each
	}{
		{"a ca alone", trust, []string{unverified}},
		{"a ca and a key usage", trust + "remote-cert-ku a0 88\n", []string{unverified}},
		{"the purpose", trust + "remote-cert-tls server\n", nil},
		{"the purpose by its id", trust + "remote-cert-eku 1.3.6.1.5.5.7.3.1\n", nil},
		{"the purpose, the old way", trust + "ns-cert-type server\n", nil},
		{"a name", trust + "verify-x509-name vpn.example name\n", nil},
		{"a fingerprint", minimal(t), nil},
		{"a current revocation list", trust + "remote-cert-tls server\n" + lists(now.Add(-time.Hour), now.Add(time.Hour)), nil},
		{
			"an expired revocation list", trust + "remote-cert-tls server\n" + lists(now.Add(-2*time.Hour), now.Add(-time.Hour)),
			[]string{`x.ovpn:14: <crl-verify> of x.ovpn: the revocation list of "ca" expired on `},
		},
		{"options without consequence", minimal(t) + "max-routes 1000\nallow-pull-fqdn\ncompat-mode 2.4.0\nhttp-proxy-retry\npreresolve\nkey-method 2\ndh none\n" + certtest.Inline("dh", "x\n"), []string{
			"x.ovpn:7: max-routes is ignored", "x.ovpn:8: allow-pull-fqdn is ignored", "x.ovpn:9: compat-mode is ignored", "x.ovpn:10: http-proxy-retry is ignored",
			"x.ovpn:11: preresolve is ignored", "x.ovpn:12: key-method is ignored", "x.ovpn:13: dh is ignored", "x.ovpn:14: dh is ignored",
		}},
		{"unknown options, announced as a whole", minimal(t) + "setenv FORWARD_COMPATIBLE 1\nfrobnicate 1\n" + certtest.Inline("frob", "x\n"), []string{
			"x.ovpn:8: frobnicate is unknown, and ignored", "x.ovpn:9: frob is unknown, and ignored",
		}},
		{"an old option, announced", minimal(t) + "ignore-unknown-option ncp-disable\nncp-disable\n", []string{"x.ovpn:8: ncp-disable is ignored"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, warnings, err := Parse(strings.NewReader(tt.text), "x.ovpn", Files{})
			if err != nil {
				t.Fatal(err)
			}
			if len(warnings) != len(tt.want) {
				t.Fatalf("got %q, want %q", warnings, tt.want)
			}
			for i, w := range warnings {
				if !strings.HasPrefix(w.String(), tt.want[i]) {
					t.Errorf("got %q, want %q", w, tt.want[i])
				}
			}
		})
	}
}

func TestRevocationListsAreReadAgainForEachSession(t *testing.T) {
	ca := certtest.NewAuthority(t, "ca")
	now := time.Now()
	dir := t.TempDir()
	path := filepath.Join(dir, "crl.pem")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(ca.Revoke(t, now.Add(-2*time.Hour), now.Add(-time.Hour)))
	p, warnings, err := Parse(strings.NewReader("remote h\nremote-cert-tls server\ncrl-verify crl.pem\n"+certtest.Inline("ca", ca.PEM)), filepath.Join(dir, "x.ovpn"), Files{Public: ReadPublic})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Text, path+": the revocation list") {
		t.Fatalf("got %v, warnings %q; want one that names %s", err, warnings, path)
	}
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{ca.Server(t).Parse(t)}}
	verify := func() error {
		t.Helper()
		cfg, err := p.TLSConfig()
		if err != nil {
			t.Errorf("TLSConfig: %v", err)
		}
		return cfg.VerifyConnection(state)
	}
	if err := verify(); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "expired on "+now.Add(-time.Hour).UTC().Format("2006-01-02")) {
		t.Errorf("an expired list: got %v, want an error that names file and date", err)
	}
	write(ca.Revoke(t, now.Add(-time.Minute), now.Add(time.Hour)))
	if err := verify(); err != nil {
		t.Errorf("after the file was replaced: %v", err)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	p := &Profile{Password: "geheim"}
	if got := fmt.Sprintf("%v %+v %#v %#v", p, *p, *p, p.Password); strings.Contains(got, "geheim") {
		t.Errorf("got %s", got)
	}
}

func TestEveryDirectiveIsInOnePlace(t *testing.T) {
	seen := make(map[string]string)
	for name := range parsers() {
		seen[name] = "parsers"
		if _, ok := meanings[name]; !ok {
			t.Errorf("%s is honoured, and meanings does not say how", name)
		}
	}
	for _, g := range groups {
		for _, name := range strings.Fields(g.names) {
			if before := seen[name]; before != "" {
				t.Errorf("%s is in two places: %s and %s", name, before, g.note)
			}
			seen[name] = g.note
		}
	}
	for name := range blocks {
		if seen[name] == "" {
			t.Errorf("<%s> may be a block and is not known", name)
		}
	}
	for name := range meanings {
		if parsers()[name] == nil {
			t.Errorf("meanings has %s, which is not honoured", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(minimal(f))
	f.Add("client\nremote a 1 udp\n<connection>\nremote b\n</connection>\ntls-auth k 1\nauth-user-pass\nstatic-challenge \"x\" 1\n")
	f.Add("remote h\n<ca>\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n</ca>\n<tls-crypt-v2>\n</tls-crypt-v2>\n")
	f.Add("setenv opt x \\\" 'y' ;z\npull-filter ignore \"a b\"\nroute 1.2.3.4\nkeepalive 1 2\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, _, err := Parse(strings.NewReader(text), "x.ovpn", Files{Secret: noFiles, Public: noFiles})
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p != nil, err)
		}
		if p != nil && len(p.Remotes) == 0 {
			t.Error("a profile without a remote")
		}
	})
}
