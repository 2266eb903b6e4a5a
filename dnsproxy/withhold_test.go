package dnsproxy

import (
	"errors"
	"net/netip"
	"testing"

	"penstock/policy"
)

// TestAPeerIsNotToldWhereItMayNotGo: the names of an intranet's hosts are for those who may reach one of their addresses.
func TestAPeerIsNotToldWhereItMayNotGo(t *testing.T) {
	up := newResolver(t, "wiki.corp.example. 300 IN A 10.20.0.10", "wiki.corp.example. 300 IN AAAA fd20::10", "both.corp.example. 300 IN A 10.20.0.10",
		"both.corp.example. 300 IN A 10.30.0.10", "alias.corp.example. 300 IN CNAME wiki.corp.example.", "wiki.corp.example. 300 IN MX 5 wiki.corp.example.",
		"quiet.corp.example. 300 IN A 10.40.0.10", "public.example. 300 IN A 203.0.113.1", "nas.home.example. 300 IN A 10.20.0.7")
	closed, quiet := netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.40.0.0/16")
	decide := func(f policy.Flow) policy.Verdict {
		switch addr := f.Dst.Addr(); {
		case f.Peer == "contractor" && (closed.Contains(addr) || addr == netip.MustParseAddr("203.0.113.1")):
			return policy.Verdict{Rule: "no-private"}
		case f.Peer == "contractor" && quiet.Contains(addr):
			return policy.Verdict{Action: policy.Drop, Rule: "quiet"}
		}
		return policy.Verdict{Action: policy.Forward, Egress: policy.EgressDirect, Rule: "rest"}
	}
	contractor, staff, stranger := netip.MustParseAddrPort("10.99.0.7:4000"), netip.MustParseAddrPort("10.99.0.8:4000"), netip.MustParseAddrPort("10.0.0.9:4000")
	peers := func(src netip.AddrPort) policy.Flow {
		return map[netip.AddrPort]policy.Flow{contractor: {Client: 7, Peer: "contractor"}, staff: {Client: 8, Peer: "staff"}}[src]
	}
	var told []Refused
	s := newServer(t, Settings{
		Upstreams: []Upstream{named("main", up)}, Zones: []Zone{{Domains: []string{"corp.example"}, Upstreams: []Upstream{named("corp", up)}}},
		AllowPrivate: []string{"home.example"},
	}, judged(decide), described(peers), func(s *setup) { s.Blocked = func(r Refused) { r.Host, r.Decided = "", ""; told = append(told, r) } })
	for _, tt := range []struct {
		says        string
		client      netip.AddrPort
		name, qtype string
		want        string
	}{
		{"who may reach it is told", staff, "wiki.corp.example", "A", "NOERROR 10.20.0.10"},
		{"who may not has no address, also from the cache", contractor, "wiki.corp.example", "A", "NOERROR soa edeBlocked"},
		{"the other family may be open", contractor, "wiki.corp.example", "AAAA", "NOERROR fd20::10"},
		{"an alias of it", contractor, "alias.corp.example", "A", "NOERROR soa edeBlocked"},
		{"one of two addresses is enough", contractor, "both.corp.example", "A", "NOERROR 10.20.0.10 10.30.0.10"},
		{"a rule that drops flows leaves no question without an answer", contractor, "quiet.corp.example", "A", "NOERROR soa edeBlocked"},
		{"a public name is not looked at", contractor, "public.example", "A", "NOERROR 203.0.113.1"},
		{"neither is a private one in no zone: it may be in the peer's own network", contractor, "nas.home.example", "A", "NOERROR 10.20.0.7"},
		{"who is no peer may have another way", stranger, "wiki.corp.example", "A", "NOERROR 10.20.0.10"},
	} {
		if got := brief(exchangePacket(t, s, tt.client, query(tt.name, tt.qtype))); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.says, got, tt.want)
		}
	}
	if got := s.Names().Lookup(7, netip.MustParseAddr("10.20.0.10")); len(got) != 1 || got[0].Host != "both.corp.example" {
		t.Errorf("names of the contractor: got %v, want only the one that it was told", got)
	}
	if len(told) != 3 || told[0].Addr != netip.MustParseAddr("10.20.0.10") || told[0].Peer != "contractor" || told[0].Verdict.Rule != "no-private" {
		t.Errorf("refused questions: got %+v, want three, with an address", told)
	}
	a, err := s.Query(t.Context(), policy.Flow{Client: 7, Peer: "contractor", Src: contractor}, "wiki.corp.example", "A")
	if err != nil || a.Rcode != "NOERROR" || len(a.Records) != 0 || a.Withheld != netip.MustParseAddr("10.20.0.10") {
		t.Errorf("for diagnosis: got %+v, %v", a, err)
	}
	if len(told) != 3 {
		t.Error("a diagnosis was told as a refused question")
	}
	q := policy.Flow{Client: 7, Peer: "contractor", Src: contractor, Dst: netip.AddrPortFrom(netip.MustParseAddr("10.20.0.10"), 443)}
	addrs, err := s.Confirm(t.Context(), q, "wiki.corp.example")
	if blocked, ok := errors.AsType[*BlockedError](err); !ok || blocked.Verdict.Rule != "no-private" || blocked.Withheld != q.Dst.Addr() {
		t.Errorf("a claim of the name: got %v, %v, want it not confirmed because its address is blocked", addrs, err)
	}
}
