package policy

import (
	"slices"
	"strings"
	"time"

	"penstock/policy/blocklist"
)

// RuleDecision is the name of the rule in verdicts that a Decision made. There is one name for all of them, because metrics have a
// series for each name of a rule.
const RuleDecision = "decision"

// Decision is what somebody has decided about a name, a category or the whole filter while the policy was in force. The zero
// Decision is never in force.
type Decision struct {
	Block    bool   // false: allow
	Name     string // canonical; includes subdomains. One of Name, Category and Filter is set
	Category string
	Filter   bool      // a pause: every rule that blocks by name or category. Only with Block false
	Peer     string    // only for this peer; empty: for everyone
	Always   bool      // until it is removed
	Until    time.Time // without Always; compared with Flow.Time
	Made     time.Time // for explanations; zero: unknown
}

// Target returns what the decision is about: a name, category:NAME or filter.
func (d *Decision) Target() string {
	switch {
	case d.Filter:
		return "filter"
	case d.Category != "":
		return "category:" + d.Category
	}
	return d.Name
}

// ID returns what identifies the decision: allow:shop.example, block:category:adult@ana.
func (d *Decision) ID() string {
	id := "allow:" + d.Target()
	if d.Block {
		id = "block:" + d.Target()
	}
	if d.Peer != "" {
		id += "@" + d.Peer
	}
	return id
}

// decided is the decisions of a policy, by what they are about.
type decided struct {
	list       []Decision
	blocks     []*Decision // rule i is blocks[i]
	names      map[string][]*Decision
	categories map[string][]*Decision
	filters    []*Decision
	allows     bool // some allow a name
}

func newDecided(list []Decision) decided {
	d := decided{list: slices.Clone(list), names: map[string][]*Decision{}, categories: map[string][]*Decision{}}
	for i := range d.list {
		one := &d.list[i]
		switch {
		case one.Filter:
			if !one.Block {
				d.filters = append(d.filters, one)
			}
			continue
		case one.Category != "":
			d.categories[one.Category] = append(d.categories[one.Category], one)
		default:
			if _, err := CanonicalName(one.Name); err != nil {
				continue
			}
			d.names[one.Name] = append(d.names[one.Name], one)
			d.allows = d.allows || !one.Block
		}
		if one.Block {
			d.blocks = append(d.blocks, one)
		}
	}
	return d
}

// rules returns a rule for each decision to block.
func (d *decided) rules() []Rule {
	var list []Rule
	for _, b := range d.blocks {
		r := Rule{Name: RuleDecision}
		if b.Name != "" {
			r.Match.Domain = []string{b.Name}
		} else {
			r.Match.Category = []string{b.Category}
		}
		if b.Peer != "" {
			r.Match.Peer = []string{b.Peer}
		}
		list = append(list, r)
	}
	return list
}

// WithDecisions returns a Policy with the same rules and with list as its decisions.
//
// A decision is in force always, or while Flow.Time is before its Until. In a flow without a Time, those that end block and do not
// allow. A decision to block refuses before any rule is asked. A decision to allow a name takes out of force, for that name and its
// subdomains, the rules that block by name (domain, category, seen_in, mismatch); one to allow a category takes it out of the rules
// that block by it. The other rules then decide as before, so it opens nothing that they do not. A pause takes out of force every
// rule with a domain or a category that blocks, and what somebody has decided to block.
//
// Blocks by address, port or client alone stay in force, and so do a last rule that blocks, rules that ask for a sign-in, and all
// that Decide adds to rules: the guard, quotas, and penstock's own networks. A rule that has names only in its Not, and an
// address, blocks by address.
//
// Of several decisions about a host, the most specific name counts before others, and a name before a category. Of those about the
// same name or category, one for the peer comes before one for everyone, then one that ends before one that does not, then a block.
func (p *Policy) WithDecisions(list []Decision) *Policy {
	d := newDecided(list)
	q := *p
	same := func(a, b *Decision) bool { return a.Target() == b.Target() && a.Peer == b.Peer }
	if !slices.EqualFunc(d.blocks, p.decided.blocks, same) {
		next, err := compile(p.config, d.rules())
		if err != nil {
			return p // unreachable: the rules have compiled before, and the names are canonical
		}
		next.lists, next.edition = p.lists, p.edition
		q = *next
	}
	q.decided = d
	return &q
}

