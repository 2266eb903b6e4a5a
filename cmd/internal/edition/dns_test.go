package edition

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/dnsproxy"
)

func TestNamedServersBecomeUpstreamsAndZones(t *testing.T) {
	plain := func(address string, domains ...string) egress.Server {
		return egress.Server{Address: address, Domains: domains}
	}
	corp := egress.Naming{Transport: "corp", Servers: []egress.Server{plain("10.0.0.53")}, Search: []string{"corp.example", "~lab.example"}}
	best := egress.Naming{Transport: "best", Servers: []egress.Server{plain("10.1.1.1")}, Search: []string{"corp.example"}}
	for _, row := range []struct {
		name   string
		cfg    config.DNS
		naming []egress.Naming
		want   string
	}{
		{"servers and search domains of one transport", config.DNS{}, []egress.Naming{corp},
			"10.0.0.53 via corp; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp; private ."},
		{"configured upstreams are kept, the domains are split", config.DNS{Upstreams: []config.Upstream{{Address: "192.0.2.53", Via: "direct"}}},
			[]egress.Naming{corp}, "192.0.2.53 via direct; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp"},
		{"a configured split is not touched", config.DNS{Split: []config.Split{{Domains: []string{"*.corp.example"}, Upstream: []config.Upstream{{Address: "10.9.9.9", Via: "direct"}}}}},
			[]egress.Naming{corp}, "10.0.0.53 via corp; *.corp.example: 10.9.9.9 via direct; lab.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp; private ."},
		{"allow_private replaces all names", config.DNS{AllowPrivate: []string{"home.example"}}, []egress.Naming{corp},
			"10.0.0.53 via corp; corp.example: 10.0.0.53 via corp; lab.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp; private home.example"},
		{"a server for some domains is for no others", config.DNS{}, []egress.Naming{{Transport: "corp", Servers: []egress.Server{plain("10.0.0.53", "corp.example")}}},
			"corp.example: 10.0.0.53 via corp"},
		{"two ways to one domain are one zone, the last rule's transport first", config.DNS{}, []egress.Naming{best, corp},
			"10.0.0.53 via corp; 10.1.1.1 via best; corp.example: 10.0.0.53 via corp, 10.1.1.1 via best; lab.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp, 10.1.1.1 via best; private ."},
		{"an invalid domain is left out", config.DNS{}, []egress.Naming{{Transport: "corp", Servers: []egress.Server{plain("10.0.0.53")}, Search: []string{"a b", ""}}},
			"10.0.0.53 via corp; local zones: 10.0.0.53 via corp; private ."},
		{"a server outside of the tunnel is asked directly, and knows nothing local", config.DNS{}, []egress.Naming{{Transport: "corp", Servers: []egress.Server{{Address: "9.9.9.9", Direct: true}}}},
			"9.9.9.9 via direct"},
		{"one of two", config.DNS{}, []egress.Naming{{Transport: "corp", Servers: []egress.Server{plain("10.0.0.53"), {Address: "9.9.9.9", Direct: true}}, Search: []string{"corp.example"}}},
			"10.0.0.53 via corp; 9.9.9.9 via direct; corp.example: 10.0.0.53 via corp; local zones: 10.0.0.53 via corp; private ."},
		{"a configured local zone is not touched", config.DNS{Split: []config.Split{{Domains: localZones(), Upstream: []config.Upstream{{Address: "10.9.9.9", Via: "direct"}}}}},
			[]egress.Naming{{Transport: "corp", Servers: []egress.Server{plain("10.0.0.53")}}}, "10.0.0.53 via corp; local zones: 10.9.9.9 via direct; private ."},
		{"search domains without a server add no zone", config.DNS{}, []egress.Naming{{Transport: "corp", Search: []string{"corp.example"}}}, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			e := &Edition{Config: &config.Config{DNS: row.cfg, Rules: []config.Rule{{Name: "rest", Do: config.Do{Via: "corp"}}}}}
			s := e.DNS(row.naming, nil)
			if got := describe(s); got != row.want {
				t.Errorf("got %s, want %s", got, row.want)
			}
			if _, err := dnsproxy.Compile(s); err != nil {
				t.Error(err)
			}
		})
	}
}

// describe returns upstreams, zones and domains with private answers in one line.
func describe(s dnsproxy.Settings) string {
	list := func(us []dnsproxy.Upstream) (out []string) {
		for _, u := range us {
			out = append(out, u.Address+" via "+u.Via)
		}
		return out
	}
	parts := list(s.Upstreams)
	for _, z := range s.Zones {
		domains := strings.Join(z.Domains, " ")
		if domains == strings.Join(localZones(), " ") {
			domains = "local zones"
		}
		parts = append(parts, domains+": "+strings.Join(list(z.Upstreams), ", "))
	}
	if len(s.AllowPrivate) > 0 {
		parts = append(parts, "private "+strings.Join(s.AllowPrivate, " "))
	}
	return strings.Join(parts, "; ")
}

