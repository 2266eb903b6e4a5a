package dnsproxy

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/policy"
)

// TestAnswers asks one server in one configuration: each row is a sentence about what a client sees.
func TestAnswers(t *testing.T) {
	public := newResolver(t,
		"www.example. 300 IN A 203.0.113.1",
		"www.example. 300 IN AAAA 2001:db8::1",
		"www.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.1 ech=AEX+DQBB",
		"cdn.example. 300 IN CNAME edge.cloud.example.",
		"edge.cloud.example. 300 IN A 203.0.113.2",
		"shop.example. 300 IN CNAME tracker.example.",
		"tracker.example. 300 IN A 203.0.113.3",
		"svc.example. 300 IN HTTPS 1 tracker.example. alpn=h2",
		"rebind.example. 300 IN A 192.168.1.1",
		"rebind.example. 300 IN A 203.0.113.4",
		"router.example. 300 IN A 192.168.1.1",
		"mapped.example. 300 IN AAAA ::ffff:10.0.0.1",
		"hint.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1,203.0.113.5",
		"nas.home.example. 300 IN A 192.168.1.2",
		"intranet.corp.example. 300 IN A 203.0.113.66",
		"1.0.0.10.in-addr.arpa. 300 IN PTR leaked.example.",
		"8.8.8.8.in-addr.arpa. 300 IN PTR dns.example.",
	)
	corp := newResolver(t,
		"intranet.corp.example. 300 IN A 10.0.0.80",
		"intranet.corp.example. 300 IN HTTPS 1 . ipv4hint=10.0.0.80",
		"casino.corp.example. 300 IN A 10.0.0.81",
		"7.0.0.10.in-addr.arpa. 300 IN PTR intranet.corp.example.",
	)
	lab := newResolver(t, "host.lab.corp.example. 300 IN A 10.9.0.1")
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", public)},
		Zones: []Zone{
			{Domains: []string{"corp.example", "0.0.10.in-addr.arpa"}, Upstreams: []Upstream{named("corp", corp)}},
			{Domains: []string{"*.lab.corp.example"}, Upstreams: []Upstream{named("lab", lab)}},
		},
		BlockCategories: map[string]BlockAnswer{
			"malware": {Mode: BlockRefused},
			"ads":     {Mode: BlockNull},
		},
		StripECH:     true,
		AllowPrivate: []string{"home.example"},
	}, judged(blocks(map[string]string{"casino.example": "gambling", "tracker.example": "tracking", "casino.corp.example": "gambling", "malware.example": "malware", "ads.example": "ads"})))
	tests := []struct{ says, name, qtype, want string }{
		{"a public name is resolved", "www.example", "A", "NOERROR 203.0.113.1"},
		{"so is its IPv6 address", "www.example", "AAAA", "NOERROR 2001:db8::1"},
		{"a chain is given whole", "cdn.example", "A", "NOERROR edge.cloud.example. 203.0.113.2"},
		{"a name that does not exist does not exist", "nobody.example", "A", "NXDOMAIN soa"},
		{"a type that is not there is no data", "www.example", "MX", "NOERROR soa"},
		{"a blocked name does not exist, and the answer says why", "casino.example", "A", "NXDOMAIN soa edeFiltered"},
		{"a name below a blocked one does not exist", "www.casino.example", "A", "NXDOMAIN soa edeFiltered"},
		{"upper case does not help", "WWW.CASINO.EXAMPLE", "A", "NXDOMAIN soa edeFiltered"},
		{"every type of a blocked name is blocked", "casino.example", "TXT", "NXDOMAIN soa edeFiltered"},
		{"HTTPS of a blocked name is blocked", "casino.example", "HTTPS", "NXDOMAIN soa edeFiltered"},
		{"ANY of a blocked name is blocked", "casino.example", "ANY", "NXDOMAIN soa edeFiltered"},
		{"a category may be refused", "malware.example", "A", "REFUSED edeFiltered"},
		{"a category may have a null address", "ads.example", "A", "NOERROR 0.0.0.0 edeFiltered"},
		{"a null address is IPv6 for AAAA", "ads.example", "AAAA", "NOERROR :: edeFiltered"},
		{"a null address is no data for other types", "ads.example", "HTTPS", "NOERROR soa edeFiltered"},
		{"an alias of a blocked name is blocked", "shop.example", "A", "NXDOMAIN soa edeFiltered"},
		{"an HTTPS target that is blocked blocks", "svc.example", "HTTPS", "NXDOMAIN soa edeFiltered"},
		{"ech is stripped, the rest stays", "www.example", "HTTPS", `NOERROR 1 . alpn="h2" ipv4hint="203.0.113.1"`},
		{"a private address of a public name is taken out", "rebind.example", "A", "NOERROR 203.0.113.4"},
		{"with nothing left there is no data, and the answer says why", "router.example", "A", "NOERROR edeBlocked"},
		{"a mapped private address is taken out", "mapped.example", "AAAA", "NOERROR edeBlocked"},
		{"a private hint is taken out", "hint.example", "HTTPS", `NOERROR 1 . alpn="h2" ipv4hint="203.0.113.5"`},
		{"an allowed domain may have private addresses", "nas.home.example", "A", "NOERROR 192.168.1.2"},
		{"a name of a zone is asked of the zone's upstream", "intranet.corp.example", "A", "NOERROR 10.0.0.80"},
		{"hints of a zone may be private", "intranet.corp.example", "HTTPS", `NOERROR 1 . ipv4hint="10.0.0.80"`},
		{"the longest zone wins", "host.lab.corp.example", "A", "NOERROR 10.9.0.1"},
		{"a zone is filtered like the rest", "casino.corp.example", "A", "NXDOMAIN soa edeFiltered"},
		{"a private reverse name is answered locally", "1.1.168.192.in-addr.arpa", "PTR", "NXDOMAIN soa"},
		{"172.16/12 is private", "1.0.31.172.in-addr.arpa", "PTR", "NXDOMAIN soa"},
		{"a ULA is private", strings.Repeat("0.", 30) + "d.f.ip6.arpa", "PTR", "NXDOMAIN soa"},
		{"a private reverse name with a zone is asked there", "7.0.0.10.in-addr.arpa", "PTR", "NOERROR intranet.corp.example."},
		{"a public reverse name is resolved", "8.8.8.8.in-addr.arpa", "PTR", "NOERROR dns.example."},
		{"localhost is this host", "localhost", "A", "NOERROR 127.0.0.1"},
		{"names below localhost are too", "a.localhost", "AAAA", "NOERROR ::1"},
		{"localhost has nothing else", "localhost", "MX", "NOERROR soa"},
		{"test is nobody's", "a.test", "A", "NXDOMAIN soa"},
		{"invalid is nobody's", "invalid", "A", "NXDOMAIN soa"},
		{"onion does not leak", "facebook.onion", "A", "NXDOMAIN soa"},
		{"local does not leak", "printer.local", "A", "NXDOMAIN soa"},
		{"home.arpa does not leak", "tv.home.arpa", "A", "NXDOMAIN soa"},
		{"ipv4only.arpa is known", "ipv4only.arpa", "A", "NOERROR 192.0.0.170"},
		{"ipv4only.arpa has no IPv6", "ipv4only.arpa", "AAAA", "NOERROR soa"},
		{"Firefox keeps to this server", "use-application-dns.net", "A", "NXDOMAIN soa"},
		{"and does for every type", "use-application-dns.net", "TXT", "NXDOMAIN soa"},
		{"iCloud keeps to this server", "mask.icloud.com", "A", "NXDOMAIN soa"},
		{"under each of its names", "mask-h2.icloud.com", "AAAA", "NXDOMAIN soa"},
		{"there is no designated resolver to discover", "_dns.resolver.arpa", "SVCB", "NOERROR soa"},
		{"ANY is answered with HINFO", "www.example", "ANY", `NOERROR "RFC8482" ""`},
		{"a zone transfer is refused", "www.example", "AXFR", "REFUSED edeNot Supported"},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			for _, from := range []string{"upstream", "cache"} {
				if got := brief(ask(t, s, tt.name, tt.qtype)); got != tt.want {
					t.Errorf("%s %s from %s: got %s, want %s", tt.name, tt.qtype, from, got, tt.want)
				}
			}
		})
	}
	for _, q := range public.Queries() {
		for _, inner := range []string{"corp.example.", "10.in-addr.arpa.", "casino.example.", "local.", "onion.", "resolver.arpa."} {
			if dns.IsSubDomain(inner, strings.ToLower(q.Question[0].Name)) {
				t.Errorf("the public upstream was asked for %s", q.Question[0].Name)
			}
		}
	}
}

