package dnsproxy

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/records"
	"penstock/policy"
)

// Clients of three groups, and one that is no peer. Staff may go anywhere, contractors to 10.30.0.0/16 and to IPv6 in fd30::/16,
// guests nowhere inside.
var (
	staff      = netip.MustParseAddrPort("10.99.0.8:4000")
	contractor = netip.MustParseAddrPort("10.99.0.7:4000")
	guest      = netip.MustParseAddrPort("10.99.0.6:4000")
	stranger   = netip.MustParseAddrPort("10.0.0.9:4000")
)

func threeGroups(src netip.AddrPort) policy.Flow {
	switch src {
	case staff:
		return policy.Flow{Client: 8, Peer: "staff"}
	case contractor:
		return policy.Flow{Client: 7, Peer: "contractor"}
	case guest:
		return policy.Flow{Client: 6, Peer: "guest"}
	}
	return policy.Flow{}
}

func byGroup(f policy.Flow) policy.Verdict {
	addr := f.Dst.Addr()
	inside := addr.IsPrivate()
	open := f.Peer == "contractor" && (netip.MustParsePrefix("10.30.0.0/16").Contains(addr) || netip.MustParsePrefix("fd30::/16").Contains(addr))
	switch {
	case f.Peer == "" || f.Peer == "staff" || !inside || open:
		return policy.Verdict{Action: policy.Forward, Egress: policy.EgressDirect, Rule: "rest"}
	case netip.MustParsePrefix("10.40.0.0/16").Contains(addr):
		return policy.Verdict{Action: policy.Drop, Rule: "quiet"}
	}
	return policy.Verdict{Rule: "no-private"}
}

// intranet is what the zone's server knows.
func intranet(t testing.TB) *dnstest.Resolver {
	var list []string
	host := func(name, addrs string) { // with a record of every other type
		for addr := range strings.FieldsSeq(addrs) {
			rtype := "A"
			if strings.Contains(addr, ":") {
				rtype = "AAAA"
			}
			list = append(list, name+". 300 IN "+rtype+" "+addr)
		}
		list = append(list, name+`. 300 IN TXT "of `+name+`"`, name+". 300 IN MX 5 mail.corp.example.", name+". 300 IN HTTPS 1 . alpn=h2",
			name+". 300 IN CAA 0 issue corp.example", "_x._tcp."+name+". 300 IN SRV 0 5 80 "+name+".", "_443._tcp."+name+". 300 IN TLSA 3 1 1 00")
	}
	host("wiki.corp.example", "10.20.0.10 fd20::10")
	host("old.corp.example", "10.20.0.11")
	host("new.corp.example", "fd20::12")
	host("quiet.corp.example", "10.40.0.10")
	host("build.corp.example", "10.30.0.10")
	host("both.corp.example", "10.20.0.20 fd30::20")
	host("pair.corp.example", "10.20.0.21 10.30.0.21")
	host("corp.example", "10.20.0.2")
	return newResolver(t, append(list,
		"alias.corp.example. 300 IN CNAME wiki.corp.example.", "ci.corp.example. 300 IN CNAME build.corp.example.",
		"site.corp.example. 300 IN CNAME www.public.example.", "www.public.example. 300 IN A 203.0.113.1",
		"below.old.corp.example. 300 IN A 10.30.0.30", "hint.corp.example. 300 IN HTTPS 1 . ipv4hint=10.20.0.13",
		"_ldap._tcp.corp.example. 300 IN SRV 0 5 389 wiki.corp.example.", "text.corp.example. 300 IN TXT hello",
		"10.0.20.10.in-addr.arpa. 300 IN PTR wiki.corp.example.", "10.0.30.10.in-addr.arpa. 300 IN PTR build.corp.example.",
		"0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.d.f.ip6.arpa. 300 IN PTR wiki.corp.example.",
		"nas.home.example. 300 IN A 10.20.0.7",
	)...)
}

