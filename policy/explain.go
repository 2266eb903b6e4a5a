package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Explanation says how a verdict came about.
type Explanation struct {
	Decided    Verdict          `json:"-"` // what Decide or DecideName returns for the same flow
	Verdict    ExplainedVerdict `json:"verdict"`
	Pos        Position         `json:"pos"`                  // of the deciding rule
	Because    string           `json:"because"`              // one sentence
	Names      []ExplainedName  `json:"names,omitempty"`      // every name of the flow and the verdict under it alone
	Categories []CategoryHit    `json:"categories,omitempty"` // every category that a name or the destination is in
	Rules      []ExplainedRule  `json:"rules"`                // every rule in order, judged under the deciding name
	Shadowed   []string         `json:"shadowed,omitempty"`   // later rules that match too
	Lifted     []string         `json:"lifted,omitempty"`     // earlier rules that would block, if no decision kept them from it
	WouldTurn  []string         `json:"would_turn,omitempty"` // facts that would change the verdict
}

// ExplainedVerdict is a Verdict in words.
type ExplainedVerdict struct {
	Action   string `json:"action"` // refuse, drop, forward
	Egress   string `json:"egress,omitempty"`
	Rule     string `json:"rule"`
	Category string `json:"category,omitempty"`
	Later    string `json:"later,omitempty"` // what a name learnt later could change: block or egress
	Claim    string `json:"claim,omitempty"` // a name that the flow shows but DNS did not confirm; it does not count
}

// ExplainedName is one name of a flow.
type ExplainedName struct {
	Host    string `json:"host"`
	From    string `json:"from"`    // question, dns, sni, http, quic
	Judged  bool   `json:"judged"`  // this name decided
	Verdict string `json:"verdict"` // refuse, drop, via EGRESS
	Rule    string `json:"rule"`
}

// CategoryHit is a name or an address and a category that it is in.
type CategoryHit struct {
	What     string `json:"what"`
	Category string `json:"category"`
	Lifted   bool   `json:"lifted,omitempty"` // a decision allows the category
}

// ExplainedRule is one rule and whether it matches the flow.
type ExplainedRule struct {
	Name     string   `json:"name"`
	Pos      Position `json:"pos"`
	Match    string   `json:"match"` // yes, no, maybe
	Why      string   `json:"why"`
	Deciding bool     `json:"deciding,omitempty"`
}