// TestZoneNeverFallsBack: a zone whose upstream is down answers SERVFAIL at once, and the public upstream hears nothing.
func TestZoneNeverFallsBack(t *testing.T) {
	public := newResolver(t, "intranet.corp.example. 300 IN A 203.0.113.66")
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", public)},
		Zones:     []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{{Address: "10.0.0.53", Via: "way"}}}},
	}, through(downDialer{}))
	if got, want := brief(ask(t, s, "intranet.corp.example", "A")), "SERVFAIL edeNetwork Error"; got != want {
		t.Errorf("zone with a dead upstream: got %s, want %s", got, want)
	}
	if n := len(public.Queries()); n != 0 {
		t.Errorf("the public upstream got %d queries, want 0", n)
	}
}

// TestAllowedNameOnBlockedTarget: a rule about names that forwards the question also forwards what is behind it.
func TestAllowedNameOnBlockedTarget(t *testing.T) {
	up := newResolver(t, "shop.example. 300 IN CNAME tracker.example.", "tracker.example. 300 IN A 203.0.113.3")
	tracking := blocks(map[string]string{"tracker.example": "tracking"})
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
	}, judged(func(f policy.Flow) policy.Verdict {
		if f.Names[0].Host == "shop.example" && f.Peer == "ana" {
			return policy.Verdict{Action: policy.Forward, Rule: "allow-shop", ByName: true}
		}
		return tracking(f)
	}), described(func(client netip.AddrPort) policy.Flow {
		if client.Addr() == ana.Addr() {
			return policy.Flow{Peer: "ana", Groups: []string{"staff"}}
		}
		return policy.Flow{}
	}))
	ben := netip.MustParseAddrPort("10.77.0.3:40000")
	for range 2 { // from the upstream and from the cache, which both share
		if got, want := brief(exchangePacket(t, s, ana, query("shop.example", "A"))), "NOERROR tracker.example. 203.0.113.3"; got != want {
			t.Errorf("ana: got %s, want %s", got, want)
		}
		if got, want := brief(exchangePacket(t, s, ben, query("shop.example", "A"))), "NXDOMAIN soa edeFiltered"; got != want {
			t.Errorf("ben: got %s, want %s", got, want)
		}
	}
}

