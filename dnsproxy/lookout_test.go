package dnsproxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/dnstest"
	"penstock/dnsproxy/records"
	"penstock/policy"
)

// hosts are names of our own: of them staff may reach all, contractors open and mixed, and guests none. The zone corp.example has
// others: see intranet.
func hosts() []records.Record {
	return []records.Record{
		{Name: "shut.own.example", Addrs: addrsOf("10.20.0.60", "fd20::60")},
		{Name: "open.own.example", Addrs: addrsOf("10.30.0.60")},
		{Name: "mixed.own.example", Addrs: addrsOf("10.20.0.61", "10.30.0.61")},
		{Name: "alias.own.example", CNAME: "shut.own.example"},
		{Name: "away.own.example", CNAME: "wiki.corp.example"},
		{Name: "far.own.example", CNAME: "www.public.example"},
		{Name: "note.own.example", TXT: []string{"see shut.own.example"}},

		{Name: "_sip._tcp.shut.own.example", SRV: []string{"0 5 5060 shut.own.example"}},
		{Name: "_sip._tcp.open.own.example", SRV: []string{"0 5 5060 open.own.example"}},
		{Name: "_other._tcp.shut.own.example", SRV: []string{"0 5 5060 www.public.example"}, TXT: []string{"of shut"}},
		{Name: "_x._tcp.away.own.example", SRV: []string{"0 5 80 www.public.example"}},
		{Name: "_x._tcp.wiki.corp.example", SRV: []string{"0 5 80 www.public.example"}},
		{Name: "_x._tcp.build.corp.example", CNAME: "_sip._tcp.open.own.example"},
		{Name: "_ldap._tcp.corp.example", SRV: []string{"0 5 389 www.public.example"}},
		{Name: "sip.own.example", SRV: []string{"0 5 5060 SHUT.own.example"}},
		{Name: "phone.own.example", CNAME: "sip.own.example"},
		{Name: "phones.own.example", CNAME: "_other._tcp.shut.own.example"},
		{Name: "two.own.example", SRV: []string{"0 5 1 shut.own.example", "1 5 1 open.own.example", "2 5 1 mixed.own.example"}},
		{Name: "away2.own.example", SRV: []string{"0 5 1 wiki.corp.example", "1 5 1 build.corp.example", "2 5 1 away.own.example", "3 5 1 alias.own.example"}},
		{Name: "public.own.example", SRV: []string{"0 5 1 shut.own.example", "1 5 1 www.public.example", "2 5 1 far.own.example"}},
		{Name: "mail.own.example", MX: []string{"10 alias.own.example", "20 away.own.example"}},
		{Name: "gone.own.example", MX: []string{"10 none.corp.example"}},
		{Name: "blocked.own.example", MX: []string{"10 secret.corp.example"}},
		{Name: "spf.own.example", MX: []string{"10 shut.own.example"}, TXT: []string{"v=spf1 mx -all"}},
		{Name: "host.own.example", MX: []string{"10 shut.own.example"}, Addrs: addrsOf("10.30.0.62")},
		{Name: "*.wild.own.example", SRV: []string{"0 5 1 shut.own.example"}},
		{Name: "corp.example", MX: []string{"10 shut.own.example"}},
		{Name: "ana.peers.example", Addrs: addrsOf("10.20.0.99")},
		{Name: "to-ana.own.example", SRV: []string{"0 5 1 ana.peers.example", "0 5 1 wiki.corp.example"}},
		{Name: "inside.corp.example", Addrs: addrsOf("10.30.0.63")},
	}
}

func hostsServer(t testing.TB, up *dnstest.Resolver, options ...func(*setup)) *Server {
	decide := func(f policy.Flow) policy.Verdict {
		if len(f.Names) > 0 && f.Names[0].Host == "secret.corp.example" && f.Peer == "guest" {
			return policy.Verdict{Rule: "no-secret"}
		}
		return byGroup(f)
	}
	up.Add(t, "secret.corp.example. 300 IN A 203.0.113.4")
	return newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
		Zones:     []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{named("corp", up)}}},
		Records:   bookOf(t, hosts(), "peers.example"),
	}, append([]func(*setup){judged(decide), described(threeGroups)}, options...)...)
}

