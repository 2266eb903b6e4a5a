package dnsproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/policy"
)

func addrsOf(list ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func bookOf(t testing.TB, list []records.Record, closed ...string) *records.Book {
	t.Helper()
	b, faults := records.Compile(list, closed...)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	return b
}

func ownRecords() []records.Record {
	long := make([]string, 20)
	for i := range long {
		long[i] = strings.Repeat("x", 300)
	}
	return []records.Record{
		{Name: "wiki.corp.example", From: "record at f:1", Addrs: addrsOf("10.20.0.10", "fd20::10", "10.20.0.11")},
		{Name: "*.dev.corp.example", Addrs: addrsOf("10.20.0.20")},
		{Name: "git.corp.example", CNAME: "forge.corp.example"},
		{Name: "forge.corp.example", CNAME: "wiki.corp.example"},
		{Name: "www.corp.example", From: "record at f:9", CNAME: "cdn.public.example"},
		{Name: "gone.corp.example", CNAME: "absent.public.example"},
		{Name: "casino.corp.example", Addrs: addrsOf("10.20.0.30")},
		{Name: "play.corp.example", CNAME: "casino.corp.example"},
		{Name: "bet.corp.example", CNAME: "casino.example"},
		{Name: "corp.example", TXT: []string{"v=spf1 -all", "two"}, MX: []string{"10 mail.corp.example"}},
		{Name: "_sip._tcp.corp.example", SRV: []string{"0 5 5060 sip.corp.example"}},
		{Name: "long.corp.example", TXT: long},
		{Name: "nas.local", Addrs: addrsOf("10.20.0.40")},
		{Name: "ana.peers.example", From: "peer ana", Addrs: addrsOf("10.99.0.2", "fd99::2")},
		{Name: "bob.peers.example", From: "peer bob", Addrs: addrsOf("10.99.0.3")},
		{Name: "desk.corp.example", CNAME: "carl.peers.example"},
	}
}

func TestNamesOfOurOwn(t *testing.T) {
	up := newResolver(t, "cdn.public.example. 300 IN CNAME edge.public.example.", "edge.public.example. 300 IN A 203.0.113.9", "mail.corp.example. 300 IN A 203.0.113.25",
		"ana.peers.example. 300 IN A 203.0.113.66", "casino.example. 300 IN A 203.0.113.7")
	refuse := blocks(map[string]string{"casino.corp.example": "gambling", "casino.example": "gambling"})
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, Records: bookOf(t, ownRecords(), "peers.example")}, judged(refuse))
	for _, row := range []struct{ says, name, qtype, want string }{
		{"IPv4", "wiki.corp.example", "A", "NOERROR 10.20.0.10 10.20.0.11"},
		{"IPv6", "wiki.corp.example", "AAAA", "NOERROR fd20::10"},
		{"however it is written", "wIkI.CORP.example", "AAAA", "NOERROR fd20::10"},
		{"a type that is not there", "wiki.corp.example", "HTTPS", "NOERROR soa"},
		{"every type", "wiki.corp.example", "ANY", `NOERROR "RFC8482" ""`},
		{"a wildcard", "a.b.dev.corp.example", "A", "NOERROR 10.20.0.20"},
		{"of one family", "a.dev.corp.example", "AAAA", "NOERROR soa"},
		{"an alias of an alias", "git.corp.example", "AAAA", "NOERROR forge.corp.example. wiki.corp.example. fd20::10"},
		{"the alias itself", "git.corp.example", "CNAME", "NOERROR forge.corp.example."},
		{"an alias without that type", "git.corp.example", "TXT", "NOERROR forge.corp.example. wiki.corp.example. soa"},
		{"an alias of what others know", "www.corp.example", "A", "NOERROR cdn.public.example. edge.public.example. 203.0.113.9"},
		{"from the cache", "WWW.corp.example", "A", "NOERROR cdn.public.example. edge.public.example. 203.0.113.9"},
		{"an alias of what nobody knows", "gone.corp.example", "A", "NXDOMAIN absent.public.example. soa"},
		{"a blocked name", "casino.corp.example", "A", "NXDOMAIN soa edeFiltered"},
		{"an alias of a blocked name", "play.corp.example", "A", "NXDOMAIN soa edeFiltered"},
		{"texts", "corp.example", "TXT", `NOERROR "v=spf1 -all" "two"`},
		{"mail", "corp.example", "MX", "NOERROR 10 mail.corp.example."},
		{"a service", "_sip._tcp.corp.example", "SRV", "NOERROR 0 5 5060 sip.corp.example."},
		{"a name of the same domain that is not ours", "mail.corp.example", "A", "NOERROR 203.0.113.25"},
		{"a name of special use", "nas.local", "A", "NOERROR 10.20.0.40"},
		{"its neighbour", "tv.local", "A", "NXDOMAIN soa"},
		{"a reverse name", "10.0.20.10.in-addr.arpa", "PTR", "NOERROR wiki.corp.example."},
		{"its neighbour", "12.0.20.10.in-addr.arpa", "PTR", "NXDOMAIN soa"},
		{"a reverse name has no address", "10.0.20.10.in-addr.arpa", "A", "NOERROR soa"},
		{"a peer", "ana.peers.example", "A", "NOERROR 10.99.0.2"},
		{"no peer", "carl.peers.example", "A", "NXDOMAIN soa"},
		{"an alias of no peer", "desk.corp.example", "A", "NXDOMAIN carl.peers.example. soa"},
		{"the domain of the peers", "peers.example", "A", "NOERROR soa"},
	} {
		a := ask(t, s, row.name, row.qtype)
		if got := brief(a); got != row.want {
			t.Errorf("%s: %s %s: got %s, want %s", row.says, row.name, row.qtype, got, row.want)
		}
		if a.Question[0].Name != row.name+"." || len(a.Answer) > 0 && !strings.EqualFold(a.Answer[0].Header().Name, row.name+".") {
			t.Errorf("%s: got an answer about %v and %v", row.says, a.Question, a.Answer)
		}
	}
	if a := ask(t, s, "bet.corp.example", "A"); a.Rcode != dns.RcodeNameError {
		t.Errorf("an alias of a blocked name of others: got %s", brief(a))
	}
	if a := ask(t, s, "wiki.corp.example", "A"); !a.Authoritative || a.Answer[0].Header().Ttl != 60 {
		t.Errorf("got %v, want an authoritative answer for a minute", a)
	}
	for _, msg := range up.Queries() {
		q := msg.Question[0].Name
		if strings.Contains(q, "peers.example") || strings.Contains(q, "wiki") || strings.Contains(q, "dev.corp") {
			t.Errorf("an upstream was asked for %s", q)
		}
	}
	s.Use(plan(t, Settings{Upstreams: []Upstream{named("main", up)}}))
	if got := brief(ask(t, s, "ana.peers.example", "A")); got != "NOERROR 203.0.113.66" {
		t.Errorf("without records: got %s", got)
	}
}

