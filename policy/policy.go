package policy

import "math/bits"

// Rule returns the rule of that name.
func (p *Policy) Rule(name string) (Rule, bool) {
	i, ok := p.byName[name]
	if !ok {
		return Rule{}, false
	}
	return p.rules[i], true
}

// Rules returns all rules in order, without those that decisions are. The caller must not change them.
func (p *Policy) Rules() []Rule { return p.config.Rules }

// Edition returns the number set by WithEdition.
func (p *Policy) Edition() uint64 { return p.edition }

// Decide judges a flow: the first rule that matches decides. A condition on an unknown fact does not match.
//
// Which name counts:
//   - A name read in the flow counts before names from DNS. If the flow shows several, the strictest verdict wins.
//   - If the flow shows none, the name that DNS gave last for the address counts.
//   - A name in the flow can always block. It can forward a flow, or change its egress, only if DNS gave the flow's
//     address for it. Otherwise Decide ignores the name and returns it as Verdict.Claim.
//   - If DNS gave only blocked names for the address, no other name in the flow lifts the block.
//
// The verdict assumes that no further name comes; Verdict.Later says what one could change. Set Flow.Sniffed if nobody
// will read the flow.
//
// Flow.Now, Flow.Down and Flow.Place complete the verdict: a trusted network, a captive portal, a peer over its quota, a
// transport that is not up, and destinations that only a rule with Match.Gateway or Match.Peers opens. What somebody has decided
// meanwhile comes before the rules: see WithDecisions.
func (p *Policy) Decide(f Flow) Verdict {
	if p == nil || len(p.rules) == 0 {
		return Verdict{}
	}
	s := judge{p.begin(&f, false)}
	v := s.settle(s.decide(nil))
	s.end()
	return v
}

// DecideName judges a DNS question: Names[0] is the name asked for, from FromQuestion. Address, port, protocol and
// program are not known yet. For an answer, Dst is an address in it, without a port, and Place says where that is. DecideName
// blocks only if the flow would be blocked whatever is not known turns out to be. With any other verdict, the flow that follows is
// judged again. Rule and egress are those of the first rule that matches for certain. If that rule blocks and an earlier one might
// forward, they are those of the earlier rule.
//
// A rule that sends flows to the DNS server, or to the page for signing in, counts only if it matches for certain: it captures what
// is for penstock itself, not sites.
func (p *Policy) DecideName(f Flow) Verdict {
	if p == nil || len(p.rules) == 0 || len(f.Names) == 0 {
		return Verdict{}
	}
	s := judge{p.begin(&f, true)}
	v := s.settle(s.decideName(nil))
	s.end()
	return v
}

// judge makes decisions with a scan.
type judge struct{ *scan }

// judgement is a verdict under one name and the index of the rule that decided.
type judgement struct {
	verdict Verdict
	rule    int
}

func (j *judgement) blocks() bool { return j.verdict.Action != Forward }

// leadAlike reports whether two judgements send a flow to the same place, even after a fact about the host or its network
// changes.
func (s judge) leadAlike(j, k judgement) bool {
	if j.blocks() || k.blocks() {
		return j.verdict.Action == k.verdict.Action
	}
	return s.policy.outcomes[j.rule] == s.policy.outcomes[k.rule]
}

// trace is called with each judgement and its name. It may be nil.
type trace func(name Name, j judgement)

func (t trace) tell(name Name, j judgement) {
	if t != nil {
		t(name, j)
	}
}

func (s judge) decide(t trace) judgement {
	var best judgement
	decided := false
	for _, n := range s.flow.Names {
		if !n.From.inFlow() {
			continue
		}
		j := s.claimed(n)
		t.tell(n, j)
		if !decided || j.blocks() && !best.blocks() {
			best, decided = j, true
		}
	}
	if decided {
		return best
	}
	j := s.under(s.recent())
	t.tell(s.recent(), j)
	if s.flow.Sniffed {
		return j
	}
	if _, ok := s.onlyBlocked(); !ok || s.helpedBySource() {
		j.verdict.Later = s.later(j)
	}
	return j
}

// claimed judges the flow under a name that was read in it. A name that DNS did not confirm cannot improve the verdict.
func (s judge) claimed(n Name) judgement {
	j := s.under(n)
	if j.blocks() || s.resolved(n.Host) {
		return j
	}
	if block, ok := s.onlyBlocked(); ok {
		block.verdict.Cause = BySpoof
		return block
	}
	without := s.under(s.recent())
	if s.leadAlike(without, j) {
		return j
	}
	without.verdict.Claim = n.Host
	return without
}

