package report

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/policy"
)

// Rules returns the rules in order, with how often each decided.
func (p *Policy) Rules(context.Context) (control.Rules, error) {
	now := p.Live.Now()
	res := control.Rules{Generation: now.Number}
	hits := p.Flows.Router.Hits()
	warnings := now.Policy.Warnings()
	for _, r := range now.Policy.Rules() {
		s := control.RuleStatus{Name: r.Name, Position: r.Pos.String(), Match: matchText(r.Match), Do: doText(r.Do)}
		s.Hits, s.LastHit = hits[r.Name].Count, hits[r.Name].Last
		for _, w := range warnings {
			if strings.Contains(w, fmt.Sprintf("rule %q is never reached", r.Name)) {
				s.ShadowedBy = w
			}
		}
		res.Rules = append(res.Rules, s)
	}
	return res, nil
}

// matchText describes a match briefly, with the keys of the configuration.
func matchText(m policy.Match) string {
	var parts []string
	v := reflect.ValueOf(m)
	for i := range v.NumField() {
		f := v.Field(i)
		if f.IsZero() || v.Type().Field(i).Name == "Not" {
			continue
		}
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		key := strings.ToLower(v.Type().Field(i).Name)
		if key == "seenin" {
			key = "seen_in"
		}
		parts = append(parts, key+" "+strings.Trim(fmt.Sprint(f.Interface()), "[]"))
	}
	if m.Not != nil {
		parts = append(parts, "not ("+matchText(*m.Not)+")")
	}
	return strings.Join(parts, ", ")
}

func doText(do policy.Do) string {
	word, via := words(policy.Verdict{Action: do.Action, Egress: do.Egress})
	if via != "" {
		return "via " + via
	}
	return word
}

// Allow lifts a block until a set time.
func (p *Policy) Allow(_ context.Context, q control.AllowQuery) (control.Allowed, error) {
	cfg := p.Live.Config()
	e := policy.Exception{Peer: q.Peer, Until: time.Now().Add(q.For)}
	if category, ok := strings.CutPrefix(q.Target, "category:"); ok {
		if !slices.Contains(edition.CategoryNames(cfg), category) {
			return control.Allowed{}, fmt.Errorf("there is no category %q", category)
		}
		e.Category = category
	} else {
		host, err := policy.CanonicalName(q.Target)
		if err != nil {
			return control.Allowed{}, err
		}
		e.Name = host
	}
	if q.Peer != "" && !slices.ContainsFunc(cfg.Peers, func(peer config.Peer) bool { return peer.Name == q.Peer }) {
		return control.Allowed{}, fmt.Errorf("there is no peer %q", q.Peer)
	}
	p.Live.Except(e)
	p.Log.Info("block lifted", "target", q.Target, "peer", q.Peer, "until", e.Until, "generation", p.Live.Now().Number)
	return control.Allowed{Target: q.Target, Peer: q.Peer, Until: e.Until}, nil
}