func TestTheGroupOfTheLastRuleIsAskedInItsOrder(t *testing.T) {
	e := &Edition{Config: &config.Config{
		Rules:      []config.Rule{{Name: "rest", Do: config.Do{Via: "best"}}},
		Transports: map[string]config.Transport{"best": {Failover: []string{"b", "a"}}},
	}}
	var naming []egress.Naming
	for _, name := range []string{"a", "b", "c"} {
		naming = append(naming, egress.Naming{Transport: name, Servers: []egress.Server{{Address: "10.0.0.1"}}})
	}
	if got, want := describe(e.DNS(naming, nil)), "10.0.0.1 via b; 10.0.0.1 via a; 10.0.0.1 via c; local zones: 10.0.0.1 via b, 10.0.0.1 via a, 10.0.0.1 via c; private ."; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAPortalsNameIsResolvedByTheAccessNetwork(t *testing.T) {
	e := newLive(t, load(t, onLaptop+"dns: {upstreams: [{address: 192.0.2.53}]}\n"+rest)).Now()
	got := describe(e.DNS(nil, &Access{Portal: &PortalZone{Host: "login.hotel.example", Servers: []netip.Addr{netip.MustParseAddr("198.51.100.1")}}}))
	if want := "192.0.2.53 via direct; login.hotel.example: 198.51.100.1 via direct"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWhatATransportPushesCannotStopDNS(t *testing.T) {
	e := newLive(t, load(t, onLaptop+"dns: {upstreams: [{address: 192.0.2.53}]}\n"+rest)).Now()
	for _, row := range []struct {
		name string
		n    egress.Naming
	}{
		{"our own address", egress.Naming{Transport: "corp", Servers: []egress.Server{{Address: "10.77.0.1:53", Domains: []string{"corp.example"}}}}},
		{"an invalid address", egress.Naming{Transport: "corp", Servers: []egress.Server{{Address: "tls://1.2.3.4:99999", Domains: []string{"corp.example"}}}}},
	} {
		plan, s, pushed := e.CompileDNS([]egress.Naming{row.n}, nil)
		if pushed == nil {
			t.Errorf("%s: got no error", row.name)
		}
		if plan == nil || describe(s) != "192.0.2.53 via direct" {
			t.Errorf("%s: got %s, want the configuration's servers alone", row.name, describe(s))
		}
	}
	_, s, pushed := e.CompileDNS([]egress.Naming{{Transport: "corp", Servers: []egress.Server{{Address: "10.0.0.53", Domains: []string{"corp.example"}}}}}, nil)
	if want := "192.0.2.53 via direct; corp.example: 10.0.0.53 via corp"; pushed != nil || describe(s) != want {
		t.Errorf("a good one: got %s and %v, want %s", describe(s), pushed, want)
	}
}

func TestSettingsOfDNS(t *testing.T) {
	s := func(text string) dnsproxy.Settings {
		return newLive(t, load(t, text)).Now().DNS(nil, nil)
	}
	near := s(onLaptop + rest)
	contains := func(a string) bool {
		return slices.ContainsFunc(near.Clients, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(a)) })
	}
	if !contains("127.0.0.1") || !contains("192.168.1.9") || contains("192.0.2.1") || contains("8.8.8.8") {
		t.Errorf("clients: got %v, want loopback and private networks alone", near.Clients)
	}
	if near.StripECH {
		t.Error("no rule looks at names, but ClientHellos must show them")
	}
	if !s(onLaptop + "rules: [{name: a, match: {not: {domain: a.example}}, do: block}, {name: rest, do: direct}]\n").StripECH {
		t.Error("a rule looks at names within a not, but ClientHellos may hide them")
	}
	set := s(onLaptop + bets + "dns: {clients: [192.0.2.0/24], select: fastest, timeout: 3s, block: {answer: refused, ttl: 10s}, block_category: {bets: {answer: address, addresses: [192.0.2.9]}}}\nlimits: {dns_queries: 7}\n" + noBets)
	if !slices.Equal(set.Clients, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}) || set.Select != dnsproxy.Fastest ||
		set.Timeout != 3*time.Second || set.MaxInFlight != 7 || set.Block.Mode != dnsproxy.BlockRefused || set.Block.TTL != 10*time.Second {
		t.Errorf("got %+v, want what the configuration says", set)
	}
	if b := set.BlockCategories["bets"]; b.Mode != dnsproxy.BlockAddress || !slices.Equal(b.Addrs, []netip.Addr{netip.MustParseAddr("192.0.2.9")}) {
		t.Errorf("block answer of a category: got %+v", b)
	}
	auto := s("listen: {tun: {dns: auto, routes: manual}}\ndns: {listen: ['127.0.0.1:5353']}\n" + rest)
	for _, own := range []string{"127.0.0.53:53", "127.0.0.54:53", "10.77.0.1:0", "10.77.0.2:0", "127.0.0.1:5353"} {
		if !slices.Contains(auto.Self, netip.MustParseAddrPort(own)) {
			t.Errorf("own addresses: got %v, want %s among them: a question there would come back", auto.Self, own)
		}
	}
}

func TestPlainServersAreFoundByTheirWay(t *testing.T) {
	e := newLive(t, load(t, onLaptop+"transports: {corp: {wireguard: {config: corp.conf}}}\ndns: {upstreams: [{address: 10.0.0.1, via: corp}, {address: 'tcp://10.0.0.2:5353', via: corp}, "+
		"{address: 'tls://10.0.0.3', via: corp}, {address: '[fd00::4]:53', via: corp}, {address: 192.0.2.53}]}\n"+rest)).Now()
	for via, want := range map[string]string{
		"corp":   "[10.0.0.1:53 10.0.0.2:5353 [fd00::4]:53]", // what speaks TLS is not asked in clear
		"direct": "[192.0.2.53:53]",
		"other":  "[]",
	} {
		if got := fmt.Sprint(e.ServersVia(via)); got != want {
			t.Errorf("%s: got %s, want %s", via, got, want)
		}
	}
}