func TestALongAnswerOfOurOwnIsCutForDatagrams(t *testing.T) {
	s := newServer(t, Settings{Records: bookOf(t, ownRecords())})
	plain := query("long.corp.example", "TXT")
	plain.Extra = nil
	for says, q := range map[string]*dns.Msg{"with EDNS": query("long.corp.example", "TXT"), "without": plain} {
		if a := exchangePacket(t, s, ana, q); !a.Truncated || len(a.Answer) != 0 || (a.IsEdns0() == nil) != (q.IsEdns0() == nil) {
			t.Errorf("%s: got %s, truncated %v", says, brief(a), a.Truncated)
		}
	}
	a, err := s.Query(t.Context(), anaFlow(), "long.corp.example", "TXT")
	if err != nil || len(a.Records) != 20 {
		t.Errorf("over TCP: got %d records, %v", len(a.Records), err)
	}
}

func TestAFlowIsJudgedByANameOfOurOwn(t *testing.T) {
	up := newResolver(t, "cdn.public.example. 300 IN A 203.0.113.9")
	s := newServer(t, Settings{Upstreams: []Upstream{named("main", up)}, Records: bookOf(t, ownRecords())},
		described(func(netip.AddrPort) policy.Flow { return policy.Flow{Client: 7} }))
	for _, row := range []struct{ name, addr string }{
		{"wiki.corp.example", "10.20.0.10"}, {"git.corp.example", "10.20.0.11"}, {"x.dev.corp.example", "10.20.0.20"}, {"www.corp.example", "203.0.113.9"},
	} {
		if a, err := s.Query(t.Context(), policy.Flow{Client: 7, Src: ana}, row.name, "A"); err != nil || a.Rcode != "NOERROR" {
			t.Errorf("%s: got %+v, %v", row.name, a, err)
		}
		before := s.Names().Lookup(7, netip.MustParseAddr(row.addr))
		ask(t, s, strings.ToUpper(row.name), "A")
		got := s.Names().Lookup(7, netip.MustParseAddr(row.addr))
		if slices.ContainsFunc(before, func(n policy.Name) bool { return n.Host == row.name }) || len(got) == 0 || got[0] != (policy.Name{Host: row.name, From: policy.FromDNS}) {
			t.Errorf("%s: got the names %v before and %v after a question", row.name, before, got)
		}
	}
	if addrs, err := s.Confirm(t.Context(), policy.Flow{Client: 7, Src: ana, Dst: netip.MustParseAddrPort("[fd00::1]:443")}, "git.corp.example"); err != nil || fmt.Sprint(addrs) != "[fd20::10]" {
		t.Errorf("a claimed name: got %v, %v", addrs, err)
	}
	for name, want := range map[string]string{"wiki.corp.example": "record at f:1", "www.corp.example": "record at f:9", "cdn.public.example": ""} {
		if a, err := s.Query(t.Context(), anaFlow(), name, "A"); err != nil || a.Source != want {
			t.Errorf("%s: got the source %q, %v; want %q", name, a.Source, err, want)
		}
	}
}

