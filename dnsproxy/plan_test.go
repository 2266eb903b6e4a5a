package dnsproxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/policy"
)

// TestCompileFindsWhatIsWrong: each mistake is one sentence, which names the value and the mend.
func TestCompileFindsWhatIsWrong(t *testing.T) {
	up := []Upstream{{Address: "10.0.0.53"}}
	own := []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("10.77.0.1:0")}
	zone := func(domains ...string) Zone { return Zone{Domains: domains, Upstreams: up} }
	tests := []struct {
		says     string
		settings Settings
		want     string
	}{
		{"nothing", Settings{}, ""},
		{"a scheme that is none", Settings{Upstreams: []Upstream{{Address: "ftp://10.0.0.53"}}}, `dnsproxy: upstream address "ftp://10.0.0.53": scheme must be udp, tcp, tls, https, quic or h3`},
		{"a port that is none", Settings{Upstreams: []Upstream{{Address: "tls://1.2.3.4:99999"}}}, `dnsproxy: upstream address "tls://1.2.3.4:99999": port must be 1 to 65535`},
		{"a path where none belongs", Settings{Upstreams: []Upstream{{Address: "tls://10.0.0.53/dns-query"}}}, `dnsproxy: upstream address "tls://10.0.0.53/dns-query": only https and h3 have a path`},
		{"a host that is none", Settings{Upstreams: []Upstream{{Address: "tls://dns..example"}}}, `dnsproxy: upstream address "tls://dns..example": "dns..example" is not a host name`},
		{"a host in letters of the world", Settings{Upstreams: []Upstream{{Address: "tls://bücher.example"}}}, `dnsproxy: upstream address "tls://bücher.example": write the host as xn--bcher-kva.example`},
		{"a host in capitals", Settings{Upstreams: []Upstream{{Address: "tls://DNS.example."}}}, ""},
		{"an own address", Settings{Upstreams: []Upstream{{Address: "127.0.0.1"}}, Self: own}, `dnsproxy: upstream address "127.0.0.1" leads back to this server at 127.0.0.1:53: name another resolver`},
		{"an own address in another form", Settings{Upstreams: []Upstream{{Address: "[::ffff:127.0.0.1]:53"}}, Self: own}, `dnsproxy: upstream address "[::ffff:127.0.0.1]:53" leads back to this server at 127.0.0.1:53: name another resolver`},
		{"an own address by bootstrap, in a zone", Settings{Zones: []Zone{{Domains: []string{"a.example"}, Upstreams: []Upstream{{Address: "https://dns.example", Bootstrap: []netip.Addr{netip.MustParseAddr("10.77.0.1")}}}}}, Self: own},
			`dnsproxy: upstream address "https://dns.example" leads back to this server at 10.77.0.1:443: name another resolver`},
		{"an own address at another port", Settings{Upstreams: []Upstream{{Address: "127.0.0.1:5353"}}, Self: own}, ""},
		{"a zone without upstream", Settings{Zones: []Zone{{Domains: []string{"a.example"}}}}, `dnsproxy: zone ["a.example"] has no upstream: name the resolver for it`},
		{"a zone without domain", Settings{Zones: []Zone{{Upstreams: up}}}, "dnsproxy: a zone has no domain: name the domains that its upstreams are for"},
		{"a zone that is none", Settings{Zones: []Zone{zone("a..example")}}, `dnsproxy: domain "a..example" is not a domain name: write one such as corp.example or *.corp.example`},
		{"a zone with a port", Settings{Zones: []Zone{zone("a.example:53")}}, `dnsproxy: domain "a.example:53" has a port or is an address: write a domain such as corp.example`},
		{"a private domain that is none", Settings{AllowPrivate: []string{"a..b"}}, `dnsproxy: domain "a..b" is not a domain name: write one such as corp.example or *.corp.example`},
		{"a domain in two zones", Settings{Zones: []Zone{zone("a.example"), zone("b.example", "*.A.example.")}},
			`dnsproxy: domain "*.A.example." is in two zones, ["a.example"] and ["b.example" "*.A.example."]: leave it in one`},
		{"a domain twice in one zone", Settings{Zones: []Zone{zone("corp.example", "*.corp.example", "CORP.example.")}}, ""},
		{"domains in letters of the world", Settings{Zones: []Zone{zone("bücher.example", "*.пример.example")}, AllowPrivate: []string{"Müller.example", "."}}, ""},
		{"one domain in two spellings in two zones", Settings{Zones: []Zone{zone("bücher.example"), zone("xn--bcher-kva.example")}},
			`dnsproxy: domain "xn--bcher-kva.example" is in two zones, ["bücher.example"] and ["xn--bcher-kva.example"]: leave it in one`},
		{"a domain with an underscore, a reverse zone", Settings{Zones: []Zone{zone("_msdcs.corp.example", "10.in-addr.arpa")}}, ""},
		{"an answer without addresses", Settings{Block: BlockAnswer{Mode: BlockAddress}}, "dnsproxy: a block answer of addresses has none: name one, or choose another answer"},
		{"two mistakes", Settings{Upstreams: []Upstream{{Address: "tls://"}}, AllowPrivate: []string{""}},
			"dnsproxy: upstream address \"tls://\": no host\ndnsproxy: domain \"\" is not a domain name: write one such as corp.example or *.corp.example"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			got := ""
			p, err := Compile(tt.settings)
			if err != nil {
				got = err.Error()
			}
			if got != tt.want || (p == nil) != (err != nil) {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

// TestZonesOfTheWorld: a zone is found by the name that clients ask for, however the configuration spells it.
func TestZonesOfTheWorld(t *testing.T) {
	public := newResolver(t)
	corp := newResolver(t, "www.xn--bcher-kva.example. 300 IN A 10.0.0.80", "corp.example. 300 IN A 10.0.0.81", "a.corp.example. 300 IN A 10.0.0.82")
	home := newResolver(t, "nas.xn--mller-kva.example. 300 IN A 192.168.1.2")
	s := newServer(t, Settings{
		Upstreams:    []Upstream{named("home", home), named("public", public)},
		AllowPrivate: []string{"Müller.example"},
		Zones:        []Zone{{Domains: []string{"Bücher.example", "corp.example", "*.corp.example"}, Upstreams: []Upstream{named("corp", corp)}}},
	})
	for name, want := range map[string]string{
		"www.xn--bcher-kva.example": "NOERROR 10.0.0.80", "corp.example": "NOERROR 10.0.0.81", "a.corp.example": "NOERROR 10.0.0.82",
		"nas.xn--mller-kva.example": "NOERROR 192.168.1.2",
	} {
		if got := brief(ask(t, s, name, "A")); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// TestUseKeepsConnections: an upstream that stays the same keeps its connection over a change of plan; Reconnect drops it.
func TestUseKeepsConnections(t *testing.T) {
	up := newResolver(t, "www.example. 0 IN A 203.0.113.1")
	secure := dnstest.NewSecure(t, up)
	set := Settings{Upstreams: []Upstream{{Name: "main", Address: "tls://dns.example:" + secure.DoT, Bootstrap: dnstest.Loopback()}}}
	s := newServer(t, set, trusting(secure.Client))
	conns := func(want int32, when string) {
		t.Helper()
		if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
			t.Errorf("%s: got %s, want %s", when, got, want)
		}
		if got := secure.Conns.Load(); got != want {
			t.Errorf("%s: got %d connections so far, want %d", when, got, want)
		}
	}
	conns(1, "at first")
	set.StripECH = true
	s.Use(plan(t, set))
	conns(1, "after a change that is not about the upstream")
	s.Reconnect()
	conns(2, "after a change of network")
	set.Upstreams[0].Name = "other"
	s.Use(plan(t, set))
	conns(3, "after a change of the upstream")
	before := s.state.Load().groups[0]
	s.Use(plan(t, set))
	if s.state.Load().groups[0] == before {
		t.Error("the plan was not put in force")
	}
}

// TestOnePlanForTwoServers: a plan belongs to no server.
func TestOnePlanForTwoServers(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	p := plan(t, Settings{Upstreams: []Upstream{named("main", up)}})
	for range 2 {
		s := newServer(t, Settings{})
		s.Use(p)
		if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if _, err := New(Config{}, nil); err == nil {
		t.Error("a server without a plan: got no error")
	}
}

// TestAPlanDoesNotFollowItsSettings: what the caller does with the settings afterwards changes nothing.
func TestAPlanDoesNotFollowItsSettings(t *testing.T) {
	set := Settings{
		Clients: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Self: []netip.AddrPort{netip.MustParseAddrPort("10.0.0.1:53")},
		BlockCategories: map[string]BlockAnswer{"ads": {Mode: BlockNull}},
	}
	p := plan(t, set)
	set.Clients[0], set.Self[0] = netip.Prefix{}, netip.AddrPort{}
	set.BlockCategories["ads"] = BlockAnswer{Mode: BlockRefused}
	if !p.serves(netip.MustParseAddr("10.1.1.1")) || !p.self(netip.MustParseAddrPort("10.0.0.1:53")) || p.block(policy.Verdict{Category: "ads"}).Mode != BlockNull {
		t.Error("the plan changed with its settings")
	}
}

// TestClientsGetTheUpstreamsCode: a failure of the upstream reaches the client as the upstream gave it.
func TestClientsGetTheUpstreamsCode(t *testing.T) {
	up := newResolver(t)
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		a := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).SetEdns0(1232, false)
		switch {
		case strings.HasPrefix(q.Question[0].Name, "bogus"):
			a.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: "signature expired"}}
		case strings.HasPrefix(q.Question[0].Name, "refused"):
			a.Rcode = dns.RcodeRefused
		}
		w.WriteMsg(a)
		return true
	})
	for name, want := range map[string]string{
		"bogus.example": "SERVFAIL edeDNSSEC Bogus", "refused.example": "REFUSED edeNo Reachable Authority", "plain.example": "SERVFAIL edeNo Reachable Authority",
	} {
		for _, from := range []string{"upstream", "cache"} {
			if got := brief(ask(t, s, name, "A")); got != want {
				t.Errorf("%s from %s: got %s, want %s", name, from, got, want)
			}
		}
	}
	if a, err := s.Query(t.Context(), anaFlow(), "bogus.example", "A"); err != nil || a.Reason != "signature expired" {
		t.Errorf("reason: got %q, %v, want what the upstream said", a.Reason, err)
	}
	if got := len(up.Queries()); got != 3 {
		t.Errorf("upstream queries: got %d, want 3: failures are remembered for a while", got)
	}
}

// TestAnEndedQuestionIsNoFailure: that a client went says nothing about the name.
func TestAnEndedQuestionIsNoFailure(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	asked := make(chan struct{}, 4)
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { asked <- struct{}{}; return true })
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	done := make(chan error)
	go func() {
		_, err := s.Confirm(t.Context(), policy.Flow{Client: 1, Src: ana, Dst: ana}, "www.example")
		done <- err
	}()
	<-asked
	s.CloseClient(1)
	<-done
	s.tasks.wait() // until the flight has ended
	up.AnswerWith(nil)
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.1"; got != want {
		t.Errorf("another client's question: got %s, want %s", got, want)
	}
}