func intranetServer(t testing.TB, up *dnstest.Resolver, options ...func(*setup)) *Server {
	return newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)}, AllowPrivate: []string{"home.example"},
		Zones: []Zone{{Domains: []string{"corp.example", "10.in-addr.arpa", "d.f.ip6.arpa"}, Upstreams: []Upstream{named("corp", up)}}},
		Records: bookOf(t, []records.Record{
			{Name: "own.other.example", CNAME: "wiki.corp.example"}, {Name: "first.other.example", CNAME: "second.other.example"},
			{Name: "second.other.example", CNAME: "build.corp.example"},
		}),
	}, append([]func(*setup){judged(byGroup), described(threeGroups)}, options...)...)
}

// TestAClosedNameDoesNotExist: three groups ask for every type of names that all, some or none of them may reach, first those who
// may and then those who may not, and the other way round: no group learns from what the cache holds for another.
func TestAClosedNameDoesNotExist(t *testing.T) {
	const closed = "NXDOMAIN soa"
	hosts := []struct {
		name                     string
		staff, contractor, guest bool // sees it
		v4, v6                   string
	}{
		{"wiki.corp.example", true, false, false, "10.20.0.10", "fd20::10"},
		{"old.corp.example", true, false, false, "10.20.0.11", ""},
		{"new.corp.example", true, false, false, "", "fd20::12"},
		{"quiet.corp.example", true, false, false, "10.40.0.10", ""},
		{"build.corp.example", true, true, false, "10.30.0.10", ""},
		{"both.corp.example", true, true, false, "10.20.0.20", "fd30::20"},
		{"pair.corp.example", true, true, false, "10.20.0.21 10.30.0.21", ""},
		{"alias.corp.example", true, false, false, "wiki.corp.example. 10.20.0.10", "wiki.corp.example. fd20::10"},
		{"ci.corp.example", true, true, false, "build.corp.example. 10.30.0.10", "build.corp.example."},
		{"site.corp.example", true, true, true, "www.public.example. 203.0.113.1", "www.public.example."},
	}
	for says, order := range map[string][]netip.AddrPort{
		"who may asks first": {staff, contractor, guest, staff}, "who may not asks first": {guest, contractor, staff, guest},
	} {
		t.Run(says, func(t *testing.T) {
			up := intranet(t)
			s := intranetServer(t, up)
			for _, host := range hosts {
				for _, qtype := range []string{"A", "AAAA", "TXT", "MX", "HTTPS", "CAA", "CNAME", "NS", "SOA", "PTR", "SRV", "TLSA", "ANY"} {
					name := host.name
					switch qtype {
					case "SRV":
						name = "_x._tcp." + name
					case "TLSA":
						name = "_443._tcp." + name
					}
					want := brief(up.Reply(query(name, qtype)))
					for _, client := range order {
						want, sees := want, map[netip.AddrPort]bool{staff: host.staff, contractor: host.contractor, guest: host.guest}[client]
						switch {
						case qtype == "ANY": // what does not exist is answered like this, too
							want = `NOERROR "RFC8482" ""`
						case !sees && (qtype != "SRV" && qtype != "TLSA" || !strings.HasPrefix(want, "NXDOMAIN")):
							want = closed
						case sees && qtype == "A" && host.name == "both.corp.example" && client == contractor:
							want = "NOERROR soa edeBlocked" // the other family is open
						}
						if got := brief(exchangePacket(t, s, client, query(name, qtype))); got != want {
							t.Errorf("%s asks for %s %s: got %s, want %s", threeGroups(client).Peer, name, qtype, got, want)
						}
					}
				}
				for _, client := range []netip.AddrPort{staff, contractor, guest} {
					for addr := range strings.FieldsSeq(host.v4 + " " + host.v6) {
						addr, err := netip.ParseAddr(addr)
						if err != nil {
							continue
						}
						sees := map[netip.AddrPort]bool{staff: host.staff, contractor: host.contractor, guest: host.guest}[client]
						names := s.Names().Lookup(threeGroups(client).Client, addr)
						if !sees && strings.Contains(hostsOf(names), host.name) {
							t.Errorf("%s was not told of %s, and its flows are judged by it", threeGroups(client).Peer, host.name)
						}
					}
				}
			}
		})
	}
}

func hostsOf(names []policy.Name) (all string) {
	for _, n := range names {
		all += n.Host + " "
	}
	return all
}