// TestNoIPv6: where the egress has no IPv6, clients get no IPv6 addresses, in no form.
func TestNoIPv6(t *testing.T) {
	up := newResolver(t,
		"www.example. 300 IN AAAA 2001:db8::1",
		"www.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.1 ipv6hint=2001:db8::1")
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
	}, func(s *setup) { s.NoIPv6 = func(egress string) bool { return egress == "corp" } }, judged(func(policy.Flow) policy.Verdict { return policy.Verdict{Action: policy.Forward, Egress: "corp"} }))
	if got, want := brief(ask(t, s, "www.example", "AAAA")), "NOERROR soa edeFiltered"; got != want {
		t.Errorf("AAAA: got %s, want %s", got, want)
	}
	if got, want := brief(ask(t, s, "www.example", "HTTPS")), `NOERROR 1 . alpn="h2" ipv4hint="203.0.113.1"`; got != want {
		t.Errorf("HTTPS: got %s, want %s", got, want)
	}
}

// TestDroppedHint: a hint whose address a rule blocks is left out; the names table does not have it either.
func TestDroppedHint(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=203.0.113.1,203.0.113.2")
	bad := netip.MustParseAddr("203.0.113.1")
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
	}, judged(func(f policy.Flow) policy.Verdict {
		if f.Dst.Addr() == bad {
			return policy.Verdict{}
		}
		return policy.Verdict{Action: policy.Forward}
	}))
	for range 2 {
		if got, want := brief(ask(t, s, "www.example", "HTTPS")), `NOERROR 1 . alpn="h2" ipv4hint="203.0.113.2"`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := s.Names().Lookup(AddressKey(ana.Addr()), bad); got != nil {
		t.Errorf("names of the dropped hint: got %v, want none", got)
	}
}

