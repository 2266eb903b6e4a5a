package router

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

// handleUnnamed reads an accepted flow until it shows a name or Config.SniffTimeout passes, and judges it again. kept is as in
// carryStream.
func (r *Router) handleUnnamed(ctx context.Context, a Answerer, e *entry) (kept bool) {
	client := e.accepted()
	if client == nil {
		return false
	}
	stop := context.AfterFunc(ctx, func() { abort(client) })
	defer stop()
	if e.facts.network() == policy.UDP {
		kept = r.handleUnnamedUDP(ctx, a, client, e)
	} else {
		kept = r.handleUnnamedTCP(ctx, a, client, e)
	}
	if !kept {
		client.Close()
	}
	return kept
}

// ambiguousName is why a flow is refused whatever the rules say of its destination.
const ambiguousName = "ambiguous: the flow shows a name that no host can have, or that servers may read in two ways"

// named adds what was read to the facts and judges the flow. The verdict is for the destination of the flow it returns, which
// can differ from f.Dst: see judge.
func (r *Router) named(ctx context.Context, f policy.Flow, res sniff.Result, e *entry) (policy.Flow, policy.Verdict) {
	before := len(f.Names)
	f, res = withNames(f, res, r.Clock())
	for _, n := range f.Names[before:] {
		r.Metrics.nameFrom(n.From)
	}
	epoch := r.epochs.last.Load()
	g, v := e.judgeNamed(ctx, r, f, res)
	for e.judged(&g, v); !r.epochs.settled(&epoch); e.judged(&g, v) {
		g, v = e.judgeNamed(ctx, r, f, res)
	}
	if v.Claim != "" && v.Action != policy.Forward {
		e.failed("mismatch: the flow claims to be for " + v.Claim + ", but our resolver does not give its address for that name")
	}
	if res.Ambiguous {
		e.failed(ambiguousName)
	}
	return g, v
}

// withNames adds what was read to the facts.
func withNames(f policy.Flow, res sniff.Result, now time.Time) (policy.Flow, sniff.Result) {
	names := append([]policy.Name(nil), f.Names...)
	if res.Status == sniff.Found {
		names = slices.DeleteFunc(names, func(n policy.Name) bool { return n.From == policy.FromQUIC }) // of a flow that was killed
		for _, h := range []sniff.Host{res.Host, res.Other} {
			if h.IsZero() {
				continue
			}
			host, err := policy.CanonicalName(h.String())
			if err != nil { // an invalid name must not count as no name
				res.Ambiguous = true
				continue
			}
			names = append(names, policy.Name{Host: host, From: sourceOf(res.Protocol)})
		}
	}
	f.Names, f.Sniffed, f.Time = names, true, now
	return f, res
}

// judgeNamed judges a flow with the names that were read in it.
func (e *entry) judgeNamed(ctx context.Context, r *Router, f policy.Flow, res sniff.Result) (policy.Flow, policy.Verdict) {
	if !r.Clients.Describe(&f) { // what was true of the client when the flow came may not be true any more
		r.Dropped(DropSource)
		return f, policy.Verdict{}
	}
	f, v := r.judge(ctx, f, e.facts.dst.Addr(), res.ECH)
	if res.Ambiguous {
		v = policy.Verdict{Action: policy.Refuse, Rule: v.Rule, Edition: v.Edition}
	}
	return f, v
}

// course is where a flow was sent, and through which egress its verdict sent it.
type course struct {
	dst    netip.AddrPort
	egress string
}

func courseOf(f *policy.Flow, v policy.Verdict) course { return course{f.Dst, v.Egress} }

// course is that of the present verdict.
func (e *entry) course() course { return course{e.facts.dst, e.verdict().Egress} }

// stays reports whether a flow that is on its way may continue there under a later verdict.
func (c course) stays(now policy.Flow, v policy.Verdict) bool {
	return v.Action == policy.Forward && v.Egress == c.egress && now.Dst == c.dst
}