// TestWhatIsNotHidden: names beside, above and below closed ones, each asked for by a client that asks for nothing else.
func TestWhatIsNotHidden(t *testing.T) {
	for _, row := range []struct {
		says        string
		client      netip.AddrPort
		name, qtype string
		want        string
	}{
		{"a name below a closed one is judged by its own addresses", contractor, "below.old.corp.example", "A", "NOERROR 10.30.0.30"},
		{"a name without an address is for all", guest, "text.corp.example", "TXT", `NOERROR "hello"`},
		{"hints are addresses", guest, "hint.corp.example", "HTTPS", "NXDOMAIN soa"},
		{"services of the domain are not those of the host that bears its name", guest, "_ldap._tcp.corp.example", "SRV", "NOERROR 0 5 389 wiki.corp.example."},
		{"the domain itself exists: there are names below it", guest, "corp.example", "A", "NOERROR soa edeBlocked"},
		{"in no type of a host", guest, "corp.example", "TXT", "NOERROR soa edeBlocked"},
		{"what is about the zone is for all, or nobody could verify it", guest, "corp.example", "DNSKEY", "NOERROR soa"},
		{"a public name is not looked at", guest, "www.public.example", "A", "NOERROR 203.0.113.1"},
		{"neither is a private one in no zone: it may be in the peer's own network", guest, "nas.home.example", "A", "NOERROR 10.20.0.7"},
		{"who is no peer may have another way", stranger, "wiki.corp.example", "A", "NOERROR 10.20.0.10"},
		{"a reverse name is for those who may go there", staff, "10.0.20.10.in-addr.arpa", "PTR", "NOERROR wiki.corp.example."},
		{"and for nobody else", contractor, "10.0.20.10.in-addr.arpa", "PTR", "NXDOMAIN soa"},
		{"in no type", contractor, "10.0.20.10.in-addr.arpa", "TXT", "NXDOMAIN soa"},
		{"an open one", contractor, "10.0.30.10.in-addr.arpa", "PTR", "NOERROR build.corp.example."},
		{"one that nobody has, of a zone without an SOA", contractor, "99.0.20.10.in-addr.arpa", "PTR", "NXDOMAIN"},
		{"an alias of our own", guest, "own.other.example", "A", "NXDOMAIN soa"},
		{"in any type", guest, "own.other.example", "TXT", "NXDOMAIN soa"},
		{"even as an alias", guest, "own.other.example", "CNAME", "NXDOMAIN soa"},
		{"over two steps", guest, "first.other.example", "CNAME", "NXDOMAIN soa"},
		{"one that may be seen", contractor, "first.other.example", "CNAME", "NOERROR second.other.example."},
		{"with what is behind it", contractor, "first.other.example", "A", "NOERROR second.other.example. build.corp.example. 10.30.0.10"},
	} {
		if got := brief(exchangePacket(t, intranetServer(t, intranet(t)), row.client, query(row.name, row.qtype))); got != row.want {
			t.Errorf("%s: %s %s: got %s, want %s", row.says, row.name, row.qtype, got, row.want)
		}
	}
}

// TestAHiddenNameIsLikeAMissingOne: the answers differ in nothing, not even in the octets of the zone's SOA or its TTL, and none
// says that it was verified.
func TestAHiddenNameIsLikeAMissingOne(t *testing.T) {
	s := intranetServer(t, intranet(t))
	for _, qtype := range []string{"A", "AAAA", "TXT", "MX", "CNAME", "NS"} {
		for _, name := range []string{"old.corp.example", "wiki.corp.example"} {
			missing := "no" + name[2:]
			sameAnswer(t, s, guest, name, missing, qtype)
			q, q2 := query(name, qtype), query(missing, qtype)
			q.AuthenticatedData, q2.AuthenticatedData = true, true
			a, b := exchangePacket(t, s, guest, q), exchangePacket(t, s, guest, q2)
			a.Id, b.Id, b.Question[0].Name = 0, 0, name+"."
			if a.String() != b.String() || a.Rcode != dns.RcodeNameError || a.AuthenticatedData || a.Ns[0].Header().Name != "example." || a.Ns[0].Header().Ttl != 30 {
				t.Errorf("%s: got\n%v\nand for one that nobody has\n%v", qtype, a, b)
			}
		}
	}
}