// TestAPeerSeesOnlyTheNamesThatItMayReach: of names that we know, both families are there, so what is closed does not exist.
func TestAPeerSeesOnlyTheNamesThatItMayReach(t *testing.T) {
	decide := func(f policy.Flow) policy.Verdict {
		addr := f.Dst.Addr()
		if f.Peer == "bob" && addr.IsValid() && (netip.MustParsePrefix("10.20.0.10/31").Contains(addr) || addr == netip.MustParseAddr("10.99.0.2") || addr.Is6()) {
			return policy.Verdict{Rule: "no-private"}
		}
		return policy.Verdict{Action: policy.Forward, Egress: policy.EgressDirect, Rule: "rest"}
	}
	bob := netip.MustParseAddrPort("10.99.0.3:4000")
	stranger := netip.MustParseAddrPort("10.0.0.9:4000")
	var told []Refused
	list := append(ownRecords(), records.Record{Name: "both.corp.example", Addrs: addrsOf("10.20.0.10", "10.20.0.50", "fd20::50")},
		records.Record{Name: "mixed.corp.example", Addrs: addrsOf("10.20.0.11"), TXT: []string{"secret"}})
	s := newServer(t, Settings{Records: bookOf(t, list, "peers.example")}, judged(decide), described(func(src netip.AddrPort) policy.Flow {
		return map[netip.AddrPort]policy.Flow{bob: {Client: 8, Peer: "bob"}}[src]
	}), func(s *setup) { s.Blocked = func(r Refused) { r.Host, r.Decided = "", ""; told = append(told, r) } })
	for _, row := range []struct {
		says        string
		client      netip.AddrPort
		name, qtype string
		want        string
	}{
		{"who is no peer sees all", stranger, "wiki.corp.example", "A", "NOERROR 10.20.0.10 10.20.0.11"},
		{"and all peers", stranger, "2.0.99.10.in-addr.arpa", "PTR", "NOERROR ana.peers.example."},
		{"a closed name does not exist", bob, "wiki.corp.example", "A", "NXDOMAIN soa"},
		{"in no type", bob, "wiki.corp.example", "TXT", "NXDOMAIN soa"},
		{"not even with records that are no addresses", bob, "mixed.corp.example", "TXT", "NXDOMAIN soa"},
		{"nor by an alias", bob, "git.corp.example", "CNAME", "NXDOMAIN soa"},
		{"nor by its address", bob, "10.0.20.10.in-addr.arpa", "PTR", "NXDOMAIN soa"},
		{"of several addresses, those that are open", bob, "both.corp.example", "A", "NOERROR 10.20.0.50"},
		{"of the other family, none", bob, "both.corp.example", "AAAA", "NOERROR soa"},
		{"a wildcard", bob, "x.dev.corp.example", "A", "NOERROR 10.20.0.20"},
		{"what has no address is for all", bob, "corp.example", "MX", "NOERROR 10 mail.corp.example."},
		{"itself", bob, "bob.peers.example", "A", "NOERROR 10.99.0.3"},
		{"by its address", bob, "3.0.99.10.in-addr.arpa", "PTR", "NOERROR bob.peers.example."},
		{"another peer", bob, "ana.peers.example", "A", "NXDOMAIN soa"},
		{"is as one that does not exist", bob, "carl.peers.example", "A", "NXDOMAIN soa"},
		{"by its address", bob, "2.0.99.10.in-addr.arpa", "PTR", "NXDOMAIN soa"},
	} {
		if got := brief(exchangePacket(t, s, row.client, query(row.name, row.qtype))); got != row.want {
			t.Errorf("%s: %s %s: got %s, want %s", row.says, row.name, row.qtype, got, row.want)
		}
	}
	closed, absent := exchangePacket(t, s, bob, query("ana.peers.example", "A")), exchangePacket(t, s, bob, query("carl.peers.example", "A"))
	closed.Id, absent.Id, absent.Question[0].Name, absent.Ns[0].Header().Name = 0, 0, closed.Question[0].Name, closed.Ns[0].Header().Name
	if closed.String() != absent.String() {
		t.Errorf("a closed name is told from one that does not exist:\n%v\n%v", closed, absent)
	}
	if got := s.Names().Lookup(8, netip.MustParseAddr("10.20.0.10")); len(got) != 0 {
		t.Errorf("bob was not told the address, and it has the names %v for him", got)
	}
	if len(told) == 0 || told[0].Verdict.Rule != "no-private" || !told[0].Addr.IsValid() || told[0].Peer != "bob" {
		t.Errorf("refused questions: got %+v", told)
	}
	a, err := s.Query(t.Context(), policy.Flow{Client: 8, Peer: "bob", Src: bob}, "ana.peers.example", "A")
	if err != nil || a.Rcode != "NXDOMAIN" || a.Source != "peer ana" || a.Verdict.Rule != "no-private" || a.Withheld != netip.MustParseAddr("10.99.0.2") {
		t.Errorf("for diagnosis: got %+v, %v", a, err)
	}
	if got, err := s.Confirm(t.Context(), policy.Flow{Client: 8, Peer: "bob", Src: bob, Dst: netip.MustParseAddrPort("10.20.0.10:443")}, "wiki.corp.example"); err == nil {
		t.Errorf("a claim of a closed name: got %v, want it not confirmed", got)
	}
}

