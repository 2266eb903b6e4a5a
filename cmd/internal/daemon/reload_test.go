package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/router"
	"penstock/router/clients"
)

// A reload is all or nothing: with one fault anywhere, everything stays as it was.
func TestAFaultAnywhereChangesNothing(t *testing.T) {
	const good = `state_dir: state
listen: {tun: {routes: manual, dns: manual}}
categories: {bets: {lists: [{file: bets.txt}]}}
dns: {upstreams: [{address: 192.0.2.53}]}
rules:
  - {name: no-bets, match: {category: bets}, do: block}
  - {name: rest, do: direct}
`
	for _, row := range []struct{ name, old, new, want string }{
		{"a key that does not exist", "dns:", "dnz:", "dnz"},
		{"a rule that names an unknown transport", "do: direct", "do: {via: corp}", "corp"},
		{"a list that cannot be read", "file: bets.txt", "file: none.txt", "none.txt"},
		{"a domain in two zones", "dns: {", "dns: {split: [{domains: [a.example], upstream: [{address: 192.0.2.54}]}, {domains: [\"*.a.example\"], upstream: [{address: 192.0.2.55}]}], ", "a.example"},
		{"a port that is out of range", "address: 192.0.2.53", "address: \"tls://192.0.2.53:99999\"", "99999"},
		{"an upstream that is ourselves", "address: 192.0.2.53", "address: 10.77.0.2", "10.77.0.2"},
		{"an invalid private domain", "dns: {", "dns: {allow_private: [\"a..b\"], ", "a..b"},
		{"a test that fails", "rules:", "tests: [{to: \"https://x.example\", expect: block}]\nrules:", "x.example"},
		{"no rules", "  - {name: rest, do: direct}\n", "", "rest"},
	} {
		t.Run(row.name, func(t *testing.T) {
			dir := t.TempDir()
			file(t, dir, "bets.txt", "casino.example\n")
			d := builtIn(t, dir, good)
			before, settings := d.live.Now(), d.dns.Settings()
			file(t, dir, "p.yaml", strings.Replace(good, row.old, row.new, 1))
			for _, dry := range []bool{true, false} {
				_, err := d.reload(t.Context(), control.ReloadQuery{DryRun: dry})
				if row.want == "none.txt" && err == nil {
					continue // with on_missing: block this works without the list
				}
				if err == nil || !strings.Contains(err.Error(), row.want) {
					t.Errorf("dry run %v: got %v, want an error that names %s", dry, err, row.want)
				}
				if d.live.Now() != before || !reflect.DeepEqual(d.dns.Settings(), settings) {
					t.Errorf("dry run %v: a refused reload changed the edition", dry)
				}
			}
		})
	}
}