// failing makes the zone's server fail where f says so.
func failing(up *dnstest.Resolver, f func(q dns.Question) bool) {
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if !f(q.Question[0]) {
			return false
		}
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		return true
	})
}

// TestAFailureTellsNothingOfAClosedName: the zone's server fails for some types, of all names or of those that exist. Who may reach a
// name is told of the failure. To the others it is like a name that nobody has, in every octet.
func TestAFailureTellsNothingOfAClosedName(t *testing.T) {
	types := []string{"A", "AAAA", "TXT", "MX", "HTTPS"}
	for _, row := range []struct {
		says   string
		fails  []uint16
		closed []string // one of their addresses is known nevertheless
	}{
		{"no IPv6", []uint16{dns.TypeAAAA}, []string{"old.corp.example", "Wiki.CORP.example", "quiet.corp.example", "alias.corp.example"}},
		{"no IPv4", []uint16{dns.TypeA}, []string{"new.corp.example", "wIKI.corp.example"}},
		{"no addresses but those of one family, and nothing about zones", []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeHTTPS, dns.TypeSOA}, []string{"old.corp.example"}},
		{"only addresses", []uint16{dns.TypeTXT, dns.TypeMX, dns.TypeHTTPS}, []string{"old.corp.example", "new.corp.example", "WIKI.corp.example"}},
	} {
		for _, all := range []bool{true, false} {
			up := intranet(t)
			failing(up, func(q dns.Question) bool {
				return slices.Contains(row.fails, q.Qtype) && (all || !strings.HasPrefix(q.Name, "no")) && q.Name != "corp.example."
			})
			s := intranetServer(t, up)
			for range 2 { // from the cache, too
				for _, name := range row.closed {
					for _, qtype := range types {
						missing := "no" + name[2:]
						sameAnswer(t, s, guest, name, missing, qtype)
						a := exchangePacket(t, s, staff, query(name, qtype))
						want := dns.RcodeSuccess
						if slices.Contains(row.fails, a.Question[0].Qtype) {
							want = dns.RcodeServerFailure
						}
						if a.Rcode != want {
							t.Errorf("%s, all names %t: who may reach %s asks for %s: got %s", row.says, all, name, qtype, brief(a))
						}
					}
				}
			}
		}
	}
}

// TestASilentServerTellsNothingOfAClosedName: a time-out is a failure like any other, and so is one of a diagnosis.
func TestASilentServerTellsNothingOfAClosedName(t *testing.T) {
	up := intranet(t)
	up.AnswerWith(func(_ dns.ResponseWriter, q *dns.Msg) bool { return q.Question[0].Qtype == dns.TypeAAAA })
	var told []Refused
	s := newServer(t, Settings{
		Timeout: 2 * time.Second,
		Zones:   []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{named("corp", up)}}},
	}, judged(byGroup), described(threeGroups), func(s *setup) { s.Blocked = func(r Refused) { r.Host, r.Decided = "", ""; told = append(told, r) } })
	if got := brief(exchangePacket(t, s, guest, query("old.corp.example", "AAAA"))); got != "NXDOMAIN soa" {
		t.Errorf("got %s, want no such name", got)
	}
	if len(told) != 1 || told[0].Addr != netip.MustParseAddr("10.20.0.11") || told[0].Verdict.Rule != "no-private" {
		t.Errorf("refused questions: got %+v, want one, with the address that is known", told)
	}
	flow := threeGroups(guest)
	flow.Src = guest
	for name, hidden := range map[string]bool{"old.corp.example": true, "none.corp.example": false} {
		if a, err := s.Query(t.Context(), flow, name, "AAAA"); err != nil || a.Rcode != "NXDOMAIN" || a.Hidden != hidden {
			t.Errorf("for diagnosis, %s: got %+v, %v", name, a, err)
		}
	}
}

