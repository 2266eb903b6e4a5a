package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"penstock/policy/blocklist"
)

// places are left out of comparisons with what was meant.
var places = cmp.Options{
	cmpopts.IgnoreTypes(Position{}),
	cmpopts.IgnoreUnexported(Config{}),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
}

func load1(t *testing.T, path string) *Config {
	t.Helper()
	c, err := Load(path)
	if err != nil {
		t.Fatalf("Load:\n%v", err)
	}
	return c
}

const profileText = `[Interface]
PrivateKey = 2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=
Address = 10.9.0.2/32
DNS = 10.0.0.53, corp.example # the office
[Peer]
PublicKey = QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=
Endpoint = vpn.example:51820
`

func TestTheLaptopFormExpands(t *testing.T) {
	dir := t.TempDir()
	hq := write(t, dir, "hq.conf", profileText+"AllowedIPs = 0.0.0.0/0, ::/0\n")
	c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.conf\nblock: [gambling, adult]\nintranet: corp.example\n"))

	up := Upstream{Name: "hq", Address: "10.0.0.53", Via: "hq"}
	want := map[string]any{
		"transports": map[string]Transport{"hq": {WireGuard: &WireGuard{Config: hq}}},
		"upstreams":  []Upstream{up},
		"split":      []Split{{Domains: []string{"corp.example"}, Upstream: []Upstream{up}}},
		"rules": []Rule{
			{Name: "dns", Match: &Match{Port: []string{"53"}, Protocol: []string{"tcp", "udp"}}, Do: Do{Action: "dns"}},
			{Name: "no-gambling", Match: &Match{Category: []string{"gambling"}}, Do: Do{Action: "block"}},
			{Name: "no-adult", Match: &Match{Category: []string{"adult"}}, Do: Do{Action: "block"}},
			{Name: "intranet", Match: &Match{Domain: []string{"corp.example"}}, Do: Do{Action: "via", Via: "hq"}},
			{Name: "rest", Do: Do{Action: "via", Via: "hq"}},
		},
		"tun": newTUN(),
	}
	got := map[string]any{"transports": c.Transports, "upstreams": c.DNS.Upstreams, "split": c.DNS.Split, "rules": c.Rules, "tun": c.Listen.TUN}
	if diff := cmp.Diff(want, got, places); diff != "" {
		t.Errorf("expansion (-want +got):\n%s", diff)
	}
	if got, want := c.Rules[2].Pos.Line, 2; got != want {
		t.Errorf("the rule made from a line stands at line %d, want %d", got, want)
	}
}

func TestAProfileForSomeNetworksLeavesTheRestDirect(t *testing.T) {
	via, direct := Do{Action: "via", Via: "hq"}, Do{Action: "direct"}
	for _, test := range []struct {
		name, allowed string
		rest          Do
		warning       string
	}{
		{"everything", "0.0.0.0/0, ::/0", via, ""},
		{"everything in halves", "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1", via, ""},
		{"all of IPv4 and no IPv6", "0.0.0.0/0", via, "all of IPv4 and no IPv6: IPv6 is refused"},
		{"all of IPv4 and some IPv6", "0.0.0.0/0, fd00::/8", direct, "all of IPv4 but not all of IPv6, which leaves directly"},
		{"all of IPv4 in halves", "0.0.0.0/1, 128.0.0.0/1", via, "all of IPv4 and no IPv6: IPv6 is refused"},
		{"all of IPv6", "::/0", direct, "all of IPv6 but not all of IPv4, which leaves directly"},
		{"all of IPv6 and a network", "::/0, 10.0.0.0/16", direct, "all of IPv6 but not all of IPv4, which leaves directly"},
		{"one network", "10.0.0.0/8", direct, ""},
		{"one half", "0.0.0.0/1", direct, ""},
		{"all of IPv4 in quarters", "192.0.0.0/2, 0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/2", via, "all of IPv4 and no IPv6: IPv6 is refused"},
		{"nearly all of both", withoutPrivate + ", 2000::/3", direct, ""},
		{"nearly all of IPv4 and some IPv6", withoutPrivate + ", fd00::/8", direct, "all of IPv4 except a few networks but not all of IPv6"},
		{"the public part of IPv6", "2000::/3", direct, "all of IPv6 except a few networks but not all of IPv4, which leaves directly"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "hq.conf", profileText+"AllowedIPs = "+test.allowed+"\n")
			c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.conf\n"))
			if diff := cmp.Diff(test.rest, c.Rules[len(c.Rules)-1].Do, places); diff != "" {
				t.Errorf("last rule (-want +got):\n%s", diff)
			}
			if networks := c.Rules[len(c.Rules)-2]; test.rest == direct && (networks.Do.Via != "hq" || strings.Join(networks.Match.CIDR, ", ") != test.allowed) {
				t.Errorf("got the rule %+v for the networks, want %s via hq", networks, test.allowed)
			}
			warnings := strings.Join(c.Warnings(), "\n")
			if !strings.Contains(warnings, test.warning) || test.warning == "" && strings.Contains(warnings, "AllowedIPs carries") {
				t.Errorf("got the warnings %q, want %q", warnings, test.warning)
			}
		})
	}
}

