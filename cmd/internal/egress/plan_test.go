package egress

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
)

func TestPlanRefusesWithThePlace(t *testing.T) {
	inline := func(more string) string {
		return "  corp: {wireguard: {private_key: {file: our.key}, address: 10.8.0.2/32, peers: [{public_key: " + serverKey + ", endpoint: '192.0.2.1:51820', allowed_ips: 0.0.0.0/0" + more + "]}}\n"
	}
	for _, row := range []struct {
		name, transports string
		want             []string
	}{
		{"an incomplete file", "  corp: {wireguard: {config: bad.conf}}\n", []string{":3:9: transport corp: "}},
		{"two of them", "  corp: {wireguard: {config: bad.conf}}\n  other: {wireguard: {config: bad.conf}}\n", []string{":3:9: transport corp: ", ":4:10: transport other: "}},
		{"a keepalive that is out of range", inline(", persistent_keepalive: 90h}"), []string{":3:9: transport corp: PersistentKeepalive 90h0m0s is out of range"}},
		{"a server twice", inline("}, {public_key: " + serverKey + ", endpoint: '192.0.2.2:51820', allowed_ips: 10.0.0.0/8}"), []string{":3:9: transport corp: peer 2 has the same PublicKey as peer 1"}},
	} {
		p, err := NewPlan(load(t, row.transports))
		if err == nil || p != nil {
			t.Errorf("%s: got a plan and error %v", row.name, err)
			continue
		}
		lines := err.(interface{ Unwrap() []error }).Unwrap()
		if len(lines) != len(row.want) {
			t.Errorf("%s: got %d faults, want %d: %v", row.name, len(lines), len(row.want), err)
			continue
		}
		for i, want := range row.want {
			if !strings.Contains(lines[i].Error(), "p.yaml"+want) {
				t.Errorf("%s: got %v, want %s", row.name, lines[i], want)
			}
		}
	}
	// A configuration that was not loaded from a file can contain more.
	for name, transports := range map[string]map[string]config.Transport{
		"a member that is not there":  {"best": {Failover: []string{"corp"}}},
		"a group in a group":          {"best": {Failover: []string{"second"}}, "second": {Failover: []string{"best"}}},
		"a group with itself in turn": {"best": {Failover: []string{"best"}}},
	} {
		if _, err := NewPlan(&config.Config{Transports: transports}); err == nil || !strings.Contains(err.Error(), "is not a WireGuard or OpenVPN transport") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPlanSaysWhatFilesSay(t *testing.T) {
	p := planOf(t, corp+office+best)
	if got := strings.Join(p.Warnings(), "\n"); !strings.HasPrefix(got, "transport office: ") || !strings.Contains(got, "Table") || strings.Contains(got, "corp") {
		t.Errorf("warnings: got %q, want one about Table, by the transport's name", got)
	}
	want := []netip.Prefix{
		netip.MustParsePrefix("10.8.0.2/32"), netip.MustParsePrefix("10.20.0.0/16"),
		netip.MustParsePrefix("10.9.0.2/32"), netip.MustParsePrefix("fd09::2/128"), netip.MustParsePrefix("10.30.0.0/16"), netip.MustParsePrefix("fd30::/64"),
	}
	if got := p.Prefixes(); !slices.Equal(got, want) {
		t.Errorf("inside: got %v, want %v: a default route keeps nothing inside", got, want)
	}
	halves := planOf(t, "  corp: {wireguard: {private_key: {file: our.key}, address: 10.8.0.2/32, dns: [10.0.0.53, corp.example], mtu: 1380, listen_port: 5555, peers: [{public_key: "+serverKey+", endpoint: '192.0.2.1:51820', allowed_ips: [0.0.0.0/1, 128.0.0.0/1], persistent_keepalive: 25s}]}}\n")
	if got := halves.Prefixes(); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("10.8.0.2/32")}) {
		t.Errorf("inside: got %v, want the own address: two halves are a default route too", got)
	}
	conf := halves.transports[0].wireguard
	if conf.MTU != 1380 || conf.ListenPort != 5555 || len(conf.Peers) != 1 || !slices.Equal(conf.Peers[0].Endpoints, []wireguard.Endpoint{{Host: "192.0.2.1", Port: 51820}}) || conf.PrivateKey.IsZero() {
		t.Errorf("written in place: got %+v", conf)
	}
	for name, p := range map[string]*Plan{"in a file": p, "in place": halves} {
		n := p.Naming()[0]
		if n.Transport != "corp" || len(n.Servers) != 1 || n.Servers[0].Address != "10.0.0.53" || !slices.Equal(n.Search, []string{"corp.example"}) {
			t.Errorf("DNS %s: got %+v", name, n)
		}
	}
}