// TestNamesComeBeforeTheAnswer: when the client has the answer, the name is in the table: the one it asked for, not the target.
func TestNamesComeBeforeTheAnswer(t *testing.T) {
	up := newResolver(t, "cdn.example. 300 IN CNAME edge.cloud.example.", "edge.cloud.example. 300 IN A 203.0.113.2",
		"cdn.example. 300 IN HTTPS 1 . ipv4hint=203.0.113.9")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}})
	for _, from := range []string{"upstream", "cache"} {
		client := netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), 1)
		if from == "cache" {
			client = netip.AddrPortFrom(netip.MustParseAddr("10.77.0.3"), 1)
		}
		wire, _ := query("CDN.example", "A").Pack()
		done := make(chan []policy.Name, 1)
		s.ServePacket(t.Context(), client, wire, func([]byte) error {
			done <- s.Names().Lookup(AddressKey(client.Addr()), netip.MustParseAddr("203.0.113.2"))
			return nil
		})
		got := <-done
		if len(got) != 1 || got[0] != (policy.Name{Host: "cdn.example", From: policy.FromDNS}) {
			t.Errorf("from %s: got %v, want cdn.example from DNS", from, got)
		}
	}
}

// TestPolicyReload: an answer cached under the old policy is judged by the new one.
func TestPolicyReload(t *testing.T) {
	up := newResolver(t, "casino.example. 300 IN A 203.0.113.1", "www.example. 300 IN A 203.0.113.2")
	other := newResolver(t, "www.example. 300 IN A 203.0.113.99")
	set := Settings{Upstreams: []Upstream{named("main", up)}}
	var decide atomic.Pointer[judge]
	open := judge(blocks(nil))
	decide.Store(&open)
	s := newServer(t, set, judged(func(f policy.Flow) policy.Verdict { return (*decide.Load())(f) }))
	ask(t, s, "casino.example", "A")
	ask(t, s, "www.example", "A")
	strict := judge(blocks(map[string]string{"casino.example": "gambling"}))
	decide.Store(&strict)
	s.Use(plan(t, set))
	if got, want := brief(ask(t, s, "casino.example", "A")), "NXDOMAIN soa edeFiltered"; got != want {
		t.Errorf("blocked by the new policy: got %s, want %s", got, want)
	}
	ask(t, s, "www.example", "A")
	if got := len(up.Queries()); got != 2 {
		t.Errorf("upstream queries with the cache kept: got %d, want 2", got)
	}
	set.Zones = []Zone{{Domains: []string{"www.example"}, Upstreams: []Upstream{named("other", other)}}}
	s.Use(plan(t, set))
	if got, want := brief(ask(t, s, "www.example", "A")), "NOERROR 203.0.113.99"; got != want {
		t.Errorf("a name that moved to another upstream: got %s, want %s", got, want)
	}
}

