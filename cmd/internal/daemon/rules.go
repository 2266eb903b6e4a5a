package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/lists"
	"penstock/policy"
	"penstock/policy/blocklist"
)

// rules is the policy in force, with the lists that it asks.
type rules struct {
	log   *slog.Logger
	lists *lists.Lists
	now   atomic.Pointer[edition]
	// trusted says that the host is in a network where rules may send directly what they else send through transports.
	trusted atomic.Bool
	// opening is a captive portal that may be reached; nil: none.
	opening atomic.Pointer[opening]

	mu         sync.Mutex // guards below
	exceptions []policy.Exception
	former     []*edition    // oldest first
	excepted   chan struct{} // capacity 1: there is a new exception
}

// edition is a policy with its lists, in force until the next one is.
type edition struct {
	number uint64
	policy *policy.Policy
	lists  *lists.Content
}

// Bounds of the former editions that are kept for explanations.
const (
	maxFormer      = 16
	maxFormerBytes = 32 << 20 // of lists that are not in force any more
)

// newRules compiles the configuration's rules and reads their lists. The error is a *config.Error.
func newRules(ctx context.Context, cfg *config.Config, c lists.Config) (*rules, error) {
	r := &rules{log: c.Log, excepted: make(chan struct{}, 1)}
	c.Current = func() *lists.Content { return r.now.Load().lists }
	c.Replace = r.replaceLists
	r.lists = lists.New(c)
	p, content, err := r.compile(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings() {
		c.Log.Warn(w)
	}
	r.put(p, content)
	return r, nil
}

// put brings a policy into force: whoever judges next asks it.
func (r *rules) put(p *policy.Policy, content *lists.Content) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.putLocked(p, content)
	r.lists.Wake()
	debug.FreeOSMemory() // what compiling took, more than the result
}

func (r *rules) putLocked(p *policy.Policy, content *lists.Content) {
	next := &edition{number: 1, policy: p.WithExceptions(r.exceptions), lists: content}
	if old := r.now.Load(); old != nil {
		next.number = old.number + 1
		r.former = append(r.former, old)
	}
	r.now.Store(next)
	// A set is counted once, and not while it is in force.
	seen := map[*blocklist.Set]bool{content.Set(): true}
	bytes := 0
	for i := len(r.former) - 1; i >= 0; i-- {
		if set := r.former[i].lists.Set(); !seen[set] {
			seen[set] = true
			bytes += set.Bytes()
		}
		if bytes > maxFormerBytes || len(r.former)-i > maxFormer {
			r.former = slices.Delete(r.former, 0, i+1)
			return
		}
	}
}

// replaceLists brings newer lists into force under the same rules.
func (r *rules) replaceLists(old, next *lists.Content) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now.Load()
	if now.lists != old {
		return false
	}
	r.putLocked(now.policy.WithLists(next.Set), next)
	debug.FreeOSMemory() // what compiling took, more than the result
	return true
}

func (r *rules) current() *policy.Policy { return r.now.Load().policy }
func (r *rules) generation() uint64      { return r.now.Load().number }

// edition is the policy of a generation, if it is in force or still known.
func (r *rules) edition(number uint64) (*edition, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range append(r.former[:len(r.former):len(r.former)], r.now.Load()) {
		if e.number == number {
			return e, true
		}
	}
	return nil, false
}

func (r *rules) decide(f policy.Flow) policy.Verdict {
	p := r.current()
	return r.onNetwork(p, f, p.Decide(f))
}

func (r *rules) decideName(f policy.Flow) policy.Verdict {
	p := r.current()
	return r.onNetwork(p, f, p.DecideName(f))
}

func (r *rules) status() []lists.Status { return r.lists.Status(r.now.Load().lists) }

// compile makes a policy of a configuration, and runs its tests. It changes nothing.
func (r *rules) compile(ctx context.Context, cfg *config.Config) (*policy.Policy, *lists.Content, error) {
	content, err := readLists(ctx, r.lists, cfg)
	if err != nil {
		return nil, nil, err
	}
	p, err := policy.New(policyConfig(cfg, content.Set))
	if err != nil {
		return nil, nil, invalid(cfg, err)
	}
	if failed := failedTests(cfg, p); len(failed) > 0 {
		return nil, nil, invalid(cfg, failed...)
	}
	return p, content, nil
}

// invalid makes errors that name their place themselves into one of the configuration's.
func invalid(cfg *config.Config, errs ...error) error {
	e := &config.Error{}
	for _, err := range errs {
		if joined, ok := err.(interface{ Unwrap() []error }); ok {
			for _, one := range joined.Unwrap() {
				e.Faults = append(e.Faults, config.Fault{Message: one.Error()})
			}
			continue
		}
		e.Faults = append(e.Faults, config.Fault{Message: err.Error()})
	}
	return e
}

// failedTests runs the configuration's tests and returns those that do not hold.
func failedTests(cfg *config.Config, p *policy.Policy) []error {
	var failed []error
	for _, res := range policy.RunTests(p, policyTests(cfg), policyPeers(cfg)) {
		if res.Err != nil {
			failed = append(failed, res.Err)
		}
	}
	return failed
}

