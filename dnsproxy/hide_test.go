package dnsproxy

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
)

// TestANameOfOursIsHiddenLikeAMissingOne: wherever a name of ours is, who may not know of it gets in every octet what he gets for the
// name beside it, which nobody has.
func TestANameOfOursIsHiddenLikeAMissingOne(t *testing.T) {
	list := append(hosts(),
		records.Record{Name: "safe.corp.example", Addrs: addrsOf("10.20.0.64")},
		records.Record{Name: "_x._tcp.safe.corp.example", SRV: []string{"0 0 1 safe.corp.example"}},
		records.Record{Name: "nas.local", Addrs: addrsOf("10.20.0.65")},
		records.Record{Name: "single", Addrs: addrsOf("10.20.0.66")},
		records.Record{Name: "bob.peers.example", TTL: 300e9, Addrs: addrsOf("10.20.0.98", "fd20::98")},
	)
	up := intranet(t)
	up.AnswerWith(func(w dns.ResponseWriter, q *dns.Msg) bool {
		zone := "."
		switch name := q.Question[0].Name; {
		case strings.HasSuffix(name, ".example."):
			return false
		case strings.HasSuffix(name, ".arpa."):
			zone = "10.in-addr.arpa."
		}
		a := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
		soa, err := dns.NewRR(zone + " 300 IN SOA ns.arpa. root.ns.arpa. 1 3600 600 86400 60")
		a.Ns = []dns.RR{soa}
		w.WriteMsg(a)
		return err == nil
	})
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)},
		Zones:     []Zone{{Domains: []string{"corp.example", "20.10.in-addr.arpa"}, Upstreams: []Upstream{named("corp", up)}}},
		Records:   bookOf(t, list, "peers.example"),
	}, judged(byGroup), described(threeGroups))
	for hidden, missing := range map[string]string{
		"shut.own.example":           "shot.own.example",
		"alias.own.example":          "elias.own.example",
		"away.own.example":           "awry.own.example",
		"sip.own.example":            "sap.own.example",
		"phone.own.example":          "phono.own.example",
		"_sip._tcp.shut.own.example": "_sup._tcp.shut.own.example",
		"x.wild.own.example":         "x.wold.own.example",
		"safe.corp.example":          "sale.corp.example",
		"_x._tcp.safe.corp.example":  "_y._tcp.safe.corp.example",
		"single":                     "simple",
		"nas.local":                  "nos.local",
		"bob.peers.example":          "eve.peers.example",
		"60.0.20.10.in-addr.arpa":    "59.0.20.10.in-addr.arpa",
		"62.0.30.10.in-addr.arpa":    "59.0.30.10.in-addr.arpa", // in no zone
		"8.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.d.f.ip6.arpa": "7.9.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.d.f.ip6.arpa",
	} {
		for _, qtype := range []string{"A", "AAAA", "TXT", "CNAME", "SRV", "PTR", "SOA", "ANY"} {
			sameAnswer(t, s, guest, hidden, missing, qtype)
		}
	}
	for _, msg := range up.Queries() {
		q := strings.ToLower(msg.Question[0].Name)
		for _, name := range []string{"shut.own.", "sip.own.", "single", "bob.", "60.0.20.", "60.0.30."} {
			if strings.HasPrefix(q, name) && !strings.HasPrefix(q, "_") {
				t.Errorf("an upstream was asked for %s", q)
			}
		}
	}
}

// octets returns the answer to a client but for its id and the letters of its name, so that answers about two names of one shape can
// be compared.
func octets(t *testing.T, s *Server, client netip.AddrPort, q *dns.Msg) []byte {
	t.Helper()
	packed, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan []byte, 1)
	s.ServePacket(t.Context(), client, packed, func(msg []byte) error { answers <- bytes.Clone(msg); return nil })
	msg := <-answers
	msg[0], msg[1] = 0, 0
	for off := wire.HeaderLen; msg[off] != 0; {
		end := off + 1 + int(msg[off])
		for off++; off < end; off++ {
			msg[off] = 'x'
		}
	}
	return msg
}

// sameAnswer fails the test if two names can be told from each other by the answers to a client, or exist.
func sameAnswer(t *testing.T, s *Server, client netip.AddrPort, hidden, missing, qtype string) {
	t.Helper()
	for _, edns := range []bool{true, false} {
		for _, spell := range []func(string) string{strings.ToLower, strings.ToUpper} {
			q, q2 := query(spell(hidden), qtype), query(spell(missing), qtype)
			if !edns {
				q.Extra, q2.Extra = nil, nil
			}
			a, b := octets(t, s, client, q), octets(t, s, client, q2)
			if !bytes.Equal(a, b) || qtype != "ANY" && a[3]&0xf != dns.RcodeNameError {
				t.Errorf("%s %s: got\n%q\nand for %s\n%q", spell(hidden), qtype, a, missing, b)
				return
			}
		}
	}
}

// TestANameOfOursIsHiddenWithoutUpstreams: no upstream is needed for that.
func TestANameOfOursIsHiddenWithoutUpstreams(t *testing.T) {
	up := intranet(t)
	failing(up, func(dns.Question) bool { return true })
	for says, list := range map[string][]Upstream{"none": nil, "one that fails": {named("main", up)}} {
		s := newServer(t, Settings{Upstreams: list, Records: bookOf(t, hosts())}, judged(byGroup), described(threeGroups))
		for _, name := range []string{"shut.own.example", "_sip._tcp.shut.own.example"} {
			if got := brief(exchangePacket(t, s, guest, query(name, "A"))); got != "NXDOMAIN soa" {
				t.Errorf("%s: %s: got %s", says, name, got)
			}
			if got := brief(exchangePacket(t, s, staff, query("shut.own.example", "A"))); got != "NOERROR 10.20.0.60" {
				t.Errorf("%s: who may reach %s: got %s", says, name, got)
			}
		}
	}
}
