package push

import (
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/router/transport/openvpn/internal/certtest"
	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/framing"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/profile"
)

func parseOptions(t testing.TB, message string) *Options {
	t.Helper()
	var l List
	if _, err := l.Add(message); err != nil {
		t.Fatal(err)
	}
	o, err := l.Parse(&profile.Profile{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// withLines is a profile with these lines.
func withLines(t testing.TB, lines string) *profile.Profile {
	t.Helper()
	p, _, err := profile.Parse(strings.NewReader("client\nremote vpn.example\n"+lines+certtest.Inline("peer-fingerprint", strings.Repeat("ab:", 31)+"ab\n")), "x.ovpn", profile.Files{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The message was seen from a real server.
func TestParseSeenOnTheWire(t *testing.T) {
	p := parseOptions(t, "dhcp-option DNS 10.8.21.1,dhcp-option DOMAIN corp.test,route 192.168.77.0 255.255.255.0,redirect-gateway def1,"+
		"dns server 0 address 10.8.21.1:53 10.8.21.3,dns server 0 resolve-domains corp.test,route-ipv6 fd00::/8,tun-ipv6,route-gateway 10.8.21.1,"+
		"topology subnet,ping 3,ping-restart 12,ifconfig-ipv6 fd42:21::1000/64 fd42:21::1,ifconfig 10.8.21.2 255.255.255.0,peer-id 1,"+
		"auth-token SESS_ID_AT_xyz,cipher AES-256-GCM,protocol-flags cc-exit tls-ekm dyn-tls-crypt,tun-mtu 1500")
	want := Settings{
		Addrs:    []netip.Prefix{netip.MustParsePrefix("10.8.21.2/24"), netip.MustParsePrefix("fd42:21::1000/64")},
		MTU:      1500,
		Gateway4: netip.MustParseAddr("10.8.21.1"), Gateway6: netip.MustParseAddr("fd42:21::1"),
		Routes:    []Route{{Prefix: netip.MustParsePrefix("192.168.77.0/24")}, {Prefix: netip.MustParsePrefix("fd00::/8")}},
		Redirect4: true,
		DNS: []DNSServer{{
			Addrs:   []netip.AddrPort{netip.MustParseAddrPort("10.8.21.1:53"), netip.MustParseAddrPort("10.8.21.3:53")},
			Domains: []string{"corp.test"}, Transport: "plain",
		}},
		SearchDomains: []string{"corp.test"},
	}
	if !reflect.DeepEqual(p.Settings, want) {
		t.Errorf("Settings:\ngot  %+v\nwant %+v", p.Settings, want)
	}
	if p.PeerID != 1 || !p.V2 || p.Cipher != datakey.AES256GCM || !p.Exporter || !p.DynamicWrap || !p.ControlExit || p.Epoch || p.Token != "SESS_ID_AT_xyz" || p.Ping != 3*time.Second || p.PingRestart != 12*time.Second {
		t.Errorf("got %+v", p)
	}
	if len(p.Problems) != 0 {
		t.Errorf("problems: %v", p.Problems)
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		name, options string
		check         func(p *Options) bool
	}{
		{"topology net30", "topology net30,ifconfig 10.8.0.6 10.8.0.5", func(p *Options) bool {
			return p.Addrs[0] == netip.MustParsePrefix("10.8.0.6/32") && p.Gateway4 == netip.MustParseAddr("10.8.0.5")
		}},
		{"a server that pushes no topology", "ifconfig 10.8.0.6 255.255.255.0", func(p *Options) bool { return p.Addrs[0].Bits() == 24 }},
		{"a peer address that looks like a mask to the eye only", "ifconfig 10.8.0.6 192.0.0.1", func(p *Options) bool { return p.Addrs[0].Bits() == 32 }},
		{"peer id 0", "peer-id 0", func(p *Options) bool { return p.V2 && p.PeerID == 0 }},
		{"no peer id", "ping 1", func(p *Options) bool { return !p.V2 }},
		{"a peer id of 25 bits", "peer-id 16777216", func(p *Options) bool { return !p.V2 && len(p.Problems) == 1 }},
		{"the old flag of exporter keys", "key-derivation tls-ekm", func(p *Options) bool { return p.Exporter }},
		{"a route to a host with all words", "route 10.1.2.3 255.255.255.255 net_gateway 7", func(p *Options) bool {
			return p.Routes[0] == Route{Prefix: netip.MustParsePrefix("10.1.2.3/32"), Outside: true, Metric: 7}
		}},
		{"a route with a gateway", "route 10.1.0.0 255.255.0.0 10.8.0.1", func(p *Options) bool { return p.Routes[0].Gateway == netip.MustParseAddr("10.8.0.1") }},
		{"a route to a name", "route intranet.corp", func(p *Options) bool {
			return len(p.Routes) == 0 && len(p.Problems) == 1 && errors.Is(p.Problems[0], ErrRoute)
		}},
		{"a mask with holes", "route 10.0.0.0 255.0.255.0", func(p *Options) bool { return len(p.Routes) == 0 && len(p.Problems) == 1 }},
		{"a bad IPv6 route", "route-ipv6 10.0.0.0/8,route-ipv6 x,route-ipv6", func(p *Options) bool { return len(p.Routes) == 0 && len(p.Problems) == 3 }},
		{"IPv6 redirected and not IPv4", "redirect-gateway ipv6 !ipv4", func(p *Options) bool { return p.Redirect6 && !p.Redirect4 }},
		{"an IPv6 route to a host", "route-ipv6 fd00::1", func(p *Options) bool {
			return len(p.Routes) == 1 && p.Routes[0].Prefix == netip.MustParsePrefix("fd00::1/128")
		}},
		{"two lines that redirect add up", "redirect-gateway def1 ipv6,redirect-gateway !ipv4", func(p *Options) bool { return p.Redirect4 && p.Redirect6 }},
		{"servers by priority", "dns server 5 address 10.0.0.5,dns server -3 address [fd00::3]:5353 fd00::4,dns server -3 transport DoT,dns server -3 sni dns.corp,dns server -3 dnssec optional", func(p *Options) bool {
			return len(p.DNS) == 2 && p.DNS[0].Addrs[0] == netip.MustParseAddrPort("[fd00::3]:5353") && p.DNS[0].Transport == "DoT" && p.DNS[0].SNI == "dns.corp" && p.DNS[0].DNSSEC == "optional" && p.DNS[1].Addrs[0].Port() == 53
		}},
		{"dns without an address", "dns server 1 resolve-domains a,dhcp-option DNS6 fd00::1", func(p *Options) bool { return len(p.DNS) == 1 && len(p.Problems) == 1 }},
		{"search domains of both kinds", "dns search-domains a b,dhcp-option DOMAIN c", func(p *Options) bool { return slices.Equal(p.SearchDomains, []string{"a", "b"}) }},
		{"domains that the server is for", "dhcp-option DNS 10.20.0.53,dhcp-option DOMAIN-ROUTE corp.local,dhcp-option DOMAIN office.local", func(p *Options) bool {
			return len(p.DNS) == 1 && slices.Equal(p.DNS[0].Domains, []string{"corp.local", "office.local"})
		}},
		{"all domains as systemd writes them", "dhcp-option DNS 10.20.0.53,dhcp-option DOMAIN-ROUTE corp.local,dhcp-option DOMAIN-ROUTE ~.", func(p *Options) bool {
			return len(p.DNS) == 1 && p.DNS[0].Domains == nil
		}},
		{"all domains of a dns server", "dns server 1 address 10.20.0.53,dns server 1 resolve-domains corp.local .", func(p *Options) bool {
			return len(p.DNS) == 1 && p.DNS[0].Domains == nil
		}},
		{"all domains", "dhcp-option DNS 10.20.0.53,dhcp-option DOMAIN-ROUTE corp.local,dhcp-option DOMAIN-ROUTE .", func(p *Options) bool {
			return len(p.DNS) == 1 && p.DNS[0].Domains == nil
		}},
		{"repeated search domains", "dhcp-option DOMAIN c,dhcp-option DOMAIN-SEARCH d,dhcp-option ADAPTER_DOMAIN_SUFFIX c", func(p *Options) bool { return slices.Equal(p.SearchDomains, []string{"c", "d"}) }},
		{"other dhcp options", "dhcp-option WINS 10.0.0.1,dhcp-option DNS", func(p *Options) bool { return len(p.Problems) == 2 }},
		{"refusals for other traffic", "block-ipv6,block-outside-dns", func(p *Options) bool { return p.BlockIPv6 && p.BlockOtherDNS }},
		{"a mark on each packet", "comp-lzo no", func(p *Options) bool { return p.Framed && p.Framing == framing.Byte }},
		{"marks, in short", "compress", func(p *Options) bool { return p.Framed && p.Framing == framing.Swap }},
		{"marks of the second version", "compress stub-v2", func(p *Options) bool { return p.Framed && p.Framing == framing.V2 }},
		{"no marks", "ping 1", func(p *Options) bool { return !p.Framed }},
		{"an unknown option", "frobnicate 7", func(p *Options) bool { return len(p.Problems) == 1 }},
		{"an open quote", "route \"1", func(p *Options) bool { return len(p.Problems) == 1 }},
		{"a huge time", "ping 4000000000,ping-restart 2000000000", func(p *Options) bool { return p.Ping == 0 && p.PingRestart == text.MaxSeconds*time.Second }},
		{"a token's user", "auth-token T,auth-token-user YW5h", func(p *Options) bool { return p.TokenUser == "ana" && p.Token == "T" }},
		{"options without values", "ifconfig,ifconfig-ipv6,route,route-gateway,ping,peer-id,tun-mtu,dns,dhcp-option,auth-token-user,cipher,topology", func(p *Options) bool { return p.Cipher == "" && len(p.Addrs) == 0 }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if p := parseOptions(t, tt.options); !tt.check(p) {
				t.Errorf("got %+v", p)
			}
		})
	}
}

func TestPushUpdate(t *testing.T) {
	start := []string{"route 10.0.0.0 255.0.0.0", "route 11.0.0.0 255.0.0.0", "route-gateway 10.8.0.1", "dhcp-option DNS 1.1.1.1", "cipher AES-256-GCM"}
	tests := []struct {
		name, update string
		want         []string
	}{
		{"replaces the groups it names", "route 12.0.0.0 255.0.0.0,route 13.0.0.0 255.0.0.0", []string{"route-gateway 10.8.0.1", "dhcp-option DNS 1.1.1.1", "cipher AES-256-GCM", "route 12.0.0.0 255.0.0.0", "route 13.0.0.0 255.0.0.0"}},
		{"removes with a minus", "-route,?-dhcp-option", []string{"route-gateway 10.8.0.1", "cipher AES-256-GCM"}},
		{"leaves keys and the unknown alone", "cipher none,?frobnicate,peer-id 3", start},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := List{options: slices.Clone(start)}
			if complete, err := l.Change(tt.update); err != nil || !complete {
				t.Fatalf("got %v, %v", complete, err)
			}
			if !slices.Equal(l.options, tt.want) {
				t.Errorf("got %q, want %q", l.options, tt.want)
			}
		})
	}
}

func TestPushIsBounded(t *testing.T) {
	var l List
	message := strings.Repeat("route 10.0.0.0 255.0.0.0,", 1000) + "push-continuation 2"
	for range 100 {
		if _, err := l.Add(message); err != nil {
			return
		}
	}
	t.Error("endless options: got no error")
}

func TestUpdatesDoNotAddUp(t *testing.T) {
	var l List
	update := strings.Repeat("route 10.0.0.0 255.0.0.0,", 1000)
	for i := range 100 {
		if _, err := l.Change(update); err != nil {
			t.Fatalf("update %d: %v", i, err)
		}
	}
	if _, err := l.Change(strings.Repeat(update, 20)); err == nil {
		t.Error("an update that is too large: got no error")
	}
}

func TestTheServerComesAfterTheProfile(t *testing.T) {
	var l List
	if _, err := l.Add("route 10.2.0.0 255.255.0.0,tun-mtu 1300"); err != nil {
		t.Fatal(err)
	}
	o, err := l.Parse(withLines(t, "route 10.1.0.0 255.255.0.0\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []Route{{Prefix: netip.MustParsePrefix("10.1.0.0/16")}, {Prefix: netip.MustParsePrefix("10.2.0.0/16")}}
	if !slices.Equal(o.Routes, want) {
		t.Errorf("got %v, want %v", o.Routes, want)
	}
}

func TestLaterMessages(t *testing.T) {
	o, err := ParseLater("auth-token T2")
	if err != nil || o.Token != "T2" {
		t.Errorf("got %v, want the token", err)
	}
	for _, bad := range []string{"compress lz4", strings.Repeat("route 10.0.0.0 255.0.0.0,", 20000)} {
		if _, err := ParseLater(bad); err == nil {
			t.Errorf("%.20s: got no error", bad)
		}
	}
}

func TestPullFilters(t *testing.T) {
	pushed := []string{"route 10.0.0.0 255.0.0.0", "route-gateway 10.8.0.1", "dhcp-option DNS 1.1.1.1", "ifconfig 1.2.3.4 255.255.255.0"}
	tests := []struct {
		name  string
		lines string
		want  []string
	}{
		{"none", "", pushed},
		{"ignore by prefix", "pull-filter ignore route\n", pushed[2:]},
		{"the first match wins", "pull-filter accept \"route \"\npull-filter ignore route\n", []string{pushed[0], pushed[2], pushed[3]}},
		{"route-nopull", "route-nopull\n", pushed[3:]},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := filter(withLines(t, tt.lines), pushed)
			if err != nil || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, err := filter(withLines(t, "pull-filter reject dhcp\n"), pushed); err == nil {
		t.Error("reject: got no error")
	}
}

func TestMTU(t *testing.T) {
	tests := []struct {
		name    string
		network string
		server  string
		pushed  string
		profile int
		want    int
	}{
		{"UDP over IPv4", "udp", "192.0.2.1:1", "tun-mtu 1500", 0, 1440},
		{"UDP over IPv6", "udp", "[2001:db8::1]:1", "tun-mtu 1500", 0, 1420},
		{"the epoch format", "udp", "192.0.2.1:1", "tun-mtu 1500,protocol-flags aead-epoch", 0, 1436},
		{"marks on packets", "udp", "192.0.2.1:1", "tun-mtu 1500,comp-lzo no", 0, 1439},
		{"a smaller one pushed", "udp", "192.0.2.1:1", "tun-mtu 1300", 0, 1300},
		{"none pushed", "udp", "192.0.2.1:1", "ping 1", 0, 1400},
		{"the profile's, if none is pushed", "udp", "192.0.2.1:1", "ping 1", 1280, 1280},
		{"TCP, where nothing has to fit", "tcp", "192.0.2.1:1", "tun-mtu 1500", 0, 1500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := parseOptions(t, tt.pushed)
			server := netip.MustParseAddrPort(tt.server)
			p.Finish(tt.network == "tcp", server, tt.profile)
			if p.Server != server {
				t.Errorf("server: got %v", p.Server)
			}
			if p.MTU != tt.want {
				t.Errorf("got %d, want %d", p.MTU, tt.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("ifconfig 10.8.21.2 255.255.255.0,topology subnet,route 1.2.3.4,dns server 0 address 10.8.21.1:53,peer-id 1", "-route,?dns x,ifconfig 1.2.3.4 5.6.7.8")
	f.Add("route-ipv6 fd00::/8 net_gateway 5,dhcp-option DNS 1.1.1.1,redirect-gateway ipv6,push-continuation 2", "push-continuation 2")
	f.Add("ping \"1\",auth-token 'x y',cipher \\A,protocol-flags aead-epoch tls-ekm,tun-mtu 1500", "")
	f.Fuzz(func(t *testing.T, reply, update string) {
		var l List
		if _, err := l.Add(reply); err != nil {
			return
		}
		_, _ = l.Change(update)
		p, err := l.Parse(&profile.Profile{})
		if err != nil {
			return
		}
		for _, a := range p.Addrs {
			if !a.IsValid() {
				t.Errorf("address %v", a)
			}
		}
		for _, r := range p.Routes {
			if !r.Prefix.IsValid() {
				t.Errorf("route %v", r)
			}
		}
	})
}