// TestQuery: the diagnosis says what decided and where the answer came from.
func TestQuery(t *testing.T) {
	up := newResolver(t, "shop.example. 300 IN CNAME tracker.example.", "tracker.example. 300 IN A 203.0.113.3", "www.example. 300 IN A 203.0.113.1", "cached.example. 300 IN A 203.0.113.2")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(blocks(map[string]string{"tracker.example": "tracking"})))
	ask(t, s, "cached.example", "A")
	tests := []struct {
		says, name string
		want       Answer
	}{
		{"a miss names the upstream", "www.example", Answer{Rcode: "NOERROR", Result: "forwarded", Upstream: "main", Cache: "miss", Decided: "www.example"}},
		{"a hit says so", "cached.example", Answer{Rcode: "NOERROR", Result: "cached", Upstream: "main", Cache: "hit", Decided: "cached.example"}},
		{"a block names the target that is blocked", "shop.example", Answer{Rcode: "NXDOMAIN", Result: "blocked", Upstream: "main", Cache: "miss", Decided: "tracker.example", Reason: "blocked by rule no-tracking"}},
		{"a blocked question is asked of nobody", "tracker.example", Answer{Rcode: "NXDOMAIN", Result: "blocked", Decided: "tracker.example", Reason: "blocked by rule no-tracking"}},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			got, err := s.Query(t.Context(), anaFlow(), tt.name, "a")
			if err != nil {
				t.Fatal(err)
			}
			if got.Rcode != tt.want.Rcode || got.Result != tt.want.Result || got.Upstream != tt.want.Upstream ||
				got.Cache != tt.want.Cache || got.Decided != tt.want.Decided || got.Reason != tt.want.Reason {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
	if _, err := s.Query(t.Context(), anaFlow(), "www.example", "NONSENSE"); err == nil {
		t.Error("a type that does not exist: got no error")
	}
}

// TestQueryOfAnotherTime: a diagnosis is judged as of the time that it is about, also by the rule on what a name leads to.
func TestQueryOfAnotherTime(t *testing.T) {
	bedtime := time.Now().Add(12 * time.Hour)
	up := newResolver(t, "shop.example. 300 IN CNAME games.example.", "games.example. 300 IN A 203.0.113.3")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, judged(func(f policy.Flow) policy.Verdict {
		if f.Names[0].Host == "games.example" && f.Time.Equal(bedtime) {
			return policy.Verdict{Action: policy.Refuse, Rule: "bedtime"}
		}
		return policy.Verdict{Action: policy.Forward}
	}))
	for _, name := range []string{"games.example", "shop.example"} {
		for at, want := range map[time.Time]string{bedtime: "NXDOMAIN", {}: "NOERROR", bedtime.Add(time.Hour): "NOERROR"} {
			f := anaFlow()
			f.Time = at
			if got, err := s.Query(t.Context(), f, name, "A"); err != nil || got.Rcode != want {
				t.Errorf("%s at %v: got %s, %v, want %s", name, at, got.Rcode, err, want)
			}
		}
	}
}

// TestAges: TTLs count down, and a failing upstream makes an expired answer good for another 30 s, within an hour.
func TestAges(t *testing.T) {
	up := newResolver(t, "www.example. 300 IN A 203.0.113.1")
	clock := newClock()
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, at(clock))
	ask(t, s, "www.example", "A")
	clock.add(100 * time.Second)
	if got := ask(t, s, "www.example", "A").Answer[0].Header().Ttl; got != 200 {
		t.Errorf("TTL after 100 s: got %d, want 200", got)
	}
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		return true
	})
	clock.add(300 * time.Second)
	for range 2 {
		a := ask(t, s, "www.example", "A")
		if got, want := brief(a), "NOERROR 203.0.113.1 edeStale Answer"; got != want {
			t.Fatalf("expired, upstream fails: got %s, want %s", got, want)
		}
		if got := a.Answer[0].Header().Ttl; got != 30 {
			t.Errorf("TTL of a stale answer: got %d, want 30", got)
		}
	}
	if got := len(up.Queries()); got != 2 {
		t.Errorf("upstream queries: got %d, want 2: a failure is remembered", got)
	}
	clock.add(2 * time.Hour)
	if got, want := brief(ask(t, s, "www.example", "A")), "SERVFAIL edeNo Reachable Authority"; got != want {
		t.Errorf("expired for two hours: got %s, want %s", got, want)
	}
}

// TestPrefetch: a name in use is asked for again before its answer expires, and nobody waits.
func TestPrefetch(t *testing.T) {
	up := newResolver(t, "hot.example. 100 IN A 203.0.113.1")
	clock := newClock()
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}}, at(clock))
	for range 4 {
		ask(t, s, "hot.example", "A")
	}
	clock.add(95 * time.Second)
	renewed := make(chan struct{})
	up.AnswerWith(func(dns.ResponseWriter, *dns.Msg) bool { close(renewed); return false })
	if got := ask(t, s, "hot.example", "A").Answer[0].Header().Ttl; got != 5 {
		t.Errorf("TTL: got %d, want 5 from the cache", got)
	}
	<-renewed
}
