package edition

import (
	"net/netip"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/policy"
)

func TestNamesOfASplitTunnel(t *testing.T) {
	network := func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.168.50.1")} }
	server := func(address string, domains ...string) egress.Server {
		return egress.Server{Address: address, Bootstrap: []netip.Addr{netip.MustParseAddr(address)}, Domains: domains}
	}
	unknown, all := policy.Conditions{}, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	routes := func(inside ...netip.Prefix) policy.Conditions {
		return policy.Conditions{Routes: map[string]policy.Routes{"corp": {Inside: inside}}}
	}
	split, everything := routes(netip.MustParsePrefix("10.20.0.0/16")), routes(all)
	own := func(c *config.Config) { c.Rules[0].Do.Unrouted = "" }
	intranet := func(c *config.Config) { c.Intranet = []string{"wiki.example", "*.git.example"} }
	for _, row := range []struct {
		name    string
		now     policy.Conditions
		change  func(*config.Config)
		servers []egress.Server
		want    string
	}{
		{"a server for all names", split, nil, []egress.Server{server("10.20.0.53")}, "10.20.0.53 via corp; local zones: 10.20.0.53 via corp; private ."},
		{"no server: the network's", split, nil, nil, "192.168.50.1 via direct"},
		{"a server for some names, the network's for the rest", split, nil, []egress.Server{server("10.20.0.53", "corp.local")},
			"192.168.50.1 via direct; corp.local: 10.20.0.53 via corp"},
		{"a server for some names is for the intranet too", split, intranet, []egress.Server{server("10.20.0.53", "corp.local")},
			"192.168.50.1 via direct; corp.local: 10.20.0.53 via corp; wiki.example: 10.20.0.53 via corp; git.example: 10.20.0.53 via corp"},
		{"a server that names the intranet itself is asked once", split, intranet, []egress.Server{server("10.20.0.53", "wiki.example", "git.example")},
			"192.168.50.1 via direct; wiki.example: 10.20.0.53 via corp; git.example: 10.20.0.53 via corp"},
		{"a server without a route is asked directly", split, nil, []egress.Server{server("9.9.9.9")}, "9.9.9.9 via direct"},
		{"nothing is known yet: nobody is asked", unknown, nil, nil, ""},
		{"everything goes through the tunnel: the network's are not asked", everything, nil, nil, ""},
		{"everything goes through the tunnel: the server as well", everything, nil, []egress.Server{server("9.9.9.9")}, "9.9.9.9 via corp; local zones: 9.9.9.9 via corp; private ."},
		{"configured upstreams are kept", split, func(c *config.Config) { c.DNS.Upstreams = []config.Upstream{{Address: "9.9.9.9", Via: "direct"}} }, nil, "9.9.9.9 via direct"},
		{"rules do not follow routes: pushed servers are asked through the tunnel", split, own, []egress.Server{server("9.9.9.9")},
			"9.9.9.9 via corp; local zones: 9.9.9.9 via corp; private ."},
		{"rules do not follow routes: the network's are not asked", split, own, nil, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			cfg := &config.Config{Rules: []config.Rule{{Name: "rest", Do: config.Do{Action: "via", Via: "corp", Unrouted: "direct"}}}}
			if row.change != nil {
				row.change(cfg)
			}
			e := &Edition{Config: cfg}
			naming := e.Followed([]egress.Naming{{Transport: "corp", Servers: row.servers}}, &row.now, network)
			if got := describe(e.DNS(naming, nil)); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
		})
	}
}