func policyConfig(cfg *config.Config, lists func() *blocklist.Set) policy.Config {
	c := policy.Config{
		Lists:      lists,
		Categories: categoryNames(cfg),
		Egresses:   slices.Sorted(maps.Keys(cfg.Transports)),
	}
	for _, p := range cfg.Peers {
		c.Peers = append(c.Peers, p.Name)
		for _, g := range p.Groups {
			if !slices.Contains(c.Groups, g) {
				c.Groups = append(c.Groups, g)
			}
		}
	}
	c.Rules = ownRules(cfg)
	for _, r := range cfg.Rules {
		rule := policy.Rule{Name: r.Name, Do: policyDo(r.Do), Pos: position(r.Pos)}
		if r.Match != nil {
			rule.Match = policyMatch(r.Match)
		}
		c.Rules = append(c.Rules, rule)
	}
	return c
}

// categoryDoH is the category of resolvers that answer encrypted.
const categoryDoH = "doh"

// ownRules stand before those of the configuration, and are shown like them: what goes to the DNS server, and what
// dns.enforce refuses.
func ownRules(cfg *config.Config) []policy.Rule {
	var list []policy.Rule
	add := func(name string, m policy.Match, do policy.Do) {
		list = append(list, policy.Rule{Name: name, Match: m, Do: do, Pos: policy.Position{File: cfg.Path}})
	}
	if !capturesDNS(cfg) {
		add("dns", policy.Match{Port: []string{"53"}, Protocol: []string{"tcp", "udp"}}, policy.Do{Action: policy.Forward, Egress: policy.EgressDNS})
	}
	if cfg.DNS.Enforce {
		add("no-other-resolver", policy.Match{Category: []string{categoryDoH}}, policy.Do{})
		add("no-encrypted-dns", policy.Match{Port: []string{"853"}}, policy.Do{})
	}
	return list
}

// capturesDNS says that the rules say themselves what goes to the DNS server. Otherwise all of port 53 does.
func capturesDNS(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Rules, func(r config.Rule) bool { return r.Do.Action == "dns" })
}

func position(p config.Position) policy.Position {
	return policy.Position{File: p.File, Line: p.Line, Column: p.Column}
}

func policyMatch(m *config.Match) policy.Match {
	match := policy.Match{
		Domain: m.Domain, Category: m.Category, CIDR: m.CIDR, Src: m.Src, Port: m.Port, Protocol: m.Protocol,
		Peer: m.Peer, Group: m.Group, UID: m.UID, Process: m.Process, Schedule: m.Schedule, SeenIn: m.SeenIn,
		Mismatch: m.Mismatch,
	}
	if m.Not != nil {
		not := policyMatch(m.Not)
		match.Not = &not
	}
	return match
}

func policyDo(d config.Do) policy.Do {
	do := policy.Do{
		UnnamedBlock:   d.Unnamed == "block",
		FallbackDirect: d.Fallback == "direct",
		TrustedDirect:  d.Trusted == "direct",
	}
	switch d.Action {
	case "drop":
		do.Action = policy.Drop
	case "direct":
		do.Action, do.Egress = policy.Forward, policy.EgressDirect
	case "dns":
		do.Action, do.Egress = policy.Forward, policy.EgressDNS
	case "via":
		do.Action, do.Egress = policy.Forward, d.Via
	}
	return do
}

func policyTests(cfg *config.Config) []policy.Test {
	tests := make([]policy.Test, len(cfg.Tests))
	for i, t := range cfg.Tests {
		do := policyDo(t.Expect)
		tests[i] = policy.Test{
			From: t.From, To: t.To, Addr: t.Addr, At: t.At, Pos: position(t.Pos),
			Expect: policy.Expect{Action: do.Action, Egress: do.Egress},
		}
	}
	return tests
}

func policyPeers(cfg *config.Config) []policy.Peer {
	peers := make([]policy.Peer, len(cfg.Peers))
	for i, p := range cfg.Peers {
		peers[i] = policy.Peer{Name: p.Name, Groups: p.Groups}
		if len(p.AllowedIPs) > 0 {
			peers[i].Addr = p.AllowedIPs[0].Addr()
		}
	}
	return peers
}

// Checked is what Check found in a configuration that can be run.
type Checked struct {
	Rules    int
	Tests    int
	Failed   []string // a sentence for each test that does not hold
	Warnings []string // for example rules that no flow can reach
}

// Check compiles a configuration as Run would, reads its lists and key files, and runs its tests. It opens nothing and
// changes nothing.
func Check(ctx context.Context, cfg *config.Config) (Checked, error) {
	l := lists.New(lists.Config{Dir: listDir(cfg, Options{})})
	content, err := readLists(ctx, l, cfg)
	if err != nil {
		return Checked{}, err
	}
	p, err := policy.New(policyConfig(cfg, content.Set))
	if err != nil {
		return Checked{}, invalid(cfg, err)
	}
	if err := errors.Join(checkTransports(cfg), checkGateway(cfg)); err != nil {
		return Checked{}, invalid(cfg, err)
	}
	c := Checked{Rules: len(cfg.Rules), Tests: len(cfg.Tests), Warnings: p.Warnings()}
	for _, l := range l.Status(content) {
		if l.Err != nil {
			c.Warnings = append(c.Warnings, fmt.Sprintf("category %s: %v", l.Category, l.Err))
		}
	}
	for _, err := range failedTests(cfg, p) {
		c.Failed = append(c.Failed, err.Error())
	}
	return c, nil
}
