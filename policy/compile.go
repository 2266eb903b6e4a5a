package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"penstock/policy/blocklist"
)

// Policy is a compiled Config. It is immutable and safe for concurrent use.
type Policy struct {
	config  *Config
	rules   []Rule // those of the decisions to block, and then those of config
	byName  map[string]int
	lists   func() *blocklist.Set
	decided decided
	edition uint64 // see WithEdition

	matchers []matcher // one for each rule, in order, then one for each Not
	index    index
	lifts    bitset   // rules that a decision to allow takes out of force
	outcomes []int32  // the outcome number of each rule
	differs  []bitset // for each outcome: the rules with a different one
	unnamed  bool     // whether any rule has UnnamedBlock
	seenIn   bool     // whether any rule has a condition on where a name was learnt
	signIn   bool     // whether any rule has a condition on who has signed in
	scans    *sync.Pool
}

// outcome is where a rule sends flows, now and after a fact about the host or its network changes: see settle. Two rules via
// the same transport differ if only one of them may go direct.
type outcome struct {
	action                               Action
	egress                               string
	fallback, trusted, unrouted, gateway bool
}

// New compiles and checks a Config. The error joins one sentence per mistake, which says where it is and how to fix
// it.
func New(cfg Config) (*Policy, error) {
	if err := check(&cfg); err != nil {
		return nil, err
	}
	cfg.Rules, cfg.Peers = slices.Clone(cfg.Rules), nil // only check needs the peers, and there may be very many
	return compile(&cfg, nil)
}

// compile compiles a Config that has been checked, with rules before its own.
func compile(cfg *Config, before []Rule) (*Policy, error) {
	p := &Policy{config: cfg, rules: slices.Concat(before, cfg.Rules), byName: map[string]int{}, lists: cfg.Lists}
	c := compiler{matchers: make([]matcher, len(p.rules)), index: newIndexer()}
	var errs []error
	for i := range p.rules {
		r := &p.rules[i]
		p.byName[r.Name] = i
		if err := c.match(i, &r.Match); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.place(), err))
		}
		p.unnamed = p.unnamed || r.Do.UnnamedBlock
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	p.matchers = c.matchers
	p.seenIn = slices.ContainsFunc(p.matchers, func(m matcher) bool { return m.seenIn != 0 })
	p.signIn = slices.ContainsFunc(p.matchers, func(m matcher) bool { return m.signedIn != nil || len(m.user) > 0 })
	c.index.n = len(p.matchers)
	p.index = c.index.seal()
	p.compareOutcomes()
	p.lifts = make(bitset, len(p.index.all))
	for i := range p.rules {
		if p.liftable(i) {
			p.lifts.set(i)
			p.matchers[i].pauses = p.matchers[i].byName
		}
	}
	p.scans = &sync.Pool{New: func() any { return newScan(len(p.index.all)) }}
	return p, nil
}

// liftable reports whether rule i blocks by name, and not by address alone.
func (p *Policy) liftable(i int) bool {
	r, m := &p.rules[i], &p.matchers[i]
	byAddress := m.network || m.gateway || m.peers
	return r.Do.Action != Forward && r.Do.SignIn == "" && (m.byName || m.seenIn != 0 || m.mismatch != mismatchAny || m.named && !byAddress)
}

// compareOutcomes numbers the outcomes of the rules. Number 0 is a plain block.
func (p *Policy) compareOutcomes() {
	ids := map[outcome]int32{{}: 0}
	p.outcomes = make([]int32, len(p.rules))
	for i, r := range p.rules {
		o := outcome{action: r.Do.Action, egress: r.Do.Egress}
		if o.action == Forward {
			o.fallback, o.trusted, o.unrouted, o.gateway = r.Do.FallbackDirect, r.Do.TrustedDirect, r.Do.UnroutedDirect, p.matchers[i].gateway
		}
		id, ok := ids[o]
		if !ok {
			id = int32(len(ids))
			ids[o] = id
		}
		p.outcomes[i] = id
	}
	p.differs = make([]bitset, len(ids))
	for id := range p.differs {
		p.differs[id] = make(bitset, len(p.index.all))
		for i, o := range p.outcomes {
			if o != int32(id) {
				p.differs[id].set(i)
			}
		}
	}
}

// compiler turns every Match into a matcher and index entries.
type compiler struct {
	matchers []matcher
	index    *indexer
}

func (c *compiler) match(i int, m *Match) error {
	out := matcher{not: -1, program: programMatch(m), user: m.User, signedIn: m.SignedIn}
	x := c.index
	var errs []error
	fail := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	for _, s := range m.Domain {
		name, kind, err := parseDomain(s)
		fail(err)
		x.addDomain(i, name, kind)
	}
	for _, s := range m.Category {
		x.category[s] = append(x.category[s], i)
	}
	addPrefixes := func(values []string, field map[netip.Prefix][]uint32, has *[]int) {
		for _, s := range values {
			list, err := parsePrefixes(s)
			fail(err)
			for _, p := range list {
				field[p] = append(field[p], uint32(i))
			}
			*has = append(*has, i)
		}
	}
	addPrefixes(m.CIDR, x.dst, &x.hasDst)
	addPrefixes(m.Src, x.src, &x.hasSrc)
	for _, s := range m.Port {
		r, err := parsePorts(s)
		fail(err)
		x.port[r] = append(x.port[r], i)
	}
	for _, s := range m.Protocol {
		p, err := parseProtocol(s)
		fail(err)
		x.protocol[p] = append(x.protocol[p], i)
	}
	for _, s := range m.Peer {
		x.peer[s] = append(x.peer[s], i)
	}
	for _, s := range m.Group {
		x.group[s] = append(x.group[s], i)
	}
	for _, s := range m.Schedule {
		w, err := parseWindow(s)
		fail(err)
		out.schedule = append(out.schedule, w)
	}
	for _, s := range m.SeenIn {
		from, err := parseSource(s)
		fail(err)
		out.seenIn |= 1 << from
	}
	if m.Mismatch != nil {
		out.mismatch = mismatchNo
		if *m.Mismatch {
			out.mismatch = mismatchYes
		}
	}
	out.named = len(m.Domain) > 0 || len(m.Category) > 0 || out.seenIn != 0 || out.mismatch != mismatchAny
	out.byName = len(m.Domain) > 0 || len(m.Category) > 0
	out.network = len(m.CIDR) > 0
	out.inside = out.byName || out.network
	out.gateway, out.peers = m.Gateway, m.Peers
	out.residual = m.Gateway || m.Peers || len(out.user) > 0 || out.signedIn != nil || out.program != nil ||
		len(out.schedule) > 0 || out.seenIn != 0 || out.mismatch != mismatchAny
	if m.Not != nil {
		child := len(c.matchers)
		c.matchers = append(c.matchers, matcher{})
		if m.Not.isZero() {
			fail(errors.New("not: has no condition, so the rule matches nothing: write one"))
		}
		if err := c.match(child, m.Not); err != nil {
			fail(fmt.Errorf("not: %w", err))
		}
		out.not = int32(child)
		out.named = out.named || c.matchers[child].named
		out.inside = out.inside || c.matchers[child].inside
	}
	c.matchers[i] = out
	return errors.Join(errs...)
}