// TestARecordThatLeadsToAClosedHost: whoever may not reach any of the hosts that a record names, or the host that the record belongs
// to, is not told of it; of several hosts he is told those that he may reach.
func TestARecordThatLeadsToAClosedHost(t *testing.T) {
	const none = "NXDOMAIN soa"
	s := hostsServer(t, intranet(t))
	for _, row := range []struct{ name, qtype, staff, contractor, guest string }{
		{"_sip._tcp.shut.own.example", "SRV", "NOERROR 0 5 5060 shut.own.example.", none, none},
		{"_sip._tcp.shut.own.example", "TXT", "NOERROR soa", none, none},
		{"_sip._tcp.shut.own.example", "A", "NOERROR soa", none, none},
		{"_sip._tcp.shut.own.example", "CNAME", "NOERROR soa", none, none},
		{"_sip._tcp.open.own.example", "SRV", "NOERROR 0 5 5060 open.own.example.", "NOERROR 0 5 5060 open.own.example.", none},
		{"_other._tcp.shut.own.example", "SRV", "NOERROR 0 5 5060 www.public.example.", none, none},
		{"_other._tcp.shut.own.example", "TXT", `NOERROR "of shut"`, none, none},
		{"phones.own.example", "SRV", "NOERROR _other._tcp.shut.own.example. 0 5 5060 www.public.example.", none, none},
		{"phones.own.example", "CNAME", "NOERROR _other._tcp.shut.own.example.", none, none},
		{"_x._tcp.away.own.example", "SRV", "NOERROR 0 5 80 www.public.example.", none, none},
		{"_x._tcp.wiki.corp.example", "SRV", "NOERROR 0 5 80 www.public.example.", none, none},
		{"_x._tcp.build.corp.example", "SRV", "NOERROR _sip._tcp.open.own.example. 0 5 5060 open.own.example.", "NOERROR _sip._tcp.open.own.example. 0 5 5060 open.own.example.", none},
		{"_ldap._tcp.corp.example", "SRV", "NOERROR 0 5 389 www.public.example.", "NOERROR 0 5 389 www.public.example.", "NOERROR 0 5 389 www.public.example."},
		{"sip.own.example", "SRV", "NOERROR 0 5 5060 shut.own.example.", none, none},
		{"phone.own.example", "SRV", "NOERROR sip.own.example. 0 5 5060 shut.own.example.", none, none},
		{"phone.own.example", "CNAME", "NOERROR sip.own.example.", none, none},
		{"alias.own.example", "CNAME", "NOERROR shut.own.example.", none, none},
		{"away.own.example", "CNAME", "NOERROR wiki.corp.example.", none, none},
		{"far.own.example", "CNAME", "NOERROR www.public.example.", "NOERROR www.public.example.", "NOERROR www.public.example."},
		{"two.own.example", "SRV", "NOERROR 0 5 1 shut.own.example. 1 5 1 open.own.example. 2 5 1 mixed.own.example.",
			"NOERROR 1 5 1 open.own.example. 2 5 1 mixed.own.example.", none},
		{"two.own.example", "HTTPS", "NOERROR soa", "NOERROR soa", none},
		{"away2.own.example", "SRV", "NOERROR 0 5 1 wiki.corp.example. 1 5 1 build.corp.example. 2 5 1 away.own.example. 3 5 1 alias.own.example.",
			"NOERROR 1 5 1 build.corp.example.", none},
		{"public.own.example", "SRV", "NOERROR 0 5 1 shut.own.example. 1 5 1 www.public.example. 2 5 1 far.own.example.",
			"NOERROR 1 5 1 www.public.example. 2 5 1 far.own.example.", "NOERROR 1 5 1 www.public.example. 2 5 1 far.own.example."},
		{"mail.own.example", "MX", "NOERROR 10 alias.own.example. 20 away.own.example.", none, none},
		{"mail.own.example", "AAAA", "NOERROR soa", none, none},
		{"gone.own.example", "MX", "NOERROR 10 none.corp.example.", "NOERROR 10 none.corp.example.", "NOERROR 10 none.corp.example."},
		{"blocked.own.example", "MX", "NOERROR 10 secret.corp.example.", "NOERROR 10 secret.corp.example.", none},
		{"spf.own.example", "MX", "NOERROR 10 shut.own.example.", "NOERROR soa", "NOERROR soa"},
		{"spf.own.example", "TXT", `NOERROR "v=spf1 mx -all"`, `NOERROR "v=spf1 mx -all"`, `NOERROR "v=spf1 mx -all"`},
		{"note.own.example", "TXT", `NOERROR "see shut.own.example"`, `NOERROR "see shut.own.example"`, `NOERROR "see shut.own.example"`},
		{"host.own.example", "MX", "NOERROR 10 shut.own.example.", "NOERROR soa", none},
		{"host.own.example", "A", "NOERROR 10.30.0.62", "NOERROR 10.30.0.62", none},
		{"a.b.wild.own.example", "SRV", "NOERROR 0 5 1 shut.own.example.", none, none},
		{"corp.example", "MX", "NOERROR 10 shut.own.example.", "NOERROR soa", "NOERROR soa"},
		{"to-ana.own.example", "SRV", "NOERROR 0 5 1 ana.peers.example. 0 5 1 wiki.corp.example.", none, none},
		{"two.own.example", "ANY", `NOERROR "RFC8482" ""`, `NOERROR "RFC8482" ""`, `NOERROR "RFC8482" ""`},
	} {
		for _, name := range []string{row.name, strings.ToUpper(row.name)} {
			for client, want := range map[netip.AddrPort]string{staff: row.staff, contractor: row.contractor, guest: row.guest, stranger: row.staff} {
				if got := brief(exchangePacket(t, s, client, query(name, row.qtype))); got != want {
					t.Errorf("%q asks for %s %s: got %s, want %s", threeGroups(client).Peer, name, row.qtype, got, want)
				}
			}
		}
	}
}

