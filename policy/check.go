package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"penstock/policy/spelling"
)

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
		return errors.New("policy has no rules: it needs at least a last rule without a match, such as {name: rest, do: block}")
	}
	seen := map[string]Position{}
	for i := range cfg.Rules {
		r := &cfg.Rules[i]
		last := i == len(cfg.Rules)-1
		switch first, twice := seen[r.Name]; {
		case r.Name == "":
			errs = append(errs, fmt.Errorf("%s: rule has no name: give it one for logs, metrics and explain", r.Pos))
		case twice:
			errs = append(errs, fmt.Errorf("%s: the name is already used at %s: choose another", r.place(), first))
		}
		seen[r.Name] = r.Pos
		switch {
		case r.Match.isZero() && !last:
			errs = append(errs, fmt.Errorf("%s matches everything, so the rule after it at %s is never reached: move it to the end or give it a match",
				r.place(), cfg.Rules[i+1].Pos))
		case !r.Match.isZero() && last:
			errs = append(errs, fmt.Errorf("%s is the last rule and has a match: add a rule without a match after it, such as {name: rest, do: block}", r.place()))
		}
		errs = append(errs, checkDo(cfg, r)...)
		for m := &r.Match; m != nil; m = m.Not {
			if m.Gateway && len(m.Port) == 0 {
				errs = append(errs, fmt.Errorf("%s: gateway: true without a port opens every service of this machine: list the ports", r.place()))
			}
			if m.Peers && m.Gateway {
				errs = append(errs, fmt.Errorf("%s: no destination is both a peer and this machine: make a rule for each", r.place()))
			}
			errs = append(errs, r.unknown("category", m.Category, cfg.Categories)...)
			errs = append(errs, r.unknown("peer", m.Peer, cfg.Peers)...)
		}
	}
	return errors.Join(errs...)
}

func checkDo(cfg *Config, r *Rule) []error {
	switch {
	case r.Do.Action > Forward:
		return []error{fmt.Errorf("%s: action %d is unknown", r.place(), r.Do.Action)}
	case r.Do.Action != Forward && r.Do.Egress != "":
		return []error{fmt.Errorf("%s: has both block and via %q: choose one", r.place(), r.Do.Egress)}
	case r.Do.Action == Forward && r.Do.Egress == "":
		return []error{fmt.Errorf("%s: forwards without a via: add a transport, direct or dns", r.place())}
	case r.Do.Action != Refuse && r.Do.SignIn != "":
		return []error{fmt.Errorf("%s: only a refusal asks for a sign-in", r.place())}
	case r.Do.Action == Forward:
		if r.Match.Peers != (r.Do.Egress == EgressPeers) {
			return []error{fmt.Errorf("%s: peers: true and the egress %q go together", r.place(), EgressPeers)}
		}
		return r.unknown("transport", []string{r.Do.Egress}, append([]string{EgressDirect, EgressDNS, EgressPeers, EgressSignIn}, cfg.Egresses...))
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
		if near := spelling.Nearest(name, known); near != "" {
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
