package report

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"

	"penstock/cmd/internal/control"
	"penstock/policy"
	"penstock/router"
)

// remembered is how many finished flows are kept for "penstock flows" and "penstock explain".
const remembered = 1024

// Flows keeps the flows that ended most recently and finds the live ones in the router.
type Flows struct {
	Router *router.Router
	Log    *slog.Logger // is told about refused questions, and what guard and quota refused to peers; if nil, nobody is

	questions questions

	mu                sync.Mutex // guards below
	ring              []router.Flow
	next              int
	forwarded, denied uint64
	log               sometimes // of what the guard refused to peers
}

// Add records a flow that has ended. It logs one now and then that a peer sent where no rule of its own leads: to the gateway
// itself, a reserved address, or another peer, to anywhere before somebody has signed in, or without any quota left.
func (r *Flows) Add(f router.Flow) {
	others, say := r.keep(f)
	if say && r.Log != nil {
		r.Log.Info("flow refused", "reason", reasons[f.Verdict.Cause], "peer", f.Facts.Peer, "src", f.Facts.Src, "dst", f.Facts.Dst,
			"rule", f.Verdict.Rule, "others", others)
	}
}

func (r *Flows) keep(f router.Flow) (others int, say bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Facts.Peer != "" && slices.Contains([]policy.Cause{policy.ByGuard, policy.ByPeers, policy.ByQuota, policy.BySignIn}, f.Verdict.Cause) {
		others, say = r.log.say(f.End)
	}
	if f.Verdict.Action == policy.Forward {
		r.forwarded++
	} else {
		r.denied++
	}
	if len(r.ring) < remembered {
		r.ring = append(r.ring, f)
		return others, say
	}
	r.ring[r.next] = f
	r.next = (r.next + 1) % remembered
	return others, say
}

func (r *Flows) counts() (forwarded, denied uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.forwarded, r.denied
}

// all returns the finished flows that are kept, oldest first.
func (r *Flows) all() []router.Flow {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(append([]router.Flow(nil), r.ring[r.next:]...), r.ring[:r.next]...)
}

// Flow converts a flow to the form of the control API and the flow log.
func Flow(f router.Flow) control.Flow {
	name := f.Name()
	done := f.Verdict
	if done.Action == policy.Forward && f.Egress != done.Egress { // the transport was not up
		done.Egress, done.Cause = f.Egress, policy.ByFallback
	}
	c := control.Flow{
		ID: strconv.FormatUint(f.ID, 10), Proto: f.Facts.Network.String(), Src: f.Facts.Src.String(),
		Dst: f.Facts.Dst.String(), Peer: f.Facts.Peer, Host: name.Host,
		Rule: f.Verdict.Rule, Category: f.Verdict.Category, TxBytes: f.TxBytes, RxBytes: f.RxBytes,
		Start: f.Start, End: f.End, Reason: f.Err, Generation: f.Verdict.Edition, Sender: sender(f.Facts.Sender),
	}
	if c.Reason == "" {
		c.Reason = reasons[done.Cause]
	}
	if name.Host != "" {
		c.HostSource = name.From.String()
	}
	for _, n := range f.Facts.Names {
		c.Names = append(c.Names, control.Name{Host: n.Host, Source: n.From.String()})
	}
	c.Verdict, c.Via = words(done)
	if done.Action == policy.Forward {
		c.Datapath = f.Path.String()
	}
	return c
}

// reasons maps the cause of a verdict to the text shown next to the rule.
var reasons = map[policy.Cause]string{
	policy.ByUnnamed:  "unnamed: the rule blocks flows without a name",
	policy.BySpoof:    "mismatch: the client looked up only blocked names for the address, and not the one in the flow",
	policy.ByTrusted:  "trusted network",
	policy.ByPortal:   "captive portal",
	policy.ByFallback: "fallback: the transport is not up",
	policy.ByRoutes:   "routes: the transport's server does not route the destination",
	policy.ByLoop:     "loop: the flow would loop back to penstock",
	policy.ByPeers:    "guard: the destination is a peer",
	policy.ByGuard:    "guard: the destination is this machine or a reserved address",
	policy.ByQuota:    "quota: the peer has used up its quota of this month",
	policy.BySignIn:   "sign-in needed",
	policy.ByDecision: "somebody has decided to block it",
}

