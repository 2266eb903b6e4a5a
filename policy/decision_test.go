package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatIsDecidedComesBeforeTheRules(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	soon := now.Add(time.Minute)
	const (
		open    = "via direct by rest"
		decided = "refuse by decision"
		listed  = "refuse by no-gambling for gambling"
	)
	for _, row := range []struct {
		name, host, peer string
		decisions        []Decision
		want             string
	}{
		{"a name is blocked", "b.test", "ana", []Decision{{Block: true, Name: "b.test", Always: true}}, decided},
		{"and what is below it", "x.b.test", "", []Decision{{Block: true, Name: "b.test", Always: true}}, decided},
		{"but not what is beside it", "xb.test", "", []Decision{{Block: true, Name: "b.test", Always: true}}, open},
		{"a block for a peer", "b.test", "bob", []Decision{{Block: true, Name: "b.test", Peer: "ana", Always: true}}, open},
		{"a category is blocked", "a.test", "", []Decision{{Block: true, Category: "other", Always: true}}, "refuse by decision for other"},
		{"a category that nobody has", "a.test", "", []Decision{{Block: true, Category: "none", Always: true}}, open},
		{"a block that is over", "b.test", "", []Decision{{Block: true, Name: "b.test", Until: now}}, open},
		{"a block that is not", "b.test", "", []Decision{{Block: true, Name: "b.test", Until: soon}}, decided},
		{"an allow without an end that says so", "bet.example", "", []Decision{{Name: "bet.example"}}, listed},
		{"a name that is always allowed", "bet.example", "", []Decision{{Name: "bet.example", Always: true}}, open},
		{"a block within an allow", "x.bet.example", "", []Decision{{Name: "bet.example", Always: true}, {Block: true, Name: "x.bet.example", Always: true}}, decided},
		{"an allow within a block", "x.b.test", "", []Decision{{Block: true, Name: "b.test", Always: true}, {Name: "x.b.test", Always: true}}, open},
		{"for a while, against what is always", "b.test", "", []Decision{{Block: true, Name: "b.test", Always: true}, {Name: "b.test", Until: soon}}, open},
		{"and the other way round", "bet.example", "", []Decision{{Name: "bet.example", Always: true}, {Block: true, Name: "bet.example", Until: soon}}, decided},
		{"for a peer, against what is for all", "b.test", "ana", []Decision{{Block: true, Name: "b.test", Always: true}, {Name: "b.test", Peer: "ana", Always: true}}, open},
		{"and for the others", "b.test", "bob", []Decision{{Block: true, Name: "b.test", Always: true}, {Name: "b.test", Peer: "ana", Always: true}}, decided},
		{"in doubt it is blocked", "b.test", "", []Decision{{Name: "b.test", Always: true}, {Block: true, Name: "b.test", Always: true}}, decided},
		{"a name against a category", "a.test", "", []Decision{{Block: true, Category: "other", Always: true}, {Name: "a.test", Always: true}}, open},
		{"a category for a while, against always", "a.test", "", []Decision{{Block: true, Category: "other", Always: true}, {Category: "other", Until: soon}}, open},
		{"a pause", "bet.example", "", []Decision{{Filter: true, Until: soon}}, open},
		{"a pause that is over", "bet.example", "", []Decision{{Filter: true, Until: now}}, listed},
		{"a pause for another peer", "bet.example", "bob", []Decision{{Filter: true, Peer: "ana", Until: soon}}, listed},
		{"a pause of what was decided", "b.test", "", []Decision{{Block: true, Name: "b.test", Always: true}, {Filter: true, Until: soon}}, open},
	} {
		rules := append(slices.Clone(house()[:len(house())-1]), Rule{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}})
		p := newPolicy(t, rules, worldLists(t, false)).WithDecisions(row.decisions)
		f := web(Name{row.host, FromDNS}, Name{row.host, FromSNI})
		f.Peer, f.Time, f.Sniffed = row.peer, now, true
		v := p.Decide(f)
		if got := v.line(); got != row.want {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
		if x := p.Explain(f); x.Decided != v {
			t.Errorf("%s: explained as %+v", row.name, x.Decided)
		}
		q := p.DecideName(Flow{Peer: row.peer, Time: now, Names: []Name{{row.host, FromQuestion}}})
		if (q.Action == Forward) != (v.Action == Forward) {
			t.Errorf("%s: its question got %s", row.name, q.line())
		}
		if (v.Cause == ByDecision) != strings.HasPrefix(row.want, decided) {
			t.Errorf("%s: the cause is %d", row.name, v.Cause)
		}
	}
}

func TestADecisionIsExplained(t *testing.T) {
	made := time.Date(2026, 3, 2, 10, 0, 0, 0, time.Local)
	p := newPolicy(t, house(), worldLists(t, false)).WithDecisions([]Decision{{Block: true, Name: "b.test", Always: true, Made: made}})
	f := web(Name{"www.b.test", FromDNS})
	f.Sniffed = true
	if got, want := p.Explain(f).Because, "the flow is judged as www.b.test (dns): b.test is blocked by a decision of 2026-03-02 10:00:00"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n := len(p.Rules()); n != len(house()) {
		t.Errorf("got %d rules, want the %d of the configuration", n, len(house()))
	}
}