// helpedBySource reports whether the flow would be forwarded if it showed one of the names that DNS gave.
func (s judge) helpedBySource() bool {
	if !s.policy.seenIn {
		return false
	}
	for _, n := range s.flow.Names {
		for from := FromSNI; from <= FromQUIC; from++ {
			if j := s.under(Name{n.Host, from}); !j.blocks() {
				return true
			}
		}
	}
	return false
}

// recent returns the name that DNS gave last, or none.
func (s judge) recent() Name {
	for _, n := range s.flow.Names {
		if !n.From.inFlow() {
			return n
		}
	}
	return Name{}
}

// onlyBlocked reports whether DNS gave names for the address and all are blocked. The judgement is for the most recent one.
func (s judge) onlyBlocked() (judgement, bool) {
	var first judgement
	found := false
	for _, n := range s.flow.Names {
		if n.From.inFlow() {
			continue
		}
		j := s.under(n)
		if !j.blocks() {
			return judgement{}, false
		}
		if !found {
			first, found = j, true
		}
	}
	return first, found
}

// under judges the flow under one name. With the zero Name it judges a flow that will show none.
func (s judge) under(name Name) judgement {
	p, v := s.policy, s.look(name)
	nameless := name.Host == "" && p.unnamed
	if nameless {
		s.lookOpen()
	}
	for w := range v.may {
		candidates := v.may[w]
		if nameless {
			candidates |= s.open.may[w]
		}
		for ; candidates != 0; candidates &= candidates - 1 {
			i := w<<6 + bits.TrailingZeros64(candidates)
			if i >= len(p.rules) {
				break
			}
			if nameless && p.rules[i].Do.UnnamedBlock && s.tri(&s.open, i) != no && !s.idle(i) {
				return judgement{Verdict{Rule: p.rules[i].Name, Category: s.hit(i, name.Host), Cause: ByUnnamed}, i}
			}
			if s.tri(v, i) == yes && !s.spares(v, i) {
				return s.judgement(i, name.Host)
			}
		}
	}
	return judgement{} // unreachable: the last rule matches
}

func (s judge) judgement(i int, host string) judgement {
	r := &s.policy.rules[i]
	j := judgement{Verdict{Action: r.Do.Action, Egress: r.Do.Egress, Rule: r.Name, Category: s.hit(i, host)}, i}
	if s.policy.decision(i) != nil {
		j.verdict.Cause = ByDecision
	}
	return j
}

// hit returns the first category of rule i that the host or the destination is in.
func (s judge) hit(i int, host string) string {
	wanted := s.policy.rules[i].Match.Category
	if len(wanted) == 0 || s.set == nil {
		return ""
	}
	hits, names := s.categoriesOf(host), s.set.Categories()
	for _, c := range wanted {
		for b := range hits.Bits() {
			if names[b] == c && !(s.policy.lifts.has(i) && s.isLifted(c)) {
				return c
			}
		}
	}
	return ""
}

// later says what a name could change: whether under some name another rule could decide, with another outcome. It says so of rules
// that a pause takes out of force, too: when that is over, the flow is judged by its name.
func (s judge) later(j judgement) Later {
	p, v := s.policy, s.lookOpen()
	outcome := p.outcomes[j.rule]
	if j.verdict.Cause == ByUnnamed {
		outcome = 0
	}
	differs, spared, found := p.differs[outcome], s.mayBeSpared(), LaterNothing
	for w := range v.may {
		candidates := v.may[w] & (differs[w] | v.must[w])
		for ; candidates != 0; candidates &= candidates - 1 {
			i := w<<6 + bits.TrailingZeros64(candidates)
			if i >= len(p.rules) {
				break
			}
			t := s.tri(v, i)
			if d := p.decision(i); d != nil && !d.inForce(&s.flow) {
				continue
			}
			if t != no && differs.has(i) {
				if p.rules[i].Do.Action == Forward {
					return LaterEgress
				}
				found = LaterBlock
			}
			if t == yes && !(spared && p.lifts.has(i) || s.idle(i)) {
				return found // this rule matches under every name
			}
		}
	}
	return found
}

func (s judge) decideName(t trace) judgement {
	p, name := s.policy, s.flow.Names[0]
	v := s.look(name)
	perhaps := -1 // the first rule that might forward
	for i := range p.rules {
		forwards := p.rules[i].Do.Action == Forward && (s.flow.place() != AtPeer || p.matchers[i].peers)
		switch m := s.tri(v, i); {
		case m == no, s.spares(v, i):
		case m == maybe:
			if e := p.rules[i].Do.Egress; perhaps < 0 && forwards && e != EgressDNS && e != EgressSignIn {
				perhaps = i
			}
		default:
			if perhaps >= 0 && !forwards {
				i = perhaps
			}
			j := s.judgement(i, name.Host)
			t.tell(name, j)
			return j
		}
	}
	return judgement{} // unreachable: the last rule matches
}
