package edition

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/policy/blocklist"
	"penstock/router/clients"
)

// Tests judges the configuration's own tests by the rules, lists and decisions of now, in their order. Those that only a peer that
// is gone could pass are left out, and named.
func (e *Edition) Tests() (results []policy.Result, leftOut []string) {
	place := func(peer string, dst netip.Addr) policy.Place {
		key := clients.Machine
		if peer != "" {
			key, _, _ = e.Clients.Named(peer)
		}
		return e.PlaceFor(key, dst, func(netip.Addr) bool { return false }) // the host's addresses are not part of a configuration
	}
	peers := PolicyPeers(e.Config)
	tests := slices.DeleteFunc(policyTests(e.Config), func(t policy.Test) bool {
		f, err := t.Flow(peers)
		dst := f.Dst.Addr()
		if err != nil || t.Expect.Action != policy.Forward || e.Place(dst) != policy.Inside {
			return false
		}
		// The peer that had the address may have gone. That must not wait for whoever maintains the tests.
		leftOut = append(leftOut, fmt.Sprintf("%s: the test is left out: %s is in penstock's own network, and nobody has it", t.Pos, dst))
		return true
	})
	return policy.RunTests(e.Policy, tests, peers, place), leftOut
}

func policyConfig(cfg *config.Config, lists func() *blocklist.Set) policy.Config {
	c := policy.Config{
		Lists:      lists,
		Categories: CategoryNames(cfg),
		Egresses:   slices.Sorted(maps.Keys(cfg.Transports)),
	}
	for _, p := range cfg.Peers.All() {
		c.Peers = append(c.Peers, p.Name)
	}
	c.Peers = append(c.Peers, cfg.Absent...)
	c.Rules = ownRules(cfg)
	for _, r := range cfg.Rules {
		rule := policy.Rule{Name: r.Name, Do: policyDo(r.Do), Pos: position(r.Pos)}
		if r.Match != nil {
			rule.Match = policyMatch(r.Match)
		}
		if rule.Match.Peers && rule.Do.Egress == policy.EgressDirect {
			rule.Do.Egress = policy.EgressPeers
		}
		c.Rules = append(c.Rules, rule)
	}
	return c
}

// categoryDoH is the category of encrypted resolvers.
const categoryDoH = "doh"

// ownRules returns the rules that penstock adds before those of the configuration: one that captures DNS questions, and those
// for dns.enforce and sign_in. They are shown like any other rule.
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
	signInRules(cfg, add)
	return list
}

// capturesDNS reports whether a rule of the configuration sends flows to the DNS server. If none does, penstock captures all
// of port 53.
func capturesDNS(cfg *config.Config) bool {
	return slices.ContainsFunc(cfg.Rules, func(r config.Rule) bool { return r.Do.Action == "dns" })
}

func position(p config.Position) policy.Position {
	return policy.Position{File: p.File, Line: p.Line, Column: p.Column}
}

func policyMatch(m *config.Match) policy.Match {
	match := policy.Match{
		Domain: m.Domain, Category: m.Category, CIDR: m.CIDR, Src: m.Src, Port: m.Port, Protocol: m.Protocol,
		Peer: m.Peer, Group: m.Group, User: m.User, SignedIn: m.SignedIn, UID: m.UID, Process: m.Process, Unit: m.Unit, Container: m.Container, Schedule: m.Schedule, SeenIn: m.SeenIn,
		Mismatch: m.Mismatch, Gateway: m.Gateway, Peers: m.Peers,
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
		UnroutedDirect: d.Unrouted == "direct",
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
	var tests []policy.Test
	for _, t := range cfg.Tests {
		if slices.Contains(cfg.Absent, t.From) {
			continue
		}
		do := policyDo(t.Expect)
		tests = append(tests, policy.Test{
			From: t.From, User: t.User, Groups: t.Groups, To: t.To, Addr: t.Addr, At: t.At, Pos: position(t.Pos),
			Process: t.Process, Unit: t.Unit, Container: t.Container,
			Expect: policy.Expect{Action: do.Action, Egress: do.Egress},
		})
	}
	return tests
}

// PolicyPeers returns the peers of a configuration in the form that policy tests and explanations use.
func PolicyPeers(cfg *config.Config) []policy.Peer {
	peers := make([]policy.Peer, cfg.Peers.Len())
	for i, p := range cfg.Peers.All() {
		peers[i] = policy.Peer{Name: p.Name, Groups: p.Groups}
		if len(p.AllowedIPs) > 0 {
			peers[i].Addr = p.AllowedIPs[0].Addr()
		}
	}
	return peers
}
