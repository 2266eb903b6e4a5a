package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/policy/blocklist"
)

// rules is the policy in force, with the lists that it asks.
type rules struct {
	log    *slog.Logger
	policy atomic.Pointer[policy.Policy]
	lists  atomic.Pointer[categories]
	number atomic.Uint64

	mu         sync.Mutex // guards below
	exceptions []policy.Exception
}

// newRules compiles the configuration's rules and reads their lists. The error is a *config.Error.
func newRules(ctx context.Context, cfg *config.Config, log *slog.Logger) (*rules, error) {
	r := &rules{log: log}
	p, lists, err := r.compile(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for _, w := range p.Warnings() {
		log.Warn(w)
	}
	r.put(p, lists)
	return r, nil
}

// put brings a policy into force: whoever judges next asks it.
func (r *rules) put(p *policy.Policy, lists *categories) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists.Store(lists)
	r.policy.Store(p.WithExceptions(r.exceptions))
	r.number.Add(1)
}

func (r *rules) current() *policy.Policy { return r.policy.Load() }
func (r *rules) generation() uint64      { return r.number.Load() }

func (r *rules) decide(f policy.Flow) policy.Verdict     { return r.policy.Load().Decide(f) }
func (r *rules) decideName(f policy.Flow) policy.Verdict { return r.policy.Load().DecideName(f) }

func (r *rules) status() []listStatus { return r.lists.Load().status }

// except lifts a block for a while.
func (r *rules) except(e policy.Exception) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.exceptions = slices.DeleteFunc(r.exceptions, func(e policy.Exception) bool { return !e.Until.After(now) })
	r.exceptions = append(r.exceptions, e)
	r.policy.Store(r.policy.Load().WithExceptions(r.exceptions))
	r.number.Add(1)
}

// compile makes a policy of a configuration, and runs its tests. It changes nothing.
func (r *rules) compile(ctx context.Context, cfg *config.Config) (*policy.Policy, *categories, error) {
	lists, err := loadCategories(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	p, err := policy.New(policyConfig(cfg, func() *blocklist.Set { return lists.set }))
	if err != nil {
		return nil, nil, invalid(cfg, err)
	}
	if failed := failedTests(cfg, p); len(failed) > 0 {
		return nil, nil, invalid(cfg, failed...)
	}
	return p, lists, nil
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
	if !capturesDNS(cfg) {
		c.Rules = append(c.Rules, policy.Rule{
			Name:  "dns",
			Match: policy.Match{Port: []string{"53"}, Protocol: []string{"tcp", "udp"}},
			Do:    policy.Do{Action: policy.Forward, Egress: policy.EgressDNS},
			Pos:   policy.Position{File: cfg.Path},
		})
	}
	for _, r := range cfg.Rules {
		rule := policy.Rule{Name: r.Name, Do: policyDo(r.Do), Pos: position(r.Pos)}
		if r.Match != nil {
			rule.Match = policyMatch(r.Match)
		}
		c.Rules = append(c.Rules, rule)
	}
	return c
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
	lists, err := loadCategories(ctx, cfg)
	if err != nil {
		return Checked{}, err
	}
	p, err := policy.New(policyConfig(cfg, func() *blocklist.Set { return lists.set }))
	if err != nil {
		return Checked{}, invalid(cfg, err)
	}
	if err := errors.Join(checkTransports(cfg), checkGateway(cfg)); err != nil {
		return Checked{}, invalid(cfg, err)
	}
	c := Checked{Rules: len(cfg.Rules), Tests: len(cfg.Tests), Warnings: p.Warnings()}
	for _, l := range lists.status {
		if l.Err != nil {
			c.Warnings = append(c.Warnings, fmt.Sprintf("category %s: %v", l.Category, l.Err))
		}
	}
	for _, err := range failedTests(cfg, p) {
		c.Failed = append(c.Failed, err.Error())
	}
	return c, nil
}