// withoutPrivate is what WireGuard apps write for "exclude private IPs".
const withoutPrivate = "0.0.0.0/5, 8.0.0.0/7, 11.0.0.0/8, 12.0.0.0/6, 16.0.0.0/4, 32.0.0.0/3, 64.0.0.0/2, 128.0.0.0/3, 160.0.0.0/5, " +
	"168.0.0.0/6, 172.0.0.0/12, 172.32.0.0/11, 172.64.0.0/10, 172.128.0.0/9, 173.0.0.0/8, 174.0.0.0/7, 176.0.0.0/4, 192.0.0.0/9, " +
	"192.128.0.0/11, 192.160.0.0/13, 192.169.0.0/16, 192.170.0.0/15, 192.172.0.0/14, 192.176.0.0/12, 192.192.0.0/10, 193.0.0.0/8, " +
	"194.0.0.0/7, 196.0.0.0/6, 200.0.0.0/5, 208.0.0.0/4"

func TestAProfileForAllButPrivateNetworksKeepsIPv6In(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "hq.conf", strings.Replace(profileText, "10.0.0.53", "9.9.9.9", 1)+"AllowedIPs = "+withoutPrivate+"\n")
	c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.conf\n"))
	rules := c.Rules[len(c.Rules)-2:]
	if got, want := strings.Join(rules[0].Match.CIDR, ", "), withoutPrivate+", ::/0"; got != want || rules[0].Do.Via != "hq" {
		t.Errorf("got %s via %q, want %s via hq", got, rules[0].Do.Via, want)
	}
	if rules[1].Match != nil || rules[1].Do.Action != "direct" {
		t.Errorf("the last rule: got %+v, want that private networks leave directly", rules[1])
	}
	if got := strings.Join(c.Warnings(), "\n"); !strings.Contains(got, "all of IPv4 except a few networks and no IPv6: IPv6 is refused") {
		t.Errorf("got the warnings %q, want one about IPv6", got)
	}
}

func TestAServerOutsideOfTheTunnelIsAskedDirectly(t *testing.T) {
	for _, test := range []struct {
		dns, allowed, more string
		want               string // addresses with their ways, and which names may be private
	}{
		{"9.9.9.9", "10.20.0.0/16", "", "9.9.9.9 direct []"},
		{"10.20.0.53, corp.example", "10.20.0.0/16", "", "10.20.0.53 hq [.]"},
		{"10.20.0.53, 9.9.9.9", "10.20.0.0/16", "", "10.20.0.53 hq 9.9.9.9 direct [.]"},
		{"9.9.9.9", "0.0.0.0/0", "", "9.9.9.9 hq [.]"},
		{"2001:db8::53", "0.0.0.0/0", "", "2001:db8::53 direct []"},
		{"10.20.0.53", "10.20.0.0/16", "dns: {allow_private: corp.example}\n", "10.20.0.53 hq [corp.example]"},
		{"10.20.0.53", "10.20.0.0/16", "dns: {upstreams: [{address: 192.0.2.53}]}\n", "192.0.2.53 direct []"},
	} {
		dir := t.TempDir()
		write(t, dir, "hq.conf", strings.Replace(profileText, "10.0.0.53, corp.example", test.dns, 1)+"AllowedIPs = "+test.allowed+"\n")
		c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.conf\n"+test.more))
		got := ""
		for _, u := range c.DNS.Upstreams {
			got += u.Address + " " + u.Via + " "
		}
		if got += fmt.Sprint(c.DNS.AllowPrivate); got != test.want {
			t.Errorf("DNS %s, AllowedIPs %s: got %q, want %q", test.dns, test.allowed, got, test.want)
		}
	}
}