// String returns the action as logs and explanations write it.
func (a Action) String() string {
	switch a {
	case Refuse:
		return "refuse"
	case Drop:
		return "drop"
	case Forward:
		return "forward"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// String returns tcp, udp, icmp or unknown.
func (n Network) String() string {
	switch n {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case ICMP:
		return "icmp"
	}
	return "unknown"
}

// NetworkOf returns the Network that s names, or NetworkUnknown.
func NetworkOf(s string) Network {
	for n := TCP; n <= ICMP; n++ {
		if n.String() == s {
			return n
		}
	}
	return NetworkUnknown
}

// String returns block or egress, or "" for a final verdict.
func (l Later) String() string {
	switch l {
	case LaterBlock:
		return "block"
	case LaterEgress:
		return "egress"
	}
	return ""
}

func (v Verdict) words() string {
	if v.Action == Forward {
		return "via " + v.Egress
	}
	return v.Action.String()
}

// Explain judges a flow as Decide does and says why. If Names[0] is from FromQuestion and there is no destination, it
// judges a question as DecideName does. It allocates.
func (p *Policy) Explain(f Flow) Explanation {
	var x Explanation
	if p == nil || len(p.rules) == 0 {
		x.Because = "there is no policy: everything is refused"
		return x
	}
	question := len(f.Names) > 0 && f.Names[0].From == FromQuestion && !f.Dst.IsValid()
	s := explainer{judge{p.begin(&f, question)}}
	defer s.end()

	var judged Name
	var decisive judgement
	judgements := map[Name]judgement{}
	listen := trace(func(n Name, j judgement) {
		if len(judgements) == 0 || j.blocks() && !decisive.blocks() {
			judged, decisive = n, j
		}
		judgements[n] = j
	})
	var j judgement
	if question {
		j = s.decideName(listen)
	} else {
		j = s.decide(listen)
	}
	v := s.settle(j)
	x.Decided = v
	x.Verdict = ExplainedVerdict{v.Action.String(), v.Egress, v.Rule, v.Category, v.Later.String(), v.Claim}
	x.Pos = p.rules[decisive.rule].Pos
	for _, n := range f.Names {
		j, ok := judgements[n]
		if !ok && !question {
			j = s.under(n)
		}
		name := ExplainedName{Host: n.Host, From: n.From.String(), Judged: n == judged}
		if ok || !question {
			name.Verdict, name.Rule = j.verdict.words(), j.verdict.Rule
		}
		x.Names = append(x.Names, name)
	}
	x.Categories = s.hits()
	x.Because = because(judged, decisive, v, x.Categories)
	if d := p.decision(decisive.rule); d != nil && v.Cause == ByDecision {
		x.Because = d.because(judged)
	}
	s.explainRules(&x, judged, decisive, v)
	return x
}

// explainer describes what a judge does.
type explainer struct{ judge }

// because returns one sentence with the reason for a verdict.
func because(n Name, j judgement, v Verdict, hits []CategoryHit) string {
	subject := "the flow has no name"
	if n.Host != "" {
		subject = fmt.Sprintf("the flow is judged as %s (%s)", n.Host, n.From)
	}
	rule := fmt.Sprintf("rule %q", v.Rule)
	switch {
	case v.Claim != "":
		return fmt.Sprintf("the flow claims to be for %s, but DNS did not return its address for that name, so the name does not count: %s decides", v.Claim, rule)
	case j.verdict.Cause == BySpoof:
		return fmt.Sprintf("%s, but the client looked up only blocked names for its address, and not that one: %s blocks it", subject, rule)
	}
	switch v.Cause {
	case ByUnnamed:
		return fmt.Sprintf("the flow has no name, and %s blocks unnamed flows", rule)
	case ByLoop:
		return fmt.Sprintf("the destination is in one of penstock's own networks, so the flow would loop back here: it is dropped, even if %s forwards it", rule)
	case ByPeers:
		return fmt.Sprintf("%s would forward the flow, but its destination is a peer, which only a rule with match.peers opens", rule)
	case ByGuard:
		return fmt.Sprintf("%s would forward the flow, but its destination is this machine or a reserved address, which only a rule with match.gateway opens", rule)
	case ByQuota:
		return fmt.Sprintf("%s would forward the flow, but the peer has used up its quota of this month", rule)
	case BySignIn:
		return fmt.Sprintf("somebody has to sign in at %s before this peer may go there: %s", v.SignIn, rule)
	case ByTrusted:
		return fmt.Sprintf("%s: %s goes direct because the network is trusted", subject, rule)
	case ByPortal:
		return fmt.Sprintf("%s: %s goes direct because the flow is for the captive portal, which is open now", subject, rule)
	case ByRoutes:
		return fmt.Sprintf("%s: %s goes direct because the server of its transport does not route the destination", subject, rule)
	case ByFallback:
		return fmt.Sprintf("%s: %s goes direct because its transport is not up", subject, rule)
	}
	if v.Category == "" {
		return fmt.Sprintf("%s: %s", subject, rule)
	}
	is := func(named bool) func(CategoryHit) bool {
		return func(h CategoryHit) bool { return h.Category == v.Category && (h.What == n.Host) == named }
	}
	if i := slices.IndexFunc(hits, is(false)); i >= 0 && !slices.ContainsFunc(hits, is(true)) { // by the destination's address
		subject = "the flow goes to " + hits[i].What
	}
	return fmt.Sprintf("%s, which is in category %s: %s", subject, v.Category, rule)
}

// because returns one sentence for a verdict that a decision made.
func (d *Decision) because(n Name) string {
	text := "the flow has no name"
	if n.Host != "" {
		text = fmt.Sprintf("the flow is judged as %s (%s)", n.Host, n.From)
	}
	text += ": " + d.Target() + " is blocked by a decision"
	if !d.Made.IsZero() {
		text += " of " + d.Made.Local().Format(time.DateTime)
	}
	if !d.Always {
		text += ", until " + d.Until.Local().Format(time.DateTime)
	}
	return text
}

// hits returns every category of every name and of the destination, including lifted ones.
func (s explainer) hits() []CategoryHit {
	var list []CategoryHit
	add := func(what string, bit int) {
		c := s.set.Categories()[bit]
		hit := CategoryHit{what, c, s.isLifted(c)}
		if !slices.Contains(list, hit) {
			list = append(list, hit)
		}
	}
	for _, n := range s.flow.Names {
		for bit := range s.set.Lookup(n.Host).Bits() {
			add(n.Host, bit)
		}
	}
	if addr := s.flow.Dst.Addr().Unmap(); addr.IsValid() {
		for bit := range s.set.LookupAddr(addr).Bits() {
			add(addr.String(), bit)
		}
	}
	return list
}

// explainRules adds to x whether each rule matches under the judged name, which later rules match too, and what could
// change the verdict.
func (s explainer) explainRules(x *Explanation, judged Name, j judgement, v Verdict) {
	p := s.policy
	closed := s.look(judged)
	if v.Later != LaterNothing {
		s.lookOpen()
	}
	for i := range p.rules {
		r, t := &p.rules[i], s.tri(closed, i)
		e := ExplainedRule{Name: r.Name, Pos: r.Pos, Match: t.String(), Why: s.why(closed, &r.Match, i), Deciding: i == j.rule}
		switch {
		case e.Deciding && t == no:
			e.Why = "the flow has no name, and this rule blocks unnamed flows"
			if j.verdict.Cause == BySpoof || v.Claim != "" {
				e.Why = "this rule decides because the name in the flow does not count"
			}
		case t != no && s.spares(closed, i):
			e.Why = "matches, but a decision lifts it"
			if t == yes && i < j.rule {
				x.Lifted = append(x.Lifted, r.Name)
			}
		case i > j.rule && t == yes && p.decision(i) == nil:
			x.Shadowed = append(x.Shadowed, r.Name)
		}
		if p.decision(i) == nil || t != no {
			x.Rules = append(x.Rules, e)
		}
		if p.decision(i) != nil {
			continue
		}
		if v.Later != LaterNothing && p.differs[p.outcomes[j.rule]].has(i) {
			switch t := s.tri(&s.open, i); {
			case t == maybe && i != j.rule, t == yes && i > j.rule:
				x.WouldTurn = append(x.WouldTurn, fmt.Sprintf("a name that makes rule %q decide (%s)", r.Name, s.judgement(i, "").verdict.words()))
			}
		}
		if s.question && t == maybe && i <= j.rule {
			x.WouldTurn = append(x.WouldTurn, fmt.Sprintf("what the flow itself shows, if it makes rule %q match", r.Name))
		}
	}
}

// why lists the conditions of a matcher that fail, or else those that are not known, or else all of them.
func (s explainer) why(v *view, m *Match, i int) string {
	var holds, open, fails []string
	for _, c := range s.conditions(v, m, i) {
		switch c.holds {
		case yes:
			holds = append(holds, c.text)
		case maybe:
			open = append(open, c.text)
		case no:
			fails = append(fails, c.text)
		}
	}
	switch {
	case len(fails) > 0:
		return "not " + strings.Join(fails, ", not ")
	case len(open) > 0:
		return "not known yet: " + strings.Join(open, ", ")
	case len(holds) > 0:
		return strings.Join(holds, ", ")
	}
	return "matches everything"
}

// condition is one field of a match and whether it holds.
type condition struct {
	text  string
	holds tri
}

func (s explainer) conditions(v *view, m *Match, i int) []condition {
	f, c := &s.flow, &s.policy.matchers[i]
	var list []condition
	add := func(field string, values []string, holds tri) {
		if len(values) > 0 {
			list = append(list, condition{field + " " + strings.Join(shorten(values), ", "), holds})
		}
	}
	known := func(holds bool) tri {
		if s.question {
			return maybe
		}
		return triOf(holds)
	}
	add("domain", m.Domain, triOf(slices.ContainsFunc(m.Domain, func(d string) bool { return domainHolds(d, v.name.Host) })))
	hits := s.categoriesOf(v.name.Host)
	add("category", m.Category, triOf(slices.ContainsFunc(m.Category, func(c string) bool {
		for bit := range hits.Bits() {
			if s.set.Categories()[bit] == c && !(i < len(s.policy.rules) && s.policy.lifts.has(i) && s.isLifted(c)) {
				return true
			}
		}
		return false
	})))
	add("destination", m.CIDR, known(anyPrefix(m.CIDR, f.Dst.Addr())))
	add("source", m.Src, triOf(anyPrefix(m.Src, f.Src.Addr())))
	add("port", m.Port, known(slices.ContainsFunc(m.Port, func(s string) bool {
		r, _ := parsePorts(s) // New has parsed it
		return r.first <= f.Dst.Port() && f.Dst.Port() <= r.last
	})))
	add("protocol", m.Protocol, known(slices.ContainsFunc(m.Protocol, func(s string) bool {
		p := f.protocol()
		return s == protocolNames[p] && s != "" || p == protocolQUIC && s == "udp"
	})))
	add("peer", m.Peer, triOf(slices.Contains(m.Peer, f.Peer)))
	grouped := triOf(slices.ContainsFunc(m.Group, func(g string) bool { return slices.Contains(f.Groups, g) }))
	if grouped == no && s.maySignIn() {
		grouped = maybe
	}
	add("group", m.Group, grouped)
	if m.SignedIn != nil || len(m.User) > 0 {
		add("signed in", append(words(optional(m.SignedIn)), m.User...), s.signIn(c))
	}
	if c.program != nil {
		add("program", slices.Concat(words(m.UID), m.Process, m.Unit, m.Container), s.program(c))
	}
	add("schedule", m.Schedule, s.clock(c))
	add("seen in", m.SeenIn, s.seenIn(v, c))
	if m.Mismatch != nil {
		add("mismatch", words([]bool{*m.Mismatch}), s.mismatch(v, c))
	}
	if m.Gateway {
		add("destination", []string{"this machine"}, known(c.opens(f.place())))
	}
	if m.Peers {
		add("destination", []string{"a peer"}, known(c.opens(f.place())))
	}
	if m.Not != nil {
		child := int(c.not)
		add("not:", []string{"(" + s.why(v, m.Not, child) + ")"}, yes-s.tri(v, child))
	}
	return list
}

func domainHolds(pattern, host string) bool {
	name, kind, _ := parseDomain(pattern) // New has parsed it
	switch kind {
	case domainBelow:
		return host != name && isAtOrBelow(host, name)
	case domainExact:
		return host == name
	}
	return isAtOrBelow(host, name)
}

func anyPrefix(list []string, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		prefixes, _ := parsePrefixes(s) // New has parsed it
		return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr.Unmap().WithZone("")) })
	})
}

// optional returns the value that p points to, if any, as a list.
func optional[T any](p *T) []T {
	if p == nil {
		return nil
	}
	return []T{*p}
}

func words[T any](list []T) []string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = fmt.Sprint(x)
	}
	return out
}

// shorten keeps a rule with a thousand domains readable.
func shorten(values []string) []string {
	const most = 4
	if len(values) <= most {
		return values
	}
	return append(slices.Clone(values[:most]), fmt.Sprintf("and %d more", len(values)-most))
}
