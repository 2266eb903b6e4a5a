package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"penstock/policy/blocklist"
)

// Policy is a compiled Config. It is immutable and safe for concurrent use.
type Policy struct {
	rules      []Rule
	byName     map[string]int
	lists      func() *blocklist.Set
	exceptions []Exception

	matchers []matcher // those of the rules first, in order; then the Nots
	index    index
	outcomes []int32  // of each rule
	differs  []bitset // for each outcome: the rules with another one
	unnamed  bool     // some rule has UnnamedBlock
	seenIn   bool     // some rule has a condition on where a name was learnt
	scans    *sync.Pool
}

// outcome is what of a verdict the client can tell apart.
type outcome struct {
	action Action
	egress string
}

// New compiles and checks a Config. The error joins one sentence for each thing wrong, with its place and the mend.
func New(cfg Config) (*Policy, error) {
	if err := check(&cfg); err != nil {
		return nil, err
	}
	p := &Policy{rules: slices.Clone(cfg.Rules), byName: map[string]int{}, lists: cfg.Lists}
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
	c.index.n = len(p.matchers)
	p.index = c.index.seal()
	p.compareOutcomes()
	p.scans = &sync.Pool{New: func() any { return newScan(len(p.index.all)) }}
	return p, nil
}

// compareOutcomes numbers the outcomes of the rules. Number 0 is a plain block.
func (p *Policy) compareOutcomes() {
	ids := map[outcome]int32{{}: 0}
	p.outcomes = make([]int32, len(p.rules))
	for i, r := range p.rules {
		o := outcome{r.Do.Action, r.Do.Egress}
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

// compiler turns every Match into a matcher and its entries in the index.
type compiler struct {
	matchers []matcher
	index    *indexer
}

func (c *compiler) match(i int, m *Match) error {
	out := matcher{not: -1, uid: m.UID, process: m.Process}
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
	for _, s := range m.CIDR {
		list, err := parsePrefixes(s)
		fail(err)
		for _, p := range list {
			x.dst[p] = append(x.dst[p], uint32(i))
		}
		x.hasDst = append(x.hasDst, i)
	}
	for _, s := range m.Src {
		list, err := parsePrefixes(s)
		fail(err)
		for _, p := range list {
			x.src[p] = append(x.src[p], uint32(i))
		}
		x.hasSrc = append(x.hasSrc, i)
	}
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
	out.residual = len(out.uid) > 0 || len(out.process) > 0 || len(out.schedule) > 0 || out.seenIn != 0 || out.mismatch != mismatchAny
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
	}
	c.matchers[i] = out
	return errors.Join(errs...)
}

// place names the rule in an error.
func (r *Rule) place() string {
	at := r.Pos.String()
	if at != "" {
		at += ": "
	}
	return fmt.Sprintf("%srule %q", at, r.Name)
}

// check finds what is wrong with a Config as a whole.
func check(cfg *Config) error {
	var errs []error
	if len(cfg.Rules) == 0 {
		return errors.New("policy has no rules: the last one must be there and have no match, such as {name: rest, do: block}")
	}
	seen := map[string]Position{}
	for i := range cfg.Rules {
		r := &cfg.Rules[i]
		last := i == len(cfg.Rules)-1
		switch first, twice := seen[r.Name]; {
		case r.Name == "":
			errs = append(errs, fmt.Errorf("%s: a rule has no name: logs, metrics and explain call it by one; add name:", r.Pos))
		case twice:
			errs = append(errs, fmt.Errorf("%s: there is one of that name already at %s: give it another", r.place(), first))
		}
		seen[r.Name] = r.Pos
		switch {
		case r.Match.isZero() && !last:
			errs = append(errs, fmt.Errorf("%s matches everything, so the rule after it at %s is never reached: move it to the end or give it a match",
				r.place(), cfg.Rules[i+1].Pos))
		case !r.Match.isZero() && last:
			errs = append(errs, fmt.Errorf("%s is the last one and has a match: add a rule without match after it, such as {name: rest, do: block}", r.place()))
		}
		errs = append(errs, checkDo(cfg, r)...)
		for m := &r.Match; m != nil; m = m.Not {
			errs = append(errs, r.unknown("category", m.Category, cfg.Categories)...)
			errs = append(errs, r.unknown("peer", m.Peer, cfg.Peers)...)
			errs = append(errs, r.unknown("group", m.Group, cfg.Groups)...)
		}
	}
	return errors.Join(errs...)
}

func checkDo(cfg *Config, r *Rule) []error {
	switch {
	case r.Do.Action > Forward:
		return []error{fmt.Errorf("%s: action %d is unknown", r.place(), r.Do.Action)}
	case r.Do.Action != Forward && r.Do.Egress != "":
		return []error{fmt.Errorf("%s: blocks and yet has via %q: choose one", r.place(), r.Do.Egress)}
	case r.Do.Action == Forward && r.Do.Egress == "":
		return []error{fmt.Errorf("%s: does not say via what: add a transport, direct or dns", r.place())}
	case r.Do.Action == Forward:
		return r.unknown("transport", []string{r.Do.Egress}, append([]string{EgressDirect, EgressDNS}, cfg.Egresses...))
	}
	return nil
}

func (r *Rule) unknown(what string, names, known []string) []error {
	var errs []error
	for _, name := range names {
		if slices.Contains(known, name) {
			continue
		}
		mend := fmt.Sprintf("there is no %s yet", what)
		if near := nearest(name, known); near != "" {
			mend = fmt.Sprintf("did you mean %q?", near)
		} else if len(known) > 0 {
			mend = "known are " + strings.Join(slices.Sorted(maps.Keys(setOf(known))), ", ")
		}
		errs = append(errs, fmt.Errorf("%s: unknown %s %q: %s", r.place(), what, name, mend))
	}
	return errs
}

func setOf(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

// nearest returns the word that a typing error may have been meant as, or nothing.
func nearest(word string, known []string) string {
	best, limit := "", 1+len(word)/3
	for _, k := range known {
		if d := distance(word, k); d <= limit {
			best, limit = k, d-1
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements between two words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
