package edition

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/ingress"
	"penstock/cmd/internal/lists"
)

// atProxy is a gateway with both ways in. ana has a key and a password, and the others only a password.
const atProxy = "listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}, proxy: {}}\n" +
	"peers:\n" +
	"  - {name: ana, public_key: " + anaKey + ", allowed_ips: 10.99.0.2/32, proxy_password: {file: ana.pw}}\n" +
	"  - {name: ben, proxy_password: {file: ben.pw}, expires: 2026-12-01T00:00:00Z}\n" +
	"  - {name: cleo, proxy_password: {file: ben.pw}, disabled: true}\n" + rest

func TestWhoMayUseTheProxy(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ana.pw"), "password-of-ana\n")
	write(t, filepath.Join(dir, "ben.pw"), "password-of-ben\n")
	live := NewLive(lists.Config{})
	logins := Logins{live}
	use := func(text string, now time.Time) []uint64 {
		t.Helper()
		e, err := live.Compile(t.Context(), loadIn(t, dir, text))
		if err != nil {
			t.Fatal(err)
		}
		if old := live.Now(); old != nil {
			if e, err = e.After(old); err != nil {
				t.Fatal(err)
			}
		}
		e, _ = e.At(now)
		return live.Use(e)
	}
	before := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	use(atProxy, before)
	ana, ok := logins.Login("ana", "password-of-ana")
	ben, also := logins.Login("ben", "password-of-ben")
	if !ok || !also || ana.Client == ben.Client {
		t.Fatalf("got %v, %v, %v, %v, want both in, each under a key of its own", ana, ok, ben, also)
	}
	if peer, _ := live.Peer(live.Config().Peers.At(0).AllowedIPs[0].Addr()); peer != ana.Client {
		t.Errorf("ana is client %d by proxy and %d by WireGuard", ana.Client, peer)
	}
	for _, other := range [][2]string{{"ana", "password-of-ben"}, {"ana", ""}, {"cleo", "password-of-ben"}, {"dan", ""}, {"", ""}, {"ana ", "password-of-ana"}} {
		if l, ok := logins.Login(other[0], other[1]); ok || l != (ingress.Login{}) {
			t.Errorf("%q came in as client %d", other, l.Client)
		}
	}
	if _, ok := logins.Open(); ok {
		t.Error("nobody has to log in")
	}
	if gone := use(atProxy, before.AddDate(1, 0, 0)); !slices.Equal(gone, []uint64{ben.Client}) || logins.Holds(ben) || !logins.Holds(ana) {
		t.Errorf("ben has expired: gone are %v, ben's login holds: %v, ana's: %v", gone, logins.Holds(ben), logins.Holds(ana))
	}
	write(t, filepath.Join(dir, "ana.pw"), "another-password\n")
	if gone := use(atProxy, before); len(gone) != 0 || logins.Holds(ana) {
		t.Errorf("ana has another password: gone are %v, the old login holds: %v", gone, logins.Holds(ana))
	}
	if again, ok := logins.Login("ana", "another-password"); !ok || again.Client != ana.Client || !logins.Holds(again) {
		t.Errorf("with it she is %v, %v, want the client that she was", again, ok)
	}
	if again, ok := logins.Login("ben", "password-of-ben"); !ok || again.Client == ben.Client {
		t.Errorf("ben is back as %v, %v, want him under another key", again, ok)
	}
}

func TestAGatewayWithAProxyAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ben.pw"), "password-of-ben\n")
	e, err := compileAlone(t, loadIn(t, dir, "listen: {proxy: {}}\npeers: [{name: ben, proxy_password: {file: ben.pw}, expires: 2099-01-01T00:00:00Z}]\n"+rest))
	if err != nil {
		t.Fatal(err)
	}
	next, changed := e.At(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC))
	if _, ok := next.Proxy.Login(next.Clients, "ben", "password-of-ben"); ok || !changed || e.Gateway != nil {
		t.Errorf("ben comes in after he has expired: %v; changed: %v", ok, changed)
	}
}

func TestWarningsOfTheProxy(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ana.pw"), "password-of-ana\n")
	for _, row := range []struct{ listen, want string }{
		{"proxy: {address: 10.20.0.5:1080}", "names and passwords cross the network of 10.20.0.5:1080 in clear"},
		{"wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}", "peer ana has a proxy_password, and there is no listen.proxy to use it on"},
		{"proxy: {}", ""},
	} {
		e, err := compileAlone(t, loadIn(t, dir, "listen: {"+row.listen+"}\npeers: [{name: ana, public_key: "+anaKey+", allowed_ips: 10.99.0.2/32, proxy_password: {file: ana.pw}}]\n"+rest))
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(e.Warnings(), "\n"); !strings.Contains(got, row.want) || row.want == "" && got != "" {
			t.Errorf("%s: got %q, want %q", row.listen, got, row.want)
		}
	}
}