// TestNobodyIsToldWhatCannotBeKnown: while the zone's server says no address, a name may be open or closed. Nobody is told that there
// is no such name, because it may be open to him.
func TestNobodyIsToldWhatCannotBeKnown(t *testing.T) {
	for _, row := range []struct {
		fails             []uint16
		client            netip.AddrPort
		name, qtype, want string
	}{
		{[]uint16{dns.TypeAAAA}, guest, "wiki.corp.example", "TXT", "NXDOMAIN soa"},
		{[]uint16{dns.TypeAAAA}, guest, "own.other.example", "CNAME", "NXDOMAIN soa"},
		{[]uint16{dns.TypeAAAA}, guest, "_443._tcp.wiki.corp.example", "TLSA", "NXDOMAIN soa"},
		{[]uint16{dns.TypeTLSA}, guest, "_443._tcp.wiki.corp.example", "TLSA", "NXDOMAIN soa"},
		{[]uint16{dns.TypeTLSA}, guest, "_443._tcp.none.corp.example", "TLSA", "NXDOMAIN soa"},
		{[]uint16{dns.TypeTLSA}, contractor, "_443._tcp.build.corp.example", "TLSA", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeAAAA}, contractor, "build.corp.example", "A", "NOERROR 10.30.0.10"},
		{[]uint16{dns.TypeAAAA}, contractor, "build.corp.example", "AAAA", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeAAAA}, contractor, "build.corp.example", "TXT", `NOERROR "of build.corp.example"`},
		{[]uint16{dns.TypeAAAA}, staff, "new.corp.example", "TXT", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeAAAA}, guest, "new.corp.example", "TXT", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeA, dns.TypeAAAA}, guest, "wiki.corp.example", "A", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeA, dns.TypeAAAA}, guest, "none.corp.example", "A", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypeA, dns.TypeAAAA}, guest, "own.other.example", "CNAME", "SERVFAIL"},
		{[]uint16{dns.TypeTXT}, contractor, "10.0.20.10.in-addr.arpa", "TXT", "NXDOMAIN soa"},
		{[]uint16{dns.TypeTXT}, contractor, "99.0.20.10.in-addr.arpa", "TXT", "NXDOMAIN soa"},
		{[]uint16{dns.TypeTXT}, contractor, "10.0.30.10.in-addr.arpa", "TXT", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypePTR}, staff, "10.0.20.10.in-addr.arpa", "PTR", "SERVFAIL edeNo Reachable Authority"},
		{[]uint16{dns.TypePTR}, contractor, "10.0.20.10.in-addr.arpa", "PTR", "SERVFAIL edeNo Reachable Authority"},
	} {
		up := intranet(t)
		failing(up, func(q dns.Question) bool { return slices.Contains(row.fails, q.Qtype) })
		s := intranetServer(t, up)
		for range 2 {
			if got := brief(exchangePacket(t, s, row.client, query(row.name, row.qtype))); got != row.want {
				t.Errorf("%v fail: %s %s: got %s, want %s", row.fails, row.name, row.qtype, got, row.want)
			}
		}
	}
}

// TestALimitTellsNothingOfAClosedName: whoever has no places left for the questions that a name needs is not told by that whether it
// exists.
func TestALimitTellsNothingOfAClosedName(t *testing.T) {
	for _, qtype := range []string{"A", "AAAA", "TXT"} {
		for _, name := range []string{"old.corp.example", "wiki.corp.example", "none.corp.example", "10.0.20.10.in-addr.arpa"} {
			s := newServer(t, Settings{
				MaxInFlight: 2, // one of them for one client
				Zones:       []Zone{{Domains: []string{"corp.example", "10.in-addr.arpa"}, Upstreams: []Upstream{named("corp", intranet(t))}}},
			}, judged(byGroup), described(threeGroups))
			if got, want := brief(exchangePacket(t, s, guest, query(name, qtype))), "SERVFAIL edeNo Reachable Authority"; got != want {
				t.Errorf("%s %s: got %s, want %s", name, qtype, got, want)
			}
			if got, want := brief(exchangePacket(t, s, staff, query("build.corp.example", "A"))), "NOERROR 10.30.0.10"; got != want {
				t.Errorf("an open address: got %s, want %s", got, want)
			}
		}
	}
}

