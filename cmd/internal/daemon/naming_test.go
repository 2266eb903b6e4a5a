package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/router"
	"penstock/router/transport/openvpn"
)

// says is the inside of a transport that only names DNS servers.
type says struct {
	inner
	n named
}

func (s says) naming() named { return s.n }

func TestNamedServersBecomeUpstreamsAndZones(t *testing.T) {
	plain := func(address string, domains ...string) namedServer {
		return namedServer{address: address, domains: domains}
	}
	corp := named{servers: []namedServer{plain("10.0.0.53")}, search: []string{"corp.example", "~lab.example"}}
	for _, row := range []struct {
		name       string
		cfg        config.DNS
		transports map[string]named
		want       string
	}{
		{"servers and search domains of one transport", config.DNS{}, map[string]named{"corp": corp},
			"10.0.0.53 via corp; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp; private ."},
		{"configured upstreams stay alone, the domains are split", config.DNS{Upstreams: []config.Upstream{{Address: "192.0.2.53", Via: "direct"}}},
			map[string]named{"corp": corp}, "192.0.2.53 via direct; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp"},
		{"a configured split is not touched", config.DNS{Split: []config.Split{{Domains: []string{"*.corp.example"}, Upstream: []config.Upstream{{Address: "10.9.9.9", Via: "direct"}}}}},
			map[string]named{"corp": corp}, "10.0.0.53 via corp; *.corp.example: 10.9.9.9 via direct; lab.example: 10.0.0.53 via corp; private ."},
		{"allow_private takes the place of all names", config.DNS{AllowPrivate: []string{"home.example"}}, map[string]named{"corp": corp},
			"10.0.0.53 via corp; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp; private home.example"},
		{"a server for some domains is for no others", config.DNS{}, map[string]named{"corp": {servers: []namedServer{plain("10.0.0.53", "corp.example")}}},
			"corp.example: 10.0.0.53 via corp"},
		{"two ways to one domain are one zone, the last rule's transport first", config.DNS{}, map[string]named{"corp": corp, "best": {servers: []namedServer{plain("10.1.1.1")}, search: []string{"corp.example"}}},
			"10.0.0.53 via corp; 10.1.1.1 via best; corp.example: 10.0.0.53 via corp, 10.1.1.1 via best; lab.example: 10.0.0.53 via corp; private ."},
		{"a domain that is none is left out", config.DNS{}, map[string]named{"corp": {servers: []namedServer{plain("10.0.0.53")}, search: []string{"a b", ""}}},
			"10.0.0.53 via corp; private ."},
	} {
		cfg := &config.Config{DNS: row.cfg, Rules: []config.Rule{{Name: "rest", Do: config.Do{Via: "corp"}}}}
		d := &Daemon{log: slog.New(slog.DiscardHandler), host: &host{}, egress: &egress{
			tunnels: map[string]*tunnel{}, dialers: map[string]router.Dialer{"direct": plainDialer{}},
		}}
		for name, n := range row.transports {
			d.egress.tunnels[name] = &tunnel{inner: says{n: n}}
			d.egress.dialers[name] = plainDialer{}
		}
		c, err := d.dnsConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if got := describeDNS(c); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
		if _, err := dnsproxy.New(c); err != nil {
			t.Errorf("%s: %v", row.name, err)
		}
	}
}

// describeDNS is upstreams, zones and domains with private answers in one line.
func describeDNS(c dnsproxy.Config) string {
	list := func(us []dnsproxy.Upstream) (out []string) {
		for _, u := range us {
			out = append(out, u.Address+" via "+u.Via)
		}
		return out
	}
	parts := list(c.Upstreams)
	for _, z := range c.Zones {
		parts = append(parts, strings.Join(z.Domains, " ")+": "+strings.Join(list(z.Upstreams), ", "))
	}
	if len(c.AllowPrivate) > 0 {
		parts = append(parts, "private "+strings.Join(c.AllowPrivate, " "))
	}
	return strings.Join(parts, "; ")
}

func TestPushedServers(t *testing.T) {
	at := netip.MustParseAddrPort
	for _, row := range []struct {
		name string
		push openvpn.DNSServer
		want string
	}{
		{"plain", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53"), at("[fd00::1]:5353")}, Transport: "plain"}, "10.8.0.1:53 [10.8.0.1] [], [fd00::1]:5353 [fd00::1] []"},
		{"for all names", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53")}, Domains: []string{"."}, Transport: "plain"}, "10.8.0.1:53 [10.8.0.1] []"},
		{"DoT by name", openvpn.DNSServer{Addrs: []netip.AddrPort{at("10.8.0.1:53")}, Transport: "DoT", SNI: "dns.corp.example", Domains: []string{"corp.example"}}, "tls://dns.corp.example:853 [10.8.0.1] [corp.example]"},
		{"DoH at a port of its own", openvpn.DNSServer{Addrs: []netip.AddrPort{at("[fd00::1]:8443")}, Transport: "DoH"}, "https://[fd00::1]:8443 [fd00::1] []"},
	} {
		var parts []string
		for _, server := range pushedServers(row.push) {
			parts = append(parts, fmt.Sprintf("%s %v %v", server.address, server.bootstrap, server.domains))
		}
		if got := strings.Join(parts, ", "); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}
