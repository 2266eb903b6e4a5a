package router

import (
	"context"

	"penstock/policy"
	"penstock/policy/sniff"
)

// handleUnnamed reads an accepted flow until it names a host or the budget is spent, and judges it again on what is known
// then.
func (r *Router) handleUnnamed(ctx context.Context, e *entry) {
	if e.failure != nil {
		return
	}
	client := e.accepted
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { abort(client) })
	defer stop()
	if e.flow.Network == policy.UDP {
		r.handleUnnamedUDP(ctx, client, e)
		return
	}
	r.handleUnnamedTCP(ctx, client, e)
}

// named adds what was read to the facts and judges the flow. The flow that it returns has the destination that the
// verdict is about, which is another one where our resolver knows better: see judge.
func (r *Router) named(ctx context.Context, f policy.Flow, res sniff.Result, e *entry) (policy.Flow, policy.Verdict) {
	names := append([]policy.Name(nil), f.Names...)
	if res.Status == sniff.Found {
		for _, h := range []sniff.Host{res.Host, res.Other} {
			if h.IsZero() {
				continue
			}
			host, err := policy.CanonicalName(h.String())
			if err != nil { // a name that cannot be judged must not pass for no name
				res.Ambiguous = true
				continue
			}
			names = append(names, policy.Name{Host: host, From: sourceOf(res.Protocol)})
			r.Metrics.nameFrom(sourceOf(res.Protocol))
		}
	}
	f.Names, f.Sniffed, f.Time = names, true, r.Clock()
	var v policy.Verdict
	if res.ECH {
		// Beside ECH stands the provider's outer name, or nothing but a guess. It may block; it is not asked for.
		v = r.Policy.Decide(f)
	} else {
		f, v = r.judge(ctx, f)
	}
	if res.Ambiguous {
		v = policy.Verdict{Action: policy.Refuse, Rule: v.Rule, Edition: v.Edition}
	}
	e.judged(f, v)
	if v.Claim != "" && v.Action != policy.Forward {
		e.failed("mismatch: the flow claims to be for " + v.Claim + ", which our resolver does not give this address for")
	}
	return f, v
}

// stays reports that a flow that was carried under one verdict may go on under a later one: the same way, to the same
// destination.
func stays(f policy.Flow, v policy.Verdict, now policy.Flow, w policy.Verdict) bool {
	return w.Action == policy.Forward && w.Egress == v.Egress && now.Dst == f.Dst
}
