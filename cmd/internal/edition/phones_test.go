package edition

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/cmd/internal/privatedns"
)

const servesPhones = `dns: {clients: 192.0.2.0/24, serve: {name: dns.example, https: "127.0.0.1:443", tls: "127.0.0.1:853", certificate: dns.pem, key: {file: dns.key}}}` + "\n"

// TestPhone: a token is its peer's as long as that may ask, and a stranger is nobody unless that is wanted.
func TestPhone(t *testing.T) {
	dir := t.TempDir()
	live := NewLive(lists.Config{})
	use := func(text string) *config.Config {
		t.Helper()
		cfg := loadIn(t, dir, atGateway+text+rest)
		e, err := live.Compile(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if cfg.DNS.Serve != nil && !slices.ContainsFunc(e.Warnings(), func(w string) bool { return strings.Contains(w, "dns.pem") }) {
			t.Errorf("no warning of the certificate in %q", e.Warnings())
		}
		live.Use(e)
		return cfg
	}
	peers := func(ana, ben string) string {
		return "peers:\n  - {name: ana, public_key: " + anaKey + ", allowed_ips: 10.99.0.2/32, groups: [staff]" + ana + "}\n  - {name: ben-phone, groups: [kids]" + ben + "}\n"
	}
	tokens := func(cfg *config.Config, i int) (https, tls string) {
		t.Helper()
		a, err := privatedns.AccessOf(cfg, cfg.Peers.At(i))
		if err != nil {
			t.Fatal(err)
		}
		host, _, _ := strings.Cut(a.Host, ".")
		return a.URL[len(a.URL)-32:], host
	}
	src := netip.MustParseAddrPort("192.0.2.7:40000")
	check := func(says string, w privatedns.Way, token, peer, group string) (key uint64) {
		t.Helper()
		f, ok := live.Phone(w, token, src)
		if ok != (peer != "") || ok && (f.Peer != peer || !slices.Equal(f.Groups, []string{group}) || f.Src != src || f.Client == 0) {
			t.Errorf("%s: got %+v, %t; want %q", says, f, ok, peer)
		}
		return f.Client
	}
	if _, err := live.Compile(t.Context(), loadIn(t, dir, atGateway+servesPhones+rest)); err == nil || !strings.Contains(err.Error(), "p.yaml:2:116: dns.serve: open ") {
		t.Errorf("without a certificate, at the start: got %v", err)
	}
	use("")
	cfg := use(servesPhones + peers("", "")) // later a missing certificate may not keep a peer from being removed
	anaHTTPS, anaTLS := tokens(cfg, 0)
	benHTTPS, benTLS := tokens(cfg, 1)
	key := check("over HTTPS", privatedns.HTTPS, anaHTTPS, "ana", "staff")
	if inTunnel, _ := live.Peer(netip.MustParseAddr("10.99.0.2")); inTunnel != key || check("over TLS", privatedns.TLS, anaTLS, "ana", "staff") != key {
		t.Error("over HTTPS, over TLS and in the tunnel ana is not one client")
	}
	if check("without a tunnel", privatedns.TLS, benTLS, "ben-phone", "kids") == key {
		t.Error("two peers are one client")
	}
	live.Sessions = signedIn{anaKey: {"ana@corp.example", "engineering"}}
	if f, _ := live.Phone(privatedns.HTTPS, anaHTTPS, src); f.User != "ana@corp.example" || !slices.Equal(f.Groups, []string{"staff", "engineering"}) {
		t.Errorf("somebody has signed in: got %q in %q", f.User, f.Groups)
	}
	live.Sessions = signedIn{}
	check("the token of another way", privatedns.TLS, anaHTTPS, "", "")
	check("a stranger", privatedns.HTTPS, "", "", "")
	use(servesPhones + peers(", disabled: true", ", expires: "+time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)))
	check("disabled", privatedns.HTTPS, anaHTTPS, "", "")
	check("expired", privatedns.HTTPS, benHTTPS, "", "")
	use(servesPhones + peers("", ", dns_renewals: 1"))
	check("enabled again", privatedns.HTTPS, anaHTTPS, "ana", "staff")
	check("renewed", privatedns.HTTPS, benHTTPS, "", "")
	live.Sessions = signedIn{anaKey: {"ana@corp.example", "eng"}}
	if f, ok := live.Phone(privatedns.HTTPS, anaHTTPS, src); !ok || f.User != "ana@corp.example" || !slices.Equal(f.Groups, []string{"staff", "eng"}) {
		t.Errorf("signed in: got %+v, %t; want the user and the user's groups, as in the tunnel", f, ok)
	}
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	use(servesPhones + peers("", ", expires: "+soon.UTC().Format(time.RFC3339)))
	check("not expired yet", privatedns.HTTPS, benHTTPS, "ben-phone", "kids")
	later, changed := live.Now().At(soon)
	if !changed {
		t.Fatal("an hour later the same peers may ask")
	}
	gone := live.Use(later)
	check("expired now", privatedns.HTTPS, benHTTPS, "", "")
	if len(gone) != 1 {
		t.Errorf("got the clients %v gone, want one", gone)
	}
	use(strings.Replace(servesPhones, "serve: {", "serve: {anonymous: true, ", 1) + peers("", ""))
	if f, ok := live.Phone(privatedns.HTTPS, "", src); !ok || f.Peer != "" || f.Client != live.Key(src.Addr()) {
		t.Errorf("a stranger who may ask: got %+v, %t", f, ok)
	}
	use("peers: [{name: ana, public_key: " + anaKey + ", allowed_ips: 10.99.0.2/32}]\n")
	check("served no longer", privatedns.HTTPS, anaHTTPS, "", "")
	check("a stranger, served no longer", privatedns.HTTPS, "", "", "")
}

