package policy

import (
	"math/rand/v2"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"penstock/policy/blocklist"
	"penstock/policy/iprange"
)

// world holds the values of random policies and flows. It is small, so that rules often match.
var world = struct {
	hosts, domains, categories, peers, groups, users, egresses, schedules []string
	addrs                                                                 []netip.Addr
	cidrs, ports, protocols                                               []string
	times                                                                 []time.Time
}{
	hosts:      []string{"a.test", "x.a.test", "b.test", "y.x.a.test", "bet.example", "www.bet.example", "sex.example", "ok.bet.example", "c.d.e"},
	domains:    []string{"a.test", "*.a.test", "=a.test", "x.a.test", "b.test", "test", "=ok.bet.example", "example"},
	categories: []string{"gambling", "adult"},
	peers:      []string{"ana", "bob"},
	groups:     []string{"staff", "kids"},
	users:      []string{"ana@corp.test", "bob@corp.test"},
	egresses:   []string{"corp", EgressDirect},
	schedules:  []string{"mon-fri 09:00-17:00", "22:00-06:00", "sat,sun"},
	addrs:      []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.7")},
	cidrs:      []string{"private", "192.0.2.0/24", "10.1.0.0/16", "2001:db8::/32", "0.0.0.0/0"},
	ports:      []string{"443", "80", "1-1024", "8000-8999"},
	protocols:  []string{"tcp", "udp", "quic", "icmp"},
	times:      []time.Time{{}, time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC), time.Date(2026, 3, 7, 23, 30, 0, 0, time.UTC), time.Date(2026, 3, 3, 5, 0, 0, 0, time.UTC)},
}