// A name that a flow may still show can be one that somebody has blocked.
func TestAFlowIsReadForWhatSomebodyHasBlocked(t *testing.T) {
	p := newPolicy(t, []Rule{{Name: "rest", Do: Do{Action: Forward, Egress: EgressDirect}}}, nil)
	if v := p.Decide(web()); v.Later != LaterNothing {
		t.Fatalf("without a decision: got %+v", v)
	}
	if v := p.WithDecisions([]Decision{{Block: true, Name: "b.test", Always: true}}).Decide(web()); v.Later != LaterBlock {
		t.Errorf("got %+v, want it to be read", v)
	}
}

// When a pause is over, flows are judged again, and so their names must be known.
func TestAFlowIsReadDuringAPause(t *testing.T) {
	now := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)
	p := newPolicy(t, house(), worldLists(t, false)).WithDecisions([]Decision{{Filter: true, Until: now.Add(time.Minute)}})
	f := web()
	f.Time = now
	if v := p.Decide(f); v.Action != Forward || v.Later != LaterBlock {
		t.Errorf("got %+v, want it to be read", v)
	}
}

// byAddress reports, from what is written, whether a rule blocks and no decision may lift it.
func byAddress(r Rule) bool {
	m := &r.Match
	if len(m.Domain) > 0 || len(m.Category) > 0 || len(m.SeenIn) > 0 || m.Mismatch != nil {
		return r.Do.SignIn != ""
	}
	for n := m.Not; n != nil; n = n.Not {
		if len(n.Domain) > 0 || len(n.Category) > 0 || len(n.SeenIn) > 0 || n.Mismatch != nil {
			return r.Do.SignIn != "" || len(m.CIDR) > 0
		}
	}
	return true
}

func FuzzAnAllowOpensNothingButBlocksByName(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(seed, seed*15487469)
	}
	lists := worldLists(f, true)
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		rules := randomRules(r, true, true)
		for i := range rules {
			if rules[i].Do.Action == Refuse && r.IntN(4) == 0 {
				rules[i].Do.SignIn = signInPage
			}
		}
		p := newPolicy(t, rules, lists)
		var list []Decision
		for range 1 + r.IntN(4) {
			d := Decision{Peer: pick(r, append([]string{""}, world.peers...)), Always: r.IntN(2) == 0, Until: world.times[2].Add(time.Hour)}
			switch r.IntN(3) {
			case 0:
				d.Name = pick(r, world.hosts)
			case 1:
				d.Category = pick(r, world.categories)
			default:
				d.Filter = true
			}
			list = append(list, d)
		}
		with := p.WithDecisions(list)
		for i := range list {
			list[i].Block = !list[i].Filter && r.IntN(2) == 0
		}
		mixed := p.WithDecisions(list)
		for range 40 {
			flow := randomFlow(r)
			flow.Place = Place(r.IntN(int(Reserved) + 1))
			flow.Now = &Conditions{OverQuota: map[string]bool{"ana": r.IntN(2) == 0}}
			if r.IntN(6) == 0 {
				flow.Dst = netip.AddrPortFrom(netip.MustParseAddr("169.254.169.254"), 80)
			}
			before, after := p.Decide(flow), with.Decide(flow)
			if x := mixed.Explain(flow); x.Decided != mixed.Decide(flow) {
				t.Fatalf("flow %+v\nrules %+v\ndecisions %+v\nexplained as %+v, judged %+v", flow, rules, list, x.Decided, mixed.Decide(flow))
			}
			if before.Action == Forward && after.Action != Forward {
				t.Fatalf("flow %+v\nrules %+v\ndecisions %+v\nan allow blocks: %+v, before %+v", flow, rules, with.Decisions(), after, before)
			}
			if after.Action != Forward || before.Action == Forward {
				continue
			}
			rule, _ := p.Rule(before.Rule)
			switch before.Cause {
			case ByGuard, ByQuota, BySignIn, ByLoop, ByPeers:
				t.Fatalf("flow %+v\nrules %+v\ndecisions %+v\nopened %+v, as %+v", flow, rules, with.Decisions(), before, after)
			}
			if byAddress(rule) {
				t.Fatalf("flow %+v\nrules %+v\ndecisions %+v\nopened a block by address %+v, as %+v", flow, rules, with.Decisions(), before, after)
			}
			if after.Rule == before.Rule {
				t.Fatalf("flow %+v: the rule that blocked it forwards it: %+v", flow, after)
			}
		}
	})
}

// A blocked name stays blocked whatever the rules say, and a flow that is final for the policy needs no further name.
func FuzzWhatIsBlockedByDecisionIsBlocked(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed*32452843)
	}
	lists := worldLists(f, true)
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		host := pick(r, world.hosts)
		p := newPolicy(t, randomRules(r, true, true), lists).WithDecisions([]Decision{{Block: true, Name: host, Always: true}})
		for range 30 {
			flow := randomFlow(r)
			v := p.Decide(flow)
			shown := slices.ContainsFunc(flow.Names, func(n Name) bool { return n.From.inFlow() && isAtOrBelow(n.Host, host) })
			if shown && v.Action == Forward {
				t.Fatalf("%+v shows %s and is forwarded: %+v", flow, host, v)
			}
			if v.Action != Forward || v.Later != LaterNothing || flow.Sniffed || slices.ContainsFunc(flow.Names, func(n Name) bool { return n.From.inFlow() }) {
				continue
			}
			t.Fatalf("%+v is final as %+v, although it may yet show %s", flow, v, host)
		}
	})
}