// TestTheZoneKnowsAttributesOfAHostOfOurs: what a zone has below a host of ours is closed as that host is, and nobody is asked for
// the host.
func TestTheZoneKnowsAttributesOfAHostOfOurs(t *testing.T) {
	up := intranet(t)
	up.Add(t, "_443._tcp.inside.corp.example. 300 IN TLSA 3 1 1 00", "_443._tcp.safe.corp.example. 300 IN TLSA 3 1 1 01")
	list := append(hosts(), records.Record{Name: "safe.corp.example", Addrs: addrsOf("10.20.0.64", "fd20::64")})
	s := newServer(t, Settings{
		Zones:   []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{named("corp", up)}}},
		Records: bookOf(t, list),
	}, judged(byGroup), described(threeGroups))
	for _, row := range []struct {
		client     netip.AddrPort
		name, want string
	}{
		{staff, "_443._tcp.safe.corp.example", "NOERROR 3 1 1 01"},
		{contractor, "_443._tcp.Safe.corp.example", "NXDOMAIN soa"},
		{contractor, "_443._tcp.inside.corp.example", "NOERROR 3 1 1 00"},
		{guest, "_443._tcp.inside.corp.example", "NXDOMAIN soa"},
	} {
		if got := brief(exchangePacket(t, s, row.client, query(row.name, "TLSA"))); got != row.want {
			t.Errorf("%q asks for %s: got %s, want %s", threeGroups(row.client).Peer, row.name, got, row.want)
		}
	}
	for _, msg := range up.Queries() {
		if q := msg.Question[0].Name; !strings.HasPrefix(q, "_") && q != "corp.example." {
			t.Errorf("an upstream was asked for %s", q)
		}
	}
}

// TestAHiddenRecordIsTold: whoever runs the gateway finds out what was hidden and why.
func TestAHiddenRecordIsTold(t *testing.T) {
	var told []Refused // once with each query
	s := hostsServer(t, intranet(t), func(s *setup) {
		s.Blocked = func(r Refused) {
			r.Host, r.Decided = strings.Clone(r.Host), strings.Clone(r.Decided)
			told = append(told, r)
		}
	})
	for _, row := range []struct{ name, decided, withheld string }{
		{"sip.own.example", "shut.own.example", "10.20.0.60"}, {"away2.own.example", "wiki.corp.example", "10.20.0.10"},
	} {
		flow := threeGroups(guest)
		flow.Src = guest
		a, err := s.Query(t.Context(), flow, row.name, "SRV")
		if err != nil || a.Rcode != "NXDOMAIN" || !a.Hidden || a.Decided != row.decided || a.Withheld.String() != row.withheld || a.Verdict.Rule != "no-private" {
			t.Errorf("for diagnosis, %s: got %+v, %v", row.name, a, err)
		}
		told = nil
		exchangePacket(t, s, guest, query(row.name, "SRV"))
		if len(told) != 1 || told[0].Host != row.name || told[0].Decided != row.decided || told[0].Peer != "guest" {
			t.Errorf("%s: told %+v, want it told once with what decided", row.name, told)
		}
	}
}