// worldLists returns lists with names and one address in their categories.
func worldLists(tb testing.TB, addresses bool) *blocklist.Set {
	tb.Helper()
	b := blocklist.NewBuilder()
	gambling := "bet.example\n"
	if addresses {
		gambling += "198.51.100.7\n"
	}
	for category, list := range map[string]string{"gambling": gambling, "adult": "sex.example\nwww.bet.example\n", "other": "a.test\n"} {
		if _, err := b.Add(category, strings.NewReader(list), blocklist.Options{List: category}); err != nil {
			tb.Fatal(err)
		}
	}
	if _, err := b.Add("gambling", strings.NewReader("ok.bet.example\n"), blocklist.Options{Allow: true}); err != nil {
		tb.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func some(r *rand.Rand, chance int, list []string) []string {
	if r.IntN(chance) > 0 {
		return nil
	}
	out := []string{pick(r, list)}
	if r.IntN(3) == 0 {
		out = append(out, pick(r, list))
	}
	return out
}

// randomMatch sometimes has a Not, and a mismatch only if the caller allows it.
func randomMatch(r *rand.Rand, depth int, mismatch bool) Match {
	m := Match{
		Domain: some(r, 3, world.domains), Category: some(r, 4, world.categories), CIDR: some(r, 6, world.cidrs),
		Src: some(r, 12, world.cidrs), Port: some(r, 6, world.ports), Protocol: some(r, 8, world.protocols),
		Peer: some(r, 8, world.peers), Group: some(r, 8, world.groups), Schedule: some(r, 10, world.schedules),
		User:   some(r, 12, world.users),
		SeenIn: some(r, 10, []string{"dns", "sni", "http", "quic"}), Process: some(r, 15, []string{"/bin/a", "/bin/b"}),
	}
	m.Unit, m.Container = some(r, 15, []string{"a.service", "user/*.service", "system/b*"}), some(r, 15, []string{"web", "w*"})
	if r.IntN(15) == 0 {
		m.UID = []uint32{uint32(r.IntN(3))}
	}
	if mismatch && r.IntN(10) == 0 {
		b := r.IntN(2) == 0
		m.Mismatch = &b
	}
	if r.IntN(12) == 0 {
		b := r.IntN(2) == 0
		m.SignedIn = &b
	}
	if depth > 0 && r.IntN(4) == 0 {
		not := randomMatch(r, depth-1, mismatch)
		m.Not = &not
	}
	if m.isZero() {
		m.Domain = []string{pick(r, world.domains)}
	}
	return m
}

func randomDo(r *rand.Rand) Do {
	switch r.IntN(5) {
	case 0, 1:
		return Do{}
	case 2:
		return Do{Action: Drop}
	}
	return Do{Action: Forward, Egress: pick(r, world.egresses)}
}

func randomRules(r *rand.Rand, mismatch, unnamed bool) []Rule {
	var rules []Rule
	for i := range r.IntN(8) {
		rule := Rule{Name: string(rune('a' + i)), Match: randomMatch(r, 2, mismatch), Do: randomDo(r)}
		rule.Do.UnnamedBlock = unnamed && r.IntN(5) == 0
		rules = append(rules, rule)
	}
	return append(rules, Rule{Name: "rest", Do: randomDo(r)})
}

func randomFlow(r *rand.Rand) Flow {
	f := Flow{
		Network: Network(r.IntN(4)),
		Src:     netip.AddrPortFrom(pick(r, world.addrs), 1234),
		Dst:     netip.AddrPortFrom(pick(r, world.addrs), pick(r, []uint16{22, 80, 443, 8443})),
		Peer:    pick(r, append([]string{""}, world.peers...)),
		Time:    pick(r, world.times),
		Sniffed: r.IntN(2) == 0,
		Process: pick(r, []string{"", "/bin/a", "/bin/c"}),
	}
	f.Unit, f.Container, f.UserUnit = pick(r, []string{"", "a.service", "b.scope"}), pick(r, []string{"", "web"}), r.IntN(2) == 0
	f.Groups = some(r, 2, world.groups)
	if f.Peer != "" {
		f.User = pick(r, append([]string{""}, world.users...))
	}
	if r.IntN(3) == 0 {
		f.UID, f.HasUID = uint32(r.IntN(3)), true
	}
	for range r.IntN(3) {
		f.Names = append(f.Names, Name{pick(r, world.hosts), FromDNS})
	}
	for range r.IntN(3) {
		f.Names = append(f.Names, Name{pick(r, world.hosts), pick(r, []Source{FromSNI, FromHTTP, FromQUIC})})
	}
	return f
}

func newPolicy(tb testing.TB, rules []Rule, lists *blocklist.Set) *Policy {
	tb.Helper()
	p, err := New(Config{
		Rules: rules, Lists: func() *blocklist.Set { return lists }, Categories: world.categories,
		Egresses: world.egresses, Peers: world.peers,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// reference judges by reading the rules from the top, without an index.
type reference struct {
	rules []Rule
	lists *blocklist.Set
}

// matches evaluates a Match. With anyName the second result reports whether a name could still change the first.
func (ref reference) matches(m *Match, f *Flow, n Name, anyName bool) (holds, open bool) {
	never := false
	field := func(holds bool) { never = never || !holds }
	nameField := func(holds bool) {
		if anyName {
			open = true
		} else {
			field(holds)
		}
	}
	has := func(list []string, pred func(string) bool) bool {
		return len(list) == 0 || slices.ContainsFunc(list, pred)
	}
	in := func(addr netip.Addr) func(string) bool {
		return func(s string) bool {
			if s == "private" {
				return iprange.IsPrivate(addr)
			}
			return netip.MustParsePrefix(s).Contains(addr)
		}
	}
	if len(m.Domain) > 0 {
		nameField(has(m.Domain, func(d string) bool {
			switch {
			case d[0] == '=':
				return n.Host == d[1:]
			case d[0] == '*':
				return strings.HasSuffix(n.Host, d[1:])
			}
			return strings.HasSuffix("."+n.Host, "."+d)
		}))
	}
	if len(m.Category) > 0 {
		is := func(set blocklist.CategorySet) bool {
			return has(m.Category, func(c string) bool { return set>>slices.Index(ref.lists.Categories(), c)&1 != 0 })
		}
		if !is(ref.lists.LookupAddr(f.Dst.Addr())) {
			nameField(is(ref.lists.Lookup(n.Host)))
		}
	}
	if len(m.SeenIn) > 0 {
		nameField(has(m.SeenIn, func(s string) bool { return s == n.From.String() }))
	}
	if m.Mismatch != nil {
		nameField(*m.Mismatch == (n.From >= FromSNI && !slices.Contains(f.Names, Name{n.Host, FromDNS})))
	}
	field(has(m.CIDR, in(f.Dst.Addr())))
	field(has(m.Src, in(f.Src.Addr())))
	field(has(m.Port, func(s string) bool {
		return s == "443" && f.Dst.Port() == 443 || s == "80" && f.Dst.Port() == 80 || s == "1-1024" && f.Dst.Port() <= 1024 ||
			s == "8000-8999" && f.Dst.Port()/1000 == 8
	}))
	field(has(m.Protocol, func(s string) bool {
		return s == f.Network.String() || s == "quic" && f.Network == UDP && f.Dst.Port() == 443
	}))
	field(has(m.Peer, func(s string) bool { return s == f.Peer }))
	field(has(m.Group, func(s string) bool { return slices.Contains(f.Groups, s) }))
	field(has(m.User, func(s string) bool { return s == f.User }))
	field(m.SignedIn == nil || f.Peer != "" && *m.SignedIn == (f.User != ""))
	field(has(m.Process, func(s string) bool { return s == f.Process }))
	named := func(list []string, name string) bool {
		return has(list, func(s string) bool {
			if manager, rest, ok := strings.Cut(s, "/"); ok {
				if s = rest; f.UserUnit != (manager == "user") {
					return false
				}
			}
			ok, _ := path.Match(s, name)
			return ok && name != ""
		})
	}
	field(named(m.Unit, f.Unit))
	field(named(m.Container, f.Container))
	if len(m.UID) > 0 {
		field(f.HasUID && slices.Contains(m.UID, f.UID))
	}
	field(has(m.Schedule, func(s string) bool {
		h, d := f.Time.Hour(), f.Time.Weekday()
		weekend := d == time.Saturday || d == time.Sunday
		switch {
		case f.Time.IsZero():
			return false
		case s == "sat,sun":
			return weekend
		case s == "22:00-06:00":
			return h >= 22 || h < 6
		}
		return !weekend && h >= 9 && h < 17
	}))
	if m.Not != nil && !never {
		inner, innerOpen := ref.matches(m.Not, f, n, anyName)
		if innerOpen {
			open = true
		} else {
			field(!inner)
		}
	}
	if never {
		return false, false
	}
	return !open, open
}

func (ref reference) under(f *Flow, n Name) Verdict {
	for _, r := range ref.rules {
		v := Verdict{Action: r.Do.Action, Egress: r.Do.Egress, Rule: r.Name}
		if n.Host == "" && r.Do.UnnamedBlock {
			if holds, open := ref.matches(&r.Match, f, n, true); holds || open {
				return Verdict{Rule: r.Name, Cause: ByUnnamed}
			}
		}
		if holds, _ := ref.matches(&r.Match, f, n, false); holds {
			return v
		}
	}
	panic("the last rule matches")
}

func (ref reference) decide(f *Flow) Verdict {
	var dns, flow []Name
	for _, n := range f.Names {
		if n.From == FromDNS {
			dns = append(dns, n)
		} else {
			flow = append(flow, n)
		}
	}
	blocks := func(n Name) bool { return ref.under(f, n).Action != Forward }
	allBlocked := len(dns) > 0 && !slices.ContainsFunc(dns, func(n Name) bool { return !blocks(n) })
	var best *Verdict
	for _, n := range flow {
		v := ref.under(f, n)
		if v.Action == Forward && allBlocked && !slices.Contains(dns, Name{n.Host, FromDNS}) {
			v = ref.under(f, dns[0])
			v.Cause = BySpoof
		} else if v.Action == Forward && !slices.Contains(dns, Name{n.Host, FromDNS}) {
			base := Name{}
			if len(dns) > 0 {
				base = dns[0]
			}
			if w := ref.under(f, base); w.Action != v.Action || w.Egress != v.Egress {
				v = w
				v.Claim = n.Host
			}
		}
		if best == nil || best.Action == Forward && v.Action != Forward {
			best = &v
		}
	}
	if best != nil {
		return *best
	}
	if len(dns) > 0 {
		return ref.under(f, dns[0])
	}
	return ref.under(f, Name{})
}

func FuzzRuleOrderAgainstNaiveReference(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed*7919)
	}
	lists := worldLists(f, true)
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		rules := randomRules(r, true, true)
		p, ref := newPolicy(t, rules, lists), reference{rules, lists}
		for range 30 {
			flow := randomFlow(r)
			got, want := p.Decide(flow), ref.decide(&flow)
			needs := got.Later != LaterNothing
			got.Later, got.Category, got.ByName = LaterNothing, "", false
			if got != want {
				t.Fatalf("flow %+v\nrules %+v\ngot  %+v\nwant %+v", flow, rules, got, want)
			}
			if flow.Sniffed && needs {
				t.Fatalf("flow %+v has been read and needs a name", flow)
			}
			if x := p.Explain(flow).Verdict; x.Rule != want.Rule || x.Action != want.Action.String() {
				t.Fatalf("flow %+v\nrules %+v\nexplained as %+v\nwant %+v", flow, rules, x, want)
			}
			if flow.Sniffed || needs {
				continue
			}
			for _, host := range append(world.hosts, "unlisted.invalid") {
				for _, from := range []Source{FromSNI, FromHTTP, FromQUIC} {
					later := flow
					later.Names = append(slices.Clone(flow.Names), Name{host, from})
					if slices.ContainsFunc(flow.Names, func(n Name) bool { return n.From != FromDNS }) {
						continue // it already shows a name
					}
					v := ref.decide(&later)
					final := want.Action != Forward && v.Action != Forward && len(flow.Names) > 0 // still blocked, in another way
					if !final && (v.Action != want.Action || v.Egress != want.Egress) {
						t.Fatalf("flow %+v\nrules %+v\nneeds no name for %+v, but %s makes it %+v", flow, rules, want, host, v)
					}
				}
			}
		}
	})
}

func FuzzMoreFactsNeverTurnABlockByNameIntoAForward(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed*104729)
	}
	lists := worldLists(f, true)
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		rules := randomRules(r, false, true)
		p := newPolicy(t, rules, lists)
		for range 30 {
			flow := randomFlow(r)
			if !slices.ContainsFunc(flow.Names, func(n Name) bool { return n.From.inFlow() }) {
				flow.Names = append(flow.Names, Name{pick(r, world.hosts), FromSNI})
			}
			before := p.Decide(flow)
			alone := flow
			alone.Names = slices.DeleteFunc(slices.Clone(flow.Names), func(n Name) bool { return !n.From.inFlow() })
			if v := p.Decide(alone); before.Action == Forward || v.Action == Forward || before.Claim != "" || v.Claim != "" {
				continue // or blocked for what DNS gave or did not give, which more DNS answers can lift
			}
			more := flow
			more.Names = nil
			for range r.IntN(3) {
				more.Names = append(more.Names, Name{pick(r, world.hosts), FromDNS})
			}
			more.Names = append(more.Names, flow.Names...)
			for range r.IntN(3) {
				more.Names = append(more.Names, Name{pick(r, world.hosts), pick(r, []Source{FromSNI, FromHTTP, FromQUIC})})
			}
			if after := p.Decide(more); after.Action == Forward {
				t.Fatalf("rules %+v\nblocked %+v as %+v\nforwards %+v as %+v", rules, flow, before, more, after)
			}
		}
	})
}