// Flows returns the flows that a query selects.
func (r *Flows) Flows(_ context.Context, q control.FlowQuery) ([]control.Flow, error) {
	var all []router.Flow
	if q.Denied || q.Recent {
		all = r.all()
	}
	if !q.Denied {
		all = append(all, r.Router.Flows()...)
	}
	text := strings.ToLower(q.Text)
	var chosen []*router.Flow // which are large
	for i := range all {
		f := &all[i]
		if q.Peer != "" && f.Facts.Peer != q.Peer || q.Denied && f.Verdict.Action == policy.Forward ||
			!f.End.IsZero() && f.End.Before(q.Since) || text != "" && !holds(Flow(*f), text) {
			continue
		}
		chosen = append(chosen, f)
	}
	if q.Limit > 0 && len(chosen) > q.Limit { // the others are not worth converting
		byStart := func(a, b *router.Flow) int { return a.Start.Compare(b.Start) }
		order := byStart
		if q.Largest {
			order = func(a, b *router.Flow) int { return cmp.Compare(a.TxBytes+a.RxBytes, b.TxBytes+b.RxBytes) }
		}
		slices.SortStableFunc(chosen, order)
		chosen = chosen[len(chosen)-q.Limit:]
		slices.SortStableFunc(chosen, byStart)
	}
	list := make([]control.Flow, 0, len(chosen))
	for _, f := range chosen {
		list = append(list, Flow(*f))
	}
	if !q.Denied {
		return list, nil
	}
	for _, f := range r.questions.all() {
		if (q.Peer == "" || f.Peer == q.Peer) && !f.End.Before(q.Since) && (text == "" || holds(f, text)) {
			list = append(list, f)
		}
	}
	slices.SortStableFunc(list, func(a, b control.Flow) int { return a.Start.Compare(b.Start) })
	if q.Limit > 0 && len(list) > q.Limit {
		list = list[len(list)-q.Limit:]
	}
	return list, nil
}

// holds reports whether one of the texts by which people look for a flow has a part, which is in lower case.
func holds(f control.Flow, part string) bool {
	for _, text := range []string{f.Host, f.Dst, f.Src, f.Peer, f.Proto, f.Verdict, f.Via, f.Rule, f.Category, f.Program, f.Unit, f.Container} {
		if strings.Contains(strings.ToLower(text), part) {
			return true
		}
	}
	for _, n := range f.Names {
		if strings.Contains(n.Host, part) {
			return true
		}
	}
	return false
}

// KillFlow ends a live flow.
func (r *Flows) KillFlow(_ context.Context, id string) error {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return fmt.Errorf("flow id %q is not a number: \"penstock flows\" lists the ids", id)
	}
	if r.Router.Kill(func(f router.Flow) bool { return f.ID == n }) == 0 {
		return fmt.Errorf("there is no live flow %s: \"penstock flows\" lists the ids", id)
	}
	return nil
}

// find finds a live or remembered flow.
func (r *Flows) find(id string) (router.Flow, error) {
	for _, f := range append(r.Router.Flows(), r.all()...) {
		if strconv.FormatUint(f.ID, 10) == id {
			return f, nil
		}
	}
	for _, q := range r.questions.all() {
		if q.ID == id {
			return router.Flow{}, fmt.Errorf("%s is a refused DNS question, not a flow: \"penstock explain %s\" explains it", id, q.Host)
		}
	}
	return router.Flow{}, fmt.Errorf("flow %s is not live and not among the last %d that ended", id, remembered)
}