// TestHiddenNamesAreTold: whoever runs the gateway finds out what was hidden and why, and a claim of such a name is not believed.
func TestHiddenNamesAreTold(t *testing.T) {
	var told []Refused
	s := intranetServer(t, intranet(t), func(s *setup) { s.Blocked = func(r Refused) { r.Host, r.Decided = "", ""; told = append(told, r) } })
	flow := threeGroups(contractor)
	flow.Src = contractor
	for _, row := range []struct{ name, qtype, rcode, withheld string }{
		{"wiki.corp.example", "TXT", "NXDOMAIN", "10.20.0.10"}, {"wiki.corp.example", "AAAA", "NXDOMAIN", "fd20::10"},
		{"both.corp.example", "A", "NOERROR", "10.20.0.20"}, {"own.other.example", "CNAME", "NXDOMAIN", "10.20.0.10"},
	} {
		a, err := s.Query(t.Context(), flow, row.name, row.qtype)
		if err != nil || a.Rcode != row.rcode || a.Hidden != (row.rcode == "NXDOMAIN") || len(a.Records) != 0 || a.Withheld.String() != row.withheld || a.Verdict.Rule != "no-private" {
			t.Errorf("for diagnosis, %s %s: got %+v, %v", row.name, row.qtype, a, err)
		}
	}
	if len(told) != 0 {
		t.Error("a diagnosis was told as a refused question")
	}
	exchangePacket(t, s, contractor, query("wiki.corp.example", "MX"))
	exchangePacket(t, s, contractor, query("wiki.corp.example", "AAAA"))
	exchangePacket(t, s, contractor, query("build.corp.example", "MX"))
	if len(told) != 2 || told[1].Addr != netip.MustParseAddr("fd20::10") || told[0].Peer != "contractor" || told[0].Verdict.Rule != "no-private" {
		t.Errorf("refused questions: got %+v, want two, with an address", told)
	}
	flow.Dst = netip.MustParseAddrPort("10.20.0.10:443")
	addrs, err := s.Confirm(t.Context(), flow, "wiki.corp.example")
	if blocked, ok := errors.AsType[*BlockedError](err); !ok || blocked.Verdict.Rule != "no-private" || blocked.Withheld != flow.Dst.Addr() || !blocked.Hidden {
		t.Errorf("a claim of the name: got %v, %v, want it not confirmed because its address is blocked", addrs, err)
	}
}

func TestReverseOf(t *testing.T) {
	for _, addr := range []string{"10.20.0.10", "fd20::1:10", "2001:db8::1"} {
		name, err := dns.ReverseAddr(addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := reverseOf(strings.TrimSuffix(name, ".")); !ok || got != netip.MustParseAddr(addr) {
			t.Errorf("%s: got %v, %t", name, got, ok)
		}
	}
	for _, name := range []string{"in-addr.arpa", "1.in-addr.arpa", "a.b.c.d.in-addr.arpa", strings.Repeat("0.", 30) + "000.ip6.arpa", strings.Repeat("0", 63) + ".ip6.arpa", "256.1.1.1.in-addr.arpa", "1.2.3.ip6.arpa", "wiki.corp.example"} {
		if addr, ok := reverseOf(name); ok {
			t.Errorf("%s: got %v, want none", name, addr)
		}
	}
}

// BenchmarkSight is what a name of a split zone costs a peer, from the cache.
func BenchmarkSight(b *testing.B) {
	s := intranetServer(b, intranet(b))
	for _, row := range []struct {
		says        string
		client      netip.AddrPort
		name, qtype string
	}{
		{"open address", staff, "wiki.corp.example", "A"}, {"open text", staff, "wiki.corp.example", "TXT"},
		{"hidden address", guest, "wiki.corp.example", "A"}, {"missing", guest, "none.corp.example", "A"}, {"public", guest, "www.public.example", "A"},
	} {
		b.Run(row.says, func(b *testing.B) {
			wire, err := query(row.name, row.qtype).Pack()
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{}, 1)
			s.ServePacket(b.Context(), row.client, wire, func([]byte) error { done <- struct{}{}; return nil })
			<-done
			reply := func([]byte) error { return nil }
			b.ReportAllocs()
			for b.Loop() {
				s.ServePacket(b.Context(), row.client, wire, reply)
			}
		})
	}
}
