package report

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"penstock/cmd/internal/control"
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
	tests, _ := now.Tests()
	for _, t := range tests {
		one := control.RuleTest{
			Position: t.Test.Pos.String(), From: t.Test.From, To: t.Test.To, Rule: t.Verdict.Rule,
			Expect: doText(policy.Do{Action: t.Test.Expect.Action, Egress: t.Test.Expect.Egress}),
			Got:    doText(policy.Do{Action: t.Verdict.Action, Egress: t.Verdict.Egress}),
		}
		if t.Err != nil {
			one.Error = t.Err.Error()
		}
		res.Tests = append(res.Tests, one)
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