// WithLists returns a Policy with the same rules and decisions that uses these lists. See Config.Lists.
func (p *Policy) WithLists(lists func() *blocklist.Set) *Policy {
	q := *p
	q.lists = lists
	return &q
}

// WithEdition returns a Policy with the same rules whose verdicts carry this number.
func (p *Policy) WithEdition(number uint64) *Policy {
	q := *p
	q.edition = number
	return &q
}

// Decisions returns all decisions of the Policy, expired ones included. The caller must not change them.
func (p *Policy) Decisions() []Decision { return p.decided.list }

// decision returns the decision that rule i is made of; nil: the rule is one of the configuration.
func (p *Policy) decision(i int) *Decision {
	if i < len(p.decided.blocks) {
		return p.decided.blocks[i]
	}
	return nil
}

func (d *Decision) inForce(f *Flow) bool {
	switch {
	case d.Peer != "" && d.Peer != f.Peer:
		return false
	case d.Always:
		return true
	case f.Time.IsZero():
		return d.Block
	}
	return f.Time.Before(d.Until)
}

// winner returns which of several decisions about the same thing counts; nil: none is in force.
func (s *scan) winner(list []*Decision) *Decision {
	var best *Decision
	for _, d := range list {
		if d.inForce(&s.flow) && (best == nil || d.before(best)) {
			best = d
		}
	}
	return best
}

func (d *Decision) before(other *Decision) bool {
	switch {
	case (d.Peer != "") != (other.Peer != ""):
		return d.Peer != ""
	case d.Always != other.Always:
		return !d.Always
	}
	return d.Block && !other.Block
}

// about returns the decision that counts for a host, of those about names.
func (s *scan) about(host string) *Decision {
	names := s.policy.decided.names
	if len(names) == 0 {
		return nil
	}
	for host != "" {
		if d := s.winner(names[host]); d != nil {
			return d
		}
		_, host, _ = strings.Cut(host, ".")
	}
	return nil
}

// mayBeSpared reports whether a decision allows any host.
func (s *scan) mayBeSpared() bool {
	d := &s.policy.decided
	if !d.allows {
		return false
	}
	for i := range d.list {
		if one := &d.list[i]; !one.Block && one.Name != "" && one.inForce(&s.flow) {
			return true
		}
	}
	return false
}

// isLifted reports whether a decision allows a category.
func (s *scan) isLifted(category string) bool {
	d := s.winner(s.policy.decided.categories[category])
	return d != nil && !d.Block
}

// idle reports whether rule i is out of force, whatever the name is: as a decision that is, or for a pause.
func (s *scan) idle(i int) bool {
	if s.paused && s.policy.matchers[i].pauses {
		return true
	}
	d := s.policy.decision(i)
	return d != nil && !d.inForce(&s.flow)
}

// spares reports whether a decision keeps rule i from blocking what has the name of a view.
func (s *scan) spares(v *view, i int) bool {
	if s.idle(i) {
		return true
	}
	switch d := s.policy.decision(i); {
	case d == nil:
		return v.spared && s.policy.lifts.has(i)
	case d.Name != "":
		return v.decided != d
	default:
		return v.spared || s.winner(s.policy.decided.categories[d.Category]) != d
	}
}

func isAtOrBelow(host, domain string) bool {
	n := len(host) - len(domain)
	return n == 0 && host == domain || n > 0 && host[n-1] == '.' && host[n:] == domain
}
