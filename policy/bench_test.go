package policy

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// thousandRules is a policy of the size that a large company has: sites, networks, services and people.
func thousandRules() []Rule {
	var rules []Rule
	for i := range 999 {
		r := Rule{Name: fmt.Sprintf("rule-%d", i), Do: Do{Action: Forward, Egress: "corp"}}
		switch i % 5 {
		case 0:
			r.Match.Domain = []string{fmt.Sprintf("site%d.example", i), fmt.Sprintf("*.zone%d.example", i)}
		case 1:
			r.Match.CIDR = []string{fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)}
			r.Match.Port = []string{"22", "5432-5440"}
		case 2:
			r.Match.Domain, r.Match.Group = []string{fmt.Sprintf("app%d.example", i)}, []string{"staff"}
		case 3:
			r.Match.Peer, r.Match.Domain = []string{"bob"}, []string{fmt.Sprintf("home%d.example", i)}
			r.Do = Do{}
		case 4:
			r.Match.Category, r.Match.Schedule = []string{"gambling"}, []string{fmt.Sprintf("mon-fri %02d:00-%02d:30", i%24, i%24)}
			r.Match.Port = []string{fmt.Sprint(1024 + i)}
			r.Do = Do{}
		}
		rules = append(rules, r)
	}
	return append(rules, Rule{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}})
}

func BenchmarkDecide1000Rules(b *testing.B) {
	p := newPolicy(b, thousandRules(), worldLists(b, true))
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	flow := Flow{
		Network: TCP, Src: netip.MustParseAddrPort("10.77.0.2:40000"), Dst: netip.MustParseAddrPort("192.0.2.1:443"),
		Peer: "ana", Groups: []string{"staff"}, Time: at, Sniffed: true,
	}
	names := func(list ...Name) Flow {
		f := flow
		f.Names = list
		return f
	}
	syn := flow
	syn.Sniffed = false
	for _, row := range []struct {
		name string
		flow Flow
		rule string
	}{
		{"last rule decides", names(Name{"www.elsewhere.invalid", FromDNS}, Name{"www.elsewhere.invalid", FromSNI}), "rest"},
		{"a name of a late rule", names(Name{"www.site995.example", FromDNS}, Name{"www.site995.example", FromSNI}), "rule-995"},
		{"a SYN without a name", syn, "rest"},
	} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			var v Verdict
			for b.Loop() {
				v = p.Decide(row.flow)
			}
			if v.Rule != row.rule {
				b.Fatalf("got rule %s, want %s", v.Rule, row.rule)
			}
		})
	}
}

// BenchmarkDecisions has as many decisions as there may be.
func BenchmarkDecisions(b *testing.B) {
	at := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	var list []Decision
	for i := range 1000 {
		list = append(list, Decision{Block: i%2 == 0, Name: fmt.Sprintf("www.decided%d.example", i), Always: true})
	}
	rest := newPolicy(b, []Rule{{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}}}, worldLists(b, true))
	for _, row := range []struct {
		name string
		p    *Policy
	}{{"one rule", rest}, {"1000 rules", newPolicy(b, thousandRules(), worldLists(b, true))}} {
		p := row.p.WithDecisions(list)
		f := Flow{Network: TCP, Src: netip.MustParseAddrPort("10.77.0.2:40000"), Dst: netip.MustParseAddrPort("192.0.2.1:443"), Peer: "ana", Time: at, Sniffed: true,
			Names: []Name{{"www.elsewhere.invalid", FromDNS}, {"www.elsewhere.invalid", FromSNI}}}
		b.Run("a flow, "+row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := p.Decide(f); v.Rule != "rest" {
					b.Fatal(v)
				}
			}
		})
		b.Run("one more decision, "+row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.WithDecisions(list[1:]) // one block less, so that the rules are compiled again
			}
		})
	}
}