func FuzzABlockedQuestionHasNoFlowThatPasses(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, seed*15485863)
	}
	lists := worldLists(f, false)
	f.Fuzz(func(t *testing.T, a, b uint64) {
		r := rand.New(rand.NewPCG(a, b))
		rules := randomRules(r, true, false)
		p := newPolicy(t, rules, lists)
		for range 10 {
			flow := randomFlow(r)
			host := pick(r, world.hosts)
			question := Flow{Src: flow.Src, Peer: flow.Peer, Groups: flow.Groups, User: flow.User, Time: flow.Time, Names: []Name{{host, FromQuestion}}}
			if r.IntN(2) == 0 { // one of its addresses is known
				question.Dst = netip.AddrPortFrom(flow.Dst.Addr(), 0)
			}
			v := p.DecideName(question)
			if v.Action == Forward {
				continue
			}
			for range 10 {
				then := randomFlow(r)
				then.Src, then.Peer, then.Groups, then.User, then.Time = flow.Src, flow.Peer, flow.Groups, flow.User, flow.Time
				if p.signIn && flow.Peer != "" && flow.User == "" && r.IntN(2) == 0 { // somebody has signed in meanwhile
					then.User, then.Groups = pick(r, world.users), append(slices.Clone(flow.Groups), pick(r, world.groups))
				}
				if question.Dst.IsValid() {
					then.Dst = netip.AddrPortFrom(flow.Dst.Addr(), then.Dst.Port())
				}
				then.Names = []Name{{host, FromDNS}, {host, pick(r, []Source{FromSNI, FromHTTP, FromQUIC})}}[:1+r.IntN(2)]
				if after := p.Decide(then); after.Action == Forward {
					t.Fatalf("rules %+v\nquestion %+v blocked as %+v\nflow %+v forwards as %+v", rules, question, v, then, after)
				}
			}
		}
	})
}