// TestNoNetworkOfALongLineIsLost has a list of networks longer than the 64 KiB at which a bufio.Scanner gives up.
func TestNoNetworkOfALongLineIsLost(t *testing.T) {
	var networks []string
	for i := range 8000 {
		networks = append(networks, fmt.Sprintf("10.%d.%d.0/24", i/256, i%256))
	}
	dir := t.TempDir()
	write(t, dir, "hq.conf", profileText+"AllowedIPs = "+strings.Join(networks, ", ")+"\nAllowedIPs = 192.0.2.0/24\n")
	c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.conf\n"))
	if diff := cmp.Diff(append(networks, "192.0.2.0/24"), c.Rules[1].Match.CIDR); diff != "" {
		t.Errorf("networks of rule %s (-want +got):\n%s", c.Rules[1].Name, diff)
	}
}

func TestAnOpenVPNProfileNeedsNoDNSLine(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "Head Office.ovpn", "remote vpn.example 1194 udp\n")
	c := load1(t, write(t, dir, "laptop.yaml", "profile: Head Office.ovpn\n"))
	if got, want := c.Transports["head-office"].OpenVPN, (&OpenVPN{Config: filepath.Join(dir, "Head Office.ovpn")}); !cmp.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestWhoDecidesWhatGoesThroughAnOpenVPNProfile(t *testing.T) {
	for lines, warning := range map[string]string{
		"": "its server decides", "redirect-gateway def1\n": "", "redirect-gateway ipv6 !ipv4\n": "its server decides",
		"route-nopull\nroute 10.20.0.0 255.255.0.0\n": "only its own routes",
	} {
		dir := t.TempDir()
		write(t, dir, "hq.ovpn", "client\nremote vpn.example 1194 udp\n"+lines)
		c := load1(t, write(t, dir, "laptop.yaml", "profile: hq.ovpn\n"))
		if rest := c.Rules[len(c.Rules)-1]; rest.Do.Via != "hq" || rest.Do.Unrouted != "direct" {
			t.Errorf("%q: got %+v, want what is not routed to go direct", lines, rest)
		}
		if got := strings.Join(c.Warnings(), "\n"); warning == "" && got != "" || !strings.Contains(got, warning) {
			t.Errorf("%q: got warnings %q, want %q", lines, got, warning)
		}
	}
}

func TestAGroupThatHasToSignInIsNotMisspelt(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "server.key", "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=")
	c := load1(t, write(t, dir, "gateway.yaml", `listen: {wireguard: {address: 10.99.0.1/24, private_key: {file: server.key}}}
peers: [{name: ana, public_key: xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=, allowed_ips: 10.99.0.2/32, groups: [staff]}]
sign_in: {oidc: {issuer: "https://login.corp.example", client_id: penstock}, required: [staf, staff]}
rules: [{name: whoever-signs-in, match: {group: engineers}, do: direct}, {name: rest, do: block}]
`))
	got := c.Warnings()
	if len(got) != 1 || !strings.HasSuffix(got[0], `gateway.yaml:3:89: no peer is in group staf, which has to sign in: did you mean "staff"?`) {
		t.Errorf("got %q", got)
	}
}

// full uses every section.
const full = `
version: 1
include: peers.d/*.yaml
listen:
  tun: {name: pen1, address: [10.77.0.1/24, "fd77::1/64"], mtu: 1400, routes: manual, dns: manual, mark: 0x2000000, mark_mask: 0x2000000}
  wireguard: {listen_port: 51821, address: 10.78.0.1/24, private_key: {file: gateway.key}, endpoint: "gw.example:51821"}
transports:
  corp:   {wireguard: {config: corp.conf}, probe: {dns: intranet.corp.example}}
  inline:
    wireguard:
      private_key: {file: gateway.key}
      address: 10.9.0.2/32
      peers:
        public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=
        endpoint: vpn.example:51820
        allowed_ips: 0.0.0.0/0
        persistent_keepalive: 25s
  legacy: {openvpn: {config: legacy.ovpn, require_server_cert: true}}
  best:   {failover: [corp, legacy]}
categories:
  gambling: {lists: [{url: "https://lists.example/gambling.txt", refresh: 12h}, {file: extra.txt, format: hosts}], allow: {file: extra.txt}}
  adult: {}
dns:
  listen: 127.0.0.1:53
  upstreams: [{name: main, address: "tcp://10.0.0.53", via: best}]
  split: {domains: corp.example, upstream: {address: "10.0.0.53:5353", via: corp}}
  block: {answer: "null", ttl: 1m}
rules:
  - {name: no-gambling, match: {category: [gambling, malware]}, do: {action: block, how: drop}}
  - {name: intranet, match: {domain: ["*.corp.example"], group: staff}, do: {via: corp, fallback: direct, trusted: direct, unnamed: block}}
  - {name: admin, match: {gateway: true, port: 22, group: staff}, do: direct}
  - {name: lan, match: {cidr: private, port: [443, 6000-6063], not: {peer: ana}}, do: direct}
  - {name: rest, do: {via: best}}
on_demand: [{if: {ssid: office, beacon: {addr: "10.0.0.9:8443", sha256: 0000000000000000000000000000000000000000000000000000000000000000}}, then: filter_only}, {then: connect}]
always_on: {hold: 10s, lockdown: true, lan: block}
captive_portal: {probe: "http://probe.example/empty", window: 180s}
tests:
  - {from: ana, to: "https://intranet.corp.example", expect: {via: corp}, at: 2026-01-31T21:30:00Z, addr: 10.0.0.1}
  - {to: x.bet, expect: block}
metrics: {listen: "127.0.0.1:9477"}
control: {socket: run/control.sock, group: penstock}
flow_log: {file: flows.log, max_size: 1MiB, keep: 2, journal: true, syslog: /dev/log}
limits: {dials: 10, sniff_time: 1s, dns_cache_size: 1MiB}
`