// TestCertificatesThatOthersRenew: at a start they must be good; later they keep no peer from being removed.
func TestCertificatesThatOthersRenew(t *testing.T) {
	dir := t.TempDir()
	load := func(more string) *config.Config {
		text := strings.Replace(atGateway, "{", "{enrol: {url: 'https://vpn.example', certificate: vpn.pem, private_key: {file: vpn.key}}, ", 1)
		return loadIn(t, dir, text+"sign_in: {oidc: {issuer: 'https://login.example', client_id: x}, required: all, url: 'https://vpn.example/', certificate: page.pem, certificate_key: {file: page.key}}\n"+more+rest)
	}
	live := NewLive(lists.Config{})
	_, err := live.Compile(t.Context(), load(""))
	for _, want := range []string{"vpn.example, or neither", "sign_in.certificate: open "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("at the start: got %v, want %q", err, want)
		}
	}
	first, err := live.Compile(t.Context(), loadIn(t, dir, atGateway+rest))
	if err != nil {
		t.Fatal(err)
	}
	live.Use(first)
	next, err := live.Compile(t.Context(), load(""))
	if err != nil {
		t.Fatalf("later: %v", err)
	}
	before := func(string) ([]byte, bool) { return []byte("before"), true }
	for file, want := range map[string]bool{"vpn.pem": true, "vpn.key": true, "page.pem": true, "page.key": true, "p.yaml": false} {
		if text, ok := next.Kept(before)(filepath.Join(dir, file)); ok != want || ok && string(text) != "before" {
			t.Errorf("%s in a copy: got %q, %t; want what it was before: %t", file, text, ok, want)
		}
	}
	for _, want := range []string{"vpn.", "page.pem"} {
		if !slices.ContainsFunc(next.Warnings(), func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("later: got the warnings %q, want one of %s", next.Warnings(), want)
		}
	}
}

// TestAddressesOfDNSNeedARestart: names, certificates and peers are live; what listens is not.
func TestAddressesOfDNSNeedARestart(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct{ name, old, new, restart string }{
		{"another address", servesPhones, strings.Replace(servesPhones, ":443", ":8443", 1), "dns"},
		{"another port for TLS", servesPhones, strings.Replace(servesPhones, ":853", ":8853", 1), "dns"},
		{"no service any more", servesPhones, "", "dns"},
		{"a new service", "", servesPhones, "dns"},
		{"another address in listen", "dns: {listen: '127.0.0.1:53'}\n", "dns: {listen: '127.0.0.2:53'}\n", "dns"},
		{"another certificate and name", servesPhones, strings.NewReplacer("dns.pem", "new.pem", "dns.example", "new.example").Replace(servesPhones), ""},
		{"strangers", servesPhones, strings.Replace(servesPhones, "serve: {", "serve: {anonymous: true, ", 1), ""},
	} {
		changed, restart := Changes(loadIn(t, dir, atGateway+row.old+rest), loadIn(t, dir, atGateway+row.new+rest))
		if strings.Join(changed, " ") != "dns" || strings.Join(restart, " ") != row.restart {
			t.Errorf("%s: got %q, restart %q; want restart %q", row.name, changed, restart, row.restart)
		}
	}
}