// BenchmarkOwn is what a name of our own costs, beside a name of special use.
func BenchmarkOwn(b *testing.B) {
	list := ownRecords()
	for i := range 10_000 {
		list = append(list, records.Record{Name: fmt.Sprintf("host%d.corp.example", i), Addrs: addrsOf("10.21.0.1")})
	}
	s := newServer(b, Settings{Records: bookOf(b, list, "peers.example")}, func(s *setup) { s.Policy = oneBlocked{} },
		described(func(netip.AddrPort) policy.Flow { return policy.Flow{Client: 8, Peer: "bob"} }))
	for _, row := range []struct{ says, name, qtype string }{
		{"special", "localhost", "A"}, {"address", "host77.corp.example", "A"}, {"alias", "git.corp.example", "A"},
		{"missing", "carl.peers.example", "A"}, {"reverse", "2.0.99.10.in-addr.arpa", "PTR"}, {"wildcard", "x.dev.corp.example", "A"},
	} {
		b.Run(row.says, func(b *testing.B) {
			wire, err := query(row.name, row.qtype).Pack()
			if err != nil {
				b.Fatal(err)
			}
			reply := func([]byte) error { return nil }
			b.ReportAllocs()
			for b.Loop() {
				s.ServePacket(b.Context(), ana, wire, reply)
			}
		})
	}
}