func loadFull(t *testing.T) *Config {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, "peers.d/ana.yaml", "version: 1\npeers:\n  - {name: ana, public_key: QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=, allowed_ips: 10.78.0.2/32, groups: [staff]}\n")
	write(t, dir, "gateway.key", "2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\n")
	for _, name := range []string{"corp.conf", "legacy.ovpn", "extra.txt"} {
		write(t, dir, name, "\n")
	}
	return load1(t, write(t, dir, "config.yaml", full))
}

func TestTheFullFormIsRead(t *testing.T) {
	c := loadFull(t)
	dir := filepath.Dir(c.Path)
	check := func(what string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got, places); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("files", c.Files, []string{c.Path, filepath.Join(dir, "peers.d", "ana.yaml")})
	check("peers", c.Peers.Slice(), []Peer{{
		Name: "ana", PublicKey: "QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=",
		AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.78.0.2/32")}, Groups: []string{"staff"},
	}})
	check("place of the peer", c.Peers.At(0).Pos, Position{File: filepath.Join(dir, "peers.d", "ana.yaml"), Line: 3, Column: 5})
	check("tun", c.Listen.TUN, &TUN{
		Name: "pen1", Address: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")}, MTU: 1400,
		Routes: "manual", DNS: "manual", Mark: 0x2000000, MarkMask: 0x2000000, Direct: "kernel", StateFile: DefaultStateFile(),
		AddressGiven: true,
	})
	check("wireguard", c.Listen.WireGuard, &WireGuardListen{
		ListenPort: 51821, Address: []netip.Prefix{netip.MustParsePrefix("10.78.0.1/24")},
		PrivateKey: Secret{File: filepath.Join(dir, "gateway.key")}, MTU: 1420, Direct: "kernel", Endpoint: "gw.example:51821", ReuseAfter: 24 * time.Hour,
		QuotaFile: filepath.Join(filepath.Dir(DefaultStateFile()), "quota.json"),
	})
	check("first rule", c.Rules[0].Do, Do{Action: "drop", How: "drop"})
	check("second rule", c.Rules[1].Do, Do{Action: "via", Via: "corp", Fallback: "direct", Trusted: "direct", Unnamed: "block"})
	check("the rule for own services", c.Rules[2].Match, &Match{Gateway: true, Port: []string{"22"}, Group: []string{"staff"}})
	check("fourth rule", c.Rules[3].Match, &Match{CIDR: []string{"private"}, Port: []string{"443", "6000-6063"}, Not: &Match{Peer: []string{"ana"}}})
	check("openvpn", c.Transports["legacy"].OpenVPN, &OpenVPN{Config: filepath.Join(dir, "legacy.ovpn"), RequireServerCert: true})
	check("category", c.Categories["gambling"], Category{
		Lists: []List{{URL: "https://lists.example/gambling.txt", Format: "auto", Refresh: 12 * time.Hour, Via: "direct"},
			{File: filepath.Join(dir, "extra.txt"), Format: "hosts", Refresh: 24 * time.Hour, Via: "direct"}},
		Allow:     []List{{File: filepath.Join(dir, "extra.txt"), Format: "auto", Refresh: 24 * time.Hour, Via: "direct"}},
		OnMissing: "",
	})
	check("captive_portal", c.CaptivePortal, CaptivePortal{Detect: true, Probe: []string{"http://probe.example/empty"}, Window: 3 * time.Minute})
	check("always_on", c.AlwaysOn, AlwaysOn{Hold: 10 * time.Second, Lockdown: true, LAN: "block"})
	check("limits", []any{c.Limits.Dials, c.Limits.SniffTime, c.Limits.DNSCacheSize, c.Limits.UDPIdle}, []any{10, time.Second, Size(1 << 20), 2 * time.Minute})
	check("flow log", c.FlowLog, FlowLog{File: filepath.Join(dir, "flows.log"), MaxSize: 1 << 20, Keep: 2, Journal: true, Syslog: "/dev/log"})
	check("socket", c.Control, Control{Socket: filepath.Join(dir, "run", "control.sock"), Group: "penstock"})
	check("test", c.Tests[0].Expect, Do{Action: "via", Via: "corp"})
	if err := c.Validate(); err != nil {
		t.Errorf("Validate of what Load returned: %v", err)
	}
}