// TestARecordThatLeadsToAFailingZone: hosts that cannot be looked up are left out beside others. If there is no other, nobody knows
// whether the record is for him.
func TestARecordThatLeadsToAFailingZone(t *testing.T) {
	none, half := intranet(t), intranet(t)
	failing(none, func(q dns.Question) bool { return strings.HasSuffix(q.Name, ".corp.example.") })
	failing(half, func(q dns.Question) bool { return q.Qtype == dns.TypeA })
	for _, row := range []struct {
		up                *dnstest.Resolver
		client            netip.AddrPort
		name, qtype, want string
	}{
		{none, staff, "to-ana.own.example", "SRV", "NOERROR 0 5 1 ana.peers.example."},
		{none, guest, "to-ana.own.example", "SRV", "SERVFAIL"},
		{none, staff, "gone.own.example", "MX", "SERVFAIL"},
		{none, guest, "gone.own.example", "TXT", "SERVFAIL"},
		{none, staff, "_x._tcp.wiki.corp.example", "SRV", "SERVFAIL"},
		{none, staff, "away.own.example", "CNAME", "SERVFAIL"},
		{none, guest, "two.own.example", "SRV", "NXDOMAIN soa"},
		{half, staff, "to-ana.own.example", "SRV", "NOERROR 0 5 1 ana.peers.example. 0 5 1 wiki.corp.example."},
		{half, staff, "_x._tcp.wiki.corp.example", "SRV", "NOERROR 0 5 80 www.public.example."},
		{half, guest, "to-ana.own.example", "SRV", "NXDOMAIN soa"},
		{half, guest, "_x._tcp.wiki.corp.example", "SRV", "NXDOMAIN soa"},
	} {
		s := hostsServer(t, row.up)
		if got := brief(exchangePacket(t, s, row.client, query(row.name, row.qtype))); got != row.want {
			t.Errorf("%q asks for %s %s: got %s, want %s", threeGroups(row.client).Peer, row.name, row.qtype, got, row.want)
		}
	}
}

// TestStrangersFromOutsideAreNotToldOfInternalHosts: a stranger over TLS learns names of peers and zones neither from records nor
// from reverse names.
func TestStrangersFromOutsideAreNotToldOfInternalHosts(t *testing.T) {
	s := hostsServer(t, intranet(t))
	for _, row := range []struct{ name, qtype, want string }{
		{"to-ana.own.example", "SRV", "REFUSED edeProhibited"},
		{"To-Ana.own.example", "A", "REFUSED edeProhibited"},
		{"gone.own.example", "MX", "REFUSED edeProhibited"},
		{"_x._tcp.wiki.corp.example", "SRV", "REFUSED edeProhibited"},
		{"away2.own.example", "SRV", "NOERROR 3 5 1 alias.own.example."},
		{"two.own.example", "SRV", "NOERROR 0 5 1 shut.own.example. 1 5 1 open.own.example. 2 5 1 mixed.own.example."},
		{"63.0.30.10.in-addr.arpa", "PTR", "REFUSED edeProhibited"},
		{"99.0.20.10.in-addr.arpa", "PTR", "REFUSED edeProhibited"},
		{"60.0.20.10.in-addr.arpa", "PTR", "NOERROR shut.own.example."},
	} {
		packed, err := query(row.name, row.qtype).Pack()
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan string, 1)
		ex := s.start(stranger, &policy.Flow{}, replyFunc(func(msg []byte) error {
			a := new(dns.Msg)
			err := a.Unpack(msg)
			got <- brief(a)
			return err
		}))
		ex.overTLS(nil, protocolTLS)
		s.serve(t.Context(), ex, packed)
		if got := <-got; got != row.want {
			t.Errorf("%s %s: got %s, want %s", row.name, row.qtype, got, row.want)
		}
	}
}
