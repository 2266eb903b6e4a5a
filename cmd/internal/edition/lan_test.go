package edition

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"penstock/cmd/internal/egress"
	"penstock/dnsproxy"
)

func lanOf(servers, search, networks string) LAN {
	var lan LAN
	for _, s := range strings.Fields(servers) {
		lan.Servers = append(lan.Servers, netip.MustParseAddr(s))
	}
	for _, s := range strings.Fields(networks) {
		lan.Networks = append(lan.Networks, netip.MustParsePrefix(s))
	}
	lan.Search = strings.Fields(search)
	return lan
}

func TestTheLANAnswersForItsOwnNamesOnly(t *testing.T) {
	const router, network, reverse = "192.168.1.1", "192.168.1.0/24", "1.168.192.in-addr.arpa"
	for _, row := range []struct {
		name      string
		more      string // of the configuration, before the last rule
		lan       LAN
		want      string // domains
		only      string // domains whose answers hold nothing but addresses of the LAN
		withNamed bool   // a transport names a resolver
	}{
		{"the domains and the networks", "", lanOf(router, "lan Home.Example. fritz.box", network), "lan home.example fritz.box " + reverse, "", false},
		{"no domain", "", lanOf(router, "", network), reverse, "", false},
		{"no server", "", lanOf("", "lan", network), "", "", false},
		{"no network", "", lanOf(router, "lan", ""), "", "", false},
		{"our own address is no server", "", lanOf("10.77.0.1", "lan", network), "", "", false},
		{"what everybody registers under", "", lanOf(router, "com co.uk box arpa in-addr.arpa . 10.in-addr.arpa", network), reverse, "", false},
		{"what nobody may answer", "", lanOf(router, "localhost onion a.invalid", network), reverse, "", false},
		{"what is no domain", "", lanOf(router, "a..b 192.168.1.1 ~x", network), reverse, "", false},
		{"a rule takes it to a transport", "  - {name: ruled, match: {domain: corp.example}, do: {via: corp}}\n", lanOf(router, "corp.example lan", network), "lan " + reverse, "", false},
		{"or a name in it", "  - {name: ruled, match: {domain: wiki.corp.example}, do: {via: corp}}\n", lanOf(router, "corp.example lan", network), "lan " + reverse, "", false},
		{"or what is above it", "  - {name: ruled, match: {domain: '*.example'}, do: {via: corp}}\n", lanOf(router, "corp.example lan", network), "lan " + reverse, "", false},
		{"a rule that opens it", "  - {name: ruled, match: {domain: nas.lan}, do: direct}\n", lanOf(router, "lan home.example", network), "home.example " + reverse, "lan", false},
		{"a rule that blocks it", "  - {name: ruled, match: {domain: tv.lan}, do: block}\n", lanOf(router, "lan", network), "lan " + reverse, "", false},
		{"a split zone", "dns: {split: [{domains: [corp.example], upstream: {address: 10.9.9.9, via: corp}}]}\n", lanOf(router, "corp.example x.corp.example", network), reverse, "", false},
		{"a network behind a transport", "", lanOf("10.20.0.1 "+router, "lan", "10.20.0.0/24 "+network), "lan " + reverse, "", false},
		{"names of special use", "", lanOf(router, "home.arpa local", network), "home.arpa local " + reverse, "", false},
		{"but .local is a company's, if it has a resolver", "", lanOf(router, "home.arpa local", network), "home.arpa " + reverse, "", true},
		{"a whole class", "", lanOf("10.0.0.1", "", "10.0.0.0/24"), "0.0.10.in-addr.arpa", "", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			dns, rules := "", row.more
			if strings.HasPrefix(row.more, "dns:") {
				dns, rules = row.more, ""
			}
			dir := t.TempDir()
			write(t, filepath.Join(dir, "corp.conf"), strings.Replace(corpConf, "AllowedIPs = ", "AllowedIPs = 10.20.0.0/16, ", 1))
			e := newLive(t, loadIn(t, dir, onLaptop+"transports: {corp: {wireguard: {config: corp.conf}}}\n"+dns+"rules:\n"+rules+"  - {name: rest, do: {via: corp}}\n")).Now()
			var naming []egress.Naming
			if row.withNamed {
				naming = []egress.Naming{{Transport: "corp", Servers: []egress.Server{{Address: "10.0.0.53"}}}}
			}
			s := e.DNS(naming, &Access{LAN: row.lan})
			var all, only []string
			for _, z := range s.Zones {
				if !isLAN(z) {
					continue
				}
				if z.Only {
					only = append(only, z.Domains...)
				} else {
					all = append(all, z.Domains...)
				}
				for _, u := range z.Upstreams {
					if u.Via != "direct" {
						t.Errorf("%s is asked via %s", u.Address, u.Via)
					}
				}
			}
			if got := strings.Join(all, " "); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
			if got := strings.Join(only, " "); got != row.only {
				t.Errorf("with addresses of the LAN only: got %q, want %q", got, row.only)
			}
			if _, err := dnsproxy.Compile(s); err != nil {
				t.Error(err)
			}
			if IsSplit("nas.lan", s) {
				t.Error("a name of the LAN counts as one of a split zone")
			}
		})
	}
}

func TestReverseZones(t *testing.T) {
	for network, want := range map[string]string{
		"192.168.1.0/24":   "1.168.192.in-addr.arpa",
		"10.0.0.0/8":       "10.in-addr.arpa",
		"192.168.2.0/23":   "2.168.192.in-addr.arpa 3.168.192.in-addr.arpa",
		"192.168.1.4/31":   "4.1.168.192.in-addr.arpa 5.1.168.192.in-addr.arpa",
		"fd00:1:2:3::/64":  "3.0.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
		"fd00:1:2:30::/63": "0.3.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa 1.3.0.0.2.0.0.0.1.0.0.0.0.0.d.f.ip6.arpa",
	} {
		if got := strings.Join(reverseZones(netip.MustParsePrefix(network)), " "); got != want {
			t.Errorf("%s: got %s, want %s", network, got, want)
		}
	}
	for bits := 1; bits <= 32; bits++ {
		zones := reverseZones(netip.PrefixFrom(netip.MustParseAddr("192.168.7.9"), bits))
		if len(zones) > 128 || len(zones) == 0 || len(slices.Compact(slices.Sorted(slices.Values(zones)))) != len(zones) {
			t.Errorf("/%d: got %d zones %v", bits, len(zones), zones)
		}
	}
}