func TestFaultsFoundLaterHaveTheirPlace(t *testing.T) {
	c := loadFull(t)
	err := c.Err("listen.wireguard.listen_port", "port 51821 is in use", "stop what uses it, or choose another")
	want := c.Path + `:6:28: port 51821 is in use: stop what uses it, or choose another
    6 |   wireguard: {listen_port: 51821, address: 10.78.0.1/24, private_key: [hidden], endpoint: "gw.example:51821"}
      |                            ^`
	want = strings.Replace(want, "[hidden]", "{file: gateway.key}", 1)
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("message (-want +got):\n%s", diff)
	}
	if got, want := c.Position("rules[1].match.nothing.of.this").Line, 30; got != want {
		t.Errorf("a value that is not written stands at line %d, want that of what is around it, %d", got, want)
	}
}

func TestStarterCategoriesAndFormatsAreThoseOfBlocklist(t *testing.T) {
	if diff := cmp.Diff(blocklist.StarterCategories(), starter); diff != "" {
		t.Errorf("starter categories (-blocklist +config):\n%s", diff)
	}
	format, _ := reflect.TypeFor[List]().FieldByName("Format")
	for name := range strings.SplitSeq(format.Tag.Get("oneof"), ",") {
		if f, err := blocklist.ParseFormat(name); err != nil || f.String() != name {
			t.Errorf("format %s: blocklist reads %v, %v", name, f, err)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "512": 512, "16KiB": 16 << 10, "10 MiB": 10 << 20, "1GiB": 1 << 30} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "1KB", "MiB", "1e3", "99999999999GiB"} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
	if got, want := Size(10<<20).String(), "10MiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestUpstreamAddresses(t *testing.T) {
	for address, want := range map[string]bool{
		"10.0.0.53": true, "10.0.0.53:5353": true, "fd00::53": true, "[fd00::53]:53": true, "udp://10.0.0.53": true, "tcp://[fd00::53]:53": true,
		"tls://dns.example": true, "tls://192.0.2.1:8853": true, "https://dns.example/dns-query": true, "https://192.0.2.1/dns-query": true,
		"dns.example": false, "udp://dns.example": false, "10.0.0.53:0": false, "quic://dns.example": true, "h3://dns.example/dns-query": true, "quic://dns.example/x": false, "https:///dns-query": false,
		"https://user@dns.example/": false, "tls://dns.example/path": false, "": false,
	} {
		if got := isUpstream(address); got != want {
			t.Errorf("%q: got %v, want %v", address, got, want)
		}
	}
}

func TestLockdownLooksForPortalsOnlyWhenAsked(t *testing.T) {
	for text, want := range map[string]bool{
		"":                              true,
		"always_on: {lockdown: true}\n": false,
		"always_on: {lockdown: true}\ncaptive_portal: {detect: true}\n":  true,
		"always_on: {lockdown: true}\ncaptive_portal: {window: 3m}\n":    true,
		"captive_portal: {detect: false}\nalways_on: {lockdown: true}\n": false,
		"always_on: {lockdown: false}\ncaptive_portal: {window: 3m}\n":   true,
	} {
		c, err := Parse("/etc/penstock/config.yaml", []byte(text+"listen: {tun: {}}\nrules: [{name: rest, do: direct}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if c.CaptivePortal.Detect != want {
			t.Errorf("%q: got detect %v, want %v", text, c.CaptivePortal.Detect, want)
		}
	}
}