// TestAddressesThatMoveDuringAReloadStay gives the TUN other addresses while the files are read.
func TestAddressesThatMoveDuringAReloadStay(t *testing.T) {
	d := builtIn(t, t.TempDir(), laptopText)
	want := []netip.Prefix{netip.MustParsePrefix("10.91.0.1/24")}
	moved := make(chan struct{})
	_, err := d.replace(t.Context(), control.ReloadQuery{}, func(now *config.Config) (*config.Config, error) {
		go func() {
			defer close(moved)
			d.moved(want)
		}()
		select {
		case <-moved:
		case <-time.After(100 * time.Millisecond): // it waits for the reload, which is as good
		}
		return now.Reload()
	}, func() error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	<-moved
	if got := d.live.Config().Listen.TUN.Address; !slices.Equal(got, want) {
		t.Errorf("the TUN has the addresses %v, want %v", got, want)
	}
}

func TestADryRunChangesNothing(t *testing.T) {
	dir := t.TempDir()
	d := builtIn(t, dir, laptopText)
	before := d.live.Now()
	file(t, dir, "p.yaml", strings.Replace(laptopText, "do: direct", "do: block", 1))
	res, err := d.reload(t.Context(), control.ReloadQuery{DryRun: true})
	if err != nil || res.Generation != before.Number || strings.Join(res.Changed, " ") != "rules" {
		t.Errorf("got %+v, %v; want the rules to differ and edition %d in force", res, err, before.Number)
	}
	if d.live.Now() != before {
		t.Error("a dry run put its edition in force")
	}
}

func TestAReloadIsInForceEverywhereWhenItReturns(t *testing.T) {
	dir := t.TempDir()
	d := builtIn(t, dir, laptopText)
	f := policy.Flow{Network: policy.TCP, Dst: netip.MustParseAddrPort("198.51.100.1:443"), Time: time.Now(), Sniffed: true}
	if v := d.live.Decide(f); v.Action != policy.Forward || v.Edition != 1 {
		t.Fatalf("before: got %+v", v)
	}
	next := strings.NewReplacer("do: direct", "do: block", "192.0.2.53", "192.0.2.54").Replace(laptopText)
	file(t, dir, "p.yaml", next)
	res, err := d.reload(t.Context(), control.ReloadQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if v := d.live.Decide(f); v.Action != policy.Refuse || v.Edition != res.Generation {
		t.Errorf("afterwards: got %+v, want a refusal by edition %d", v, res.Generation)
	}
	if got := d.dns.Settings().Upstreams[0].Address; got != "192.0.2.54" {
		t.Errorf("questions go to %s", got)
	}
	s, err := d.status.Status(t.Context())
	if err != nil || s.PolicyGeneration != res.Generation || s.ReloadError != "" {
		t.Errorf("status: got %+v, %v", s, err)
	}
	if err := os.Remove(filepath.Join(dir, "p.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.reload(t.Context(), control.ReloadQuery{}); err == nil {
		t.Error("a configuration that is gone was reloaded")
	}
	if s, _ := d.status.Status(t.Context()); s.ReloadError == "" {
		t.Error("status does not show that the last reload was refused")
	}
}

func TestWhatOnlyARestartChangesStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	d := builtIn(t, dir, laptopText)
	file(t, dir, "p.yaml", strings.Replace(laptopText, "dns: manual}", "dns: manual, address: [10.78.0.1/24]}", 1))
	res, err := d.reload(t.Context(), control.ReloadQuery{})
	if err != nil || strings.Join(res.Restart, " ") != "listen" {
		t.Errorf("got %+v, %v; want listen to need a restart", res, err)
	}
	if got := d.live.Now().Place(netip.MustParseAddr("10.77.0.2")); got != policy.Service {
		t.Errorf("the address that penstock still answers on is %d, want a service", got)
	}
	// It stays told until it is done, or taken back.
	res, err = d.reload(t.Context(), control.ReloadQuery{})
	if err != nil || strings.Join(res.Restart, " ") != "listen" {
		t.Errorf("a second reload: got %+v, %v; want listen to need a restart still", res, err)
	}
	if s, _ := d.status.Status(t.Context()); strings.Join(s.Restart, " ") != "listen" {
		t.Errorf("status: got %q waiting for a restart, want listen", s.Restart)
	}
	file(t, dir, "p.yaml", laptopText)
	if res, err = d.reload(t.Context(), control.ReloadQuery{}); err != nil || len(res.Restart) > 0 {
		t.Errorf("taken back: got %+v, %v; want nothing to need a restart", res, err)
	}
	if s, _ := d.status.Status(t.Context()); len(s.Restart) > 0 {
		t.Errorf("status: got %q waiting for a restart, want nothing", s.Restart)
	}
}

func TestAReloadTellsProbableMistakes(t *testing.T) {
	dir := t.TempDir()
	d := builtIn(t, dir, laptopText)
	page := file(t, dir, "page.txt", "<!DOCTYPE html><p>sign in")
	file(t, dir, "p.yaml", "categories: {bets: {lists: [{file: page.txt}]}}\n"+strings.Replace(laptopText, "rules: [", "rules: [{name: bets, match: {category: bets}, do: block}, ", 1))
	res, err := d.reload(t.Context(), control.ReloadQuery{})
	if err != nil || !strings.Contains(strings.Join(res.Warnings, "\n"), page+" line 1: this is a web page, not a list") {
		t.Errorf("got %+v, %v; want a warning about the list", res, err)
	}
	s, _ := d.status.Status(t.Context())
	if !s.Degraded || !strings.HasPrefix(s.Verdict, "degraded: category bets holds no name, because it has no list that can be used: ") {
		t.Errorf("status: got %q, want the category first", s.Verdict)
	}
}

func TestFlowsOfClientsThatMovedAreEnded(t *testing.T) {
	peers := []clients.Peer{
		{Name: "ana", ID: "a", Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.2/32")}},
		{Name: "ben", ID: "b", Addrs: []netip.Prefix{netip.MustParsePrefix("10.99.0.3/32")}, Groups: []string{"staff"}},
	}
	before := clients.NewBook(clients.List(peers), nil)
	now := &edition.Edition{Clients: clients.NewBook(clients.List(peers[1:]), before)}
	live := edition.NewLive(lists.Config{})
	ana, _, _ := before.Named("ana")
	ben, _, _ := before.Named("ben")
	for _, row := range []struct {
		name   string
		client uint64
		groups []string
		want   bool
	}{
		{"in the same groups", ben, []string{"staff"}, false},
		{"in other groups", ben, []string{"admins"}, true},
		{"gone, and in no group before", ana, nil, true},
	} {
		f := router.Flow{Facts: policy.Flow{Client: row.client, Groups: row.groups}}
		if got := regrouped(live, now, f.Facts); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

func TestAReloadOfThePeersChangesNothingElse(t *testing.T) {
	dir := t.TempDir()
	const key, other = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=", "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo="
	text := func(name, key, addr string) string {
		return "peers: [{name: " + name + ", public_key: " + key + ", allowed_ips: " + addr + "/32}]\n"
	}
	for name, text := range map[string]string{"ana.yaml": text("ana", key, "10.99.0.2"), "ben.yaml": text("ben", other, "10.99.0.3")} {
		if err := os.MkdirAll(filepath.Join(dir, "peers.d"), 0o700); err != nil {
			t.Fatal(err)
		}
		file(t, filepath.Join(dir, "peers.d"), name, text)
	}
	socket, err := net.ListenUDP("udp", nil) // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	port := socket.LocalAddr().(*net.UDPAddr).Port
	socket.Close()
	file(t, dir, "gateway.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=\n")
	d := builtIn(t, dir, "include: peers.d/*.yaml\n"+strings.Replace(laptopText, "listen: {",
		fmt.Sprintf("listen: {wireguard: {listen_port: %d, address: 10.99.0.1/24, private_key: {file: gateway.key}}, ", port), 1))
	peers := folders{d}
	if _, changed := peers.Look(); changed {
		t.Error("before anything changed: the folder of peers looks changed")
	}
	file(t, dir, "p.yaml", "half a configurat") // somebody edits it
	if _, err := d.reload(t.Context(), control.ReloadQuery{}); err == nil {
		t.Error("a reload of everything accepts half a configuration")
	}
	file(t, filepath.Join(dir, "peers.d"), "ana.yaml", "peers: [{na")
	file(t, filepath.Join(dir, "peers.d"), "eve.yaml", text("eve", "SKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=", "10.99.0.4"))
	if err := os.Remove(filepath.Join(dir, "peers.d", "ben.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, changed := peers.Look(); !changed {
		t.Error("the folder of peers does not look changed")
	}
	if err := peers.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{"10.99.0.2": true, "10.99.0.3": false, "10.99.0.4": true} {
		if _, got := d.live.Peer(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got a peer %v, want %v", addr, got, want)
		}
	}
	s, err := d.status.Status(t.Context())
	if err != nil || !strings.Contains(s.ReloadError, "p.yaml") {
		t.Errorf("got reload error %q, %v; want that of the configuration still", s.ReloadError, err)
	}
	if _, changed := peers.Look(); changed {
		t.Error("what has been read looks changed")
	}
}
