package router

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"penstock/policy"
	"penstock/stack/shrink"
)

// Flow is a snapshot of a flow that is live or has just ended.
type Flow struct {
	ID         uint64
	Facts      policy.Flow
	Verdict    policy.Verdict
	Egress     string // the egress used; differs from Verdict.Egress after a fallback
	Path       Path
	Start, End time.Time
	TxBytes    uint64 // payload from the client
	RxBytes    uint64 // payload to the client
	Err        string // why it failed; empty if it did not
}

// Name returns the name that the flow was judged by: the last one read in it or, without one, the one resolved last.
func (f *Flow) Name() policy.Name { return judgedName(f.Facts.Names) }

func judgedName(names []policy.Name) policy.Name {
	for i := len(names) - 1; i >= 0; i-- {
		if names[i].From != policy.FromDNS {
			return names[i]
		}
	}
	if len(names) > 0 {
		return names[0]
	}
	return policy.Name{}
}

// counted is a connection that knows how much payload it has carried.
type counted interface{ Bytes() (in, out uint64) }

// answered reports whether the client's side of a flow has received anything.
func answered(client any) bool {
	c, ok := client.(counted)
	if !ok {
		return false
	}
	_, out := c.Bytes()
	return out > 0
}

// table holds the live flows, and the addresses of our own sockets.
type table struct {
	lastID *atomic.Uint64

	mu    *sync.Mutex // guards below
	flows []*entry    // in no order
	most  int         // flows at once since Busiest was called
	ours  shrink.Map[netip.AddrPort, int]
	hits  map[string]*Hits
}

// Hits says how often a rule decided, and when it last did.
type Hits struct {
	Count uint64
	Last  time.Time
}

func newTable() table {
	return table{
		lastID: new(atomic.Uint64),
		mu:     new(sync.Mutex),
		hits:   make(map[string]*Hits),
	}
}

// entry is a live flow.
type entry struct {
	id    uint64
	start time.Time

	release func()  // of its names, when it is over
	carrier Carrier // of its packets; nil if it ends here

	// mu guards below. One goroutine at a time judges a flow: it writes facts and decided, and reads them without the lock.
	mu      sync.Mutex
	cancel  context.CancelFunc // of the handler; nil as long as it does not wait, and once resets is set
	facts   facts
	after   time.Duration // from start until the flow was judged last
	decided unique.Handle[policy.Verdict]
	other   *string // the egress used, if it is not the verdict's
	path    Path
	killed  bool
	index   int32                // in table.flows, -1 once it is over; guarded by table.mu
	resets  interface{ Abort() } // what resets it; nil unless it goes on without its handler
	client  any                  // the client's side; nil before it is accepted or its packets cross
	err     string
}

// flow is what is known of the flow, as it was judged last. Like verdict, it is for whoever judges the flow.
func (e *entry) flow() policy.Flow { return e.facts.flow(e.start.Add(e.after)) }

// verdict is what was decided last, if anything was.
func (e *entry) verdict() policy.Verdict {
	if e.decided == (unique.Handle[policy.Verdict]{}) {
		return policy.Verdict{}
	}
	return e.decided.Value()
}

func (t *table) begin(f *policy.Flow, now time.Time) *entry {
	e := &entry{id: t.lastID.Add(1), start: now, facts: keep(f)}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.index = int32(len(t.flows))
	t.flows = append(t.flows, e)
	t.most = max(t.most, len(t.flows))
	return e
}

// accept answers the client of a flow that is read before it is dialled.
func (e *entry) accept(a Answerer) {
	client, err := a.Accept()
	if err != nil {
		e.fail("accept", err)
		return
	}
	e.carriedBy(client)
}

// accepted is the client's side of a flow that is read before it is dialled; nil if accepting failed.
func (e *entry) accepted() net.Conn {
	c, _ := e.client.(net.Conn)
	return c
}

func (t *table) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e.index < 0 {
		return
	}
	t.takeOutLocked(e)
	rule := e.verdict().Rule
	h := t.hits[rule]
	if h == nil {
		h = new(Hits)
		t.hits[rule] = h
	}
	h.Count++
	if e.start.After(h.Last) {
		h.Last = e.start
	}
}

// takeOutLocked puts the last flow in the place of one that is over. It gives the room of flows that are gone back.
func (t *table) takeOutLocked(e *entry) {
	last := len(t.flows) - 1
	moved := t.flows[last]
	t.flows[e.index], moved.index = moved, e.index
	e.index = -1 // after moved's, which may be the same
	t.flows[last] = nil
	t.flows = t.flows[:last]
	if room := cap(t.flows); room > 512 && last < room/8 {
		t.flows = append(make([]*entry, 0, room/4), t.flows...)
	}
}

func (t *table) opened(a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ours.Put(a, t.ours.Get(a)+1)
}

func (t *table) closed(a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if left := t.ours.Get(a) - 1; left > 0 {
		t.ours.Put(a, left)
		return
	}
	t.ours.Delete(a)
}

// isOurs reports whether a is the local address of one of our own sockets.
func (t *table) isOurs(a netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ours.Get(a) > 0
}

// judged records a verdict and the facts it is based on.
func (e *entry) judged(f *policy.Flow, v policy.Verdict) {
	facts, decided := keep(f), unique.Make(v)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.facts, e.after, e.decided, e.other = facts, f.Time.Sub(e.start), decided, nil
}

// via records that the flow uses another egress than the verdict's.
func (e *entry) via(egress string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.other = &egress
}

func (e *entry) egress() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.egressLocked()
}

func (e *entry) egressLocked() string {
	if e.other != nil {
		return *e.other
	}
	return e.verdict().Egress
}

// fail records why a flow failed.
func (e *entry) fail(step string, err error) { e.failed(step + ": " + err.Error()) }

func (e *entry) failed(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = why
}

// pathIs records how the flow is carried.
func (e *entry) pathIs(p Path) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.path = p
}

// cancelledBy records what ends the waiting of the flow's handler.
func (e *entry) cancelledBy(cancel context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cancel = cancel
	if e.killed {
		cancel()
	}
}

// resetBy records what resets a flow that goes on without its handler. ctx is the handler's: it is not needed any more.
func (e *entry) resetBy(ctx context.Context, x interface{ Abort() }) {
	e.mu.Lock()
	e.resets, e.cancel = x, nil
	killed := e.killed
	e.mu.Unlock()
	if killed || ctx.Err() != nil {
		x.Abort()
	}
}

// kill resets the flow.
func (e *entry) kill() {
	e.mu.Lock()
	e.killed = true
	cancel, x := e.cancel, e.resets
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if x != nil {
		x.Abort()
	}
}

func (e *entry) carriedBy(c any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client = c
}

// answered reports whether the client has received anything.
func (e *entry) answered() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return answered(e.client)
}

func (e *entry) snapshot() Flow {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := Flow{
		ID: e.id, Facts: e.flow(), Verdict: e.verdict(), Egress: e.egressLocked(), Path: e.path, Start: e.start, Err: e.err,
	}
	if c, ok := e.client.(counted); ok {
		f.TxBytes, f.RxBytes = c.Bytes()
	}
	return f
}

// end removes a flow from the table and reports it to Metrics and Ended.
func (r *Router) end(e *entry) {
	f := e.snapshot()
	f.End = r.Clock()
	r.table.remove(e)
	r.Metrics.ended(&f)
	r.Ended(f)
	e.release()
}

// Flows returns the live flows, oldest first.
func (r *Router) Flows() []Flow {
	entries := r.table.entries()
	slices.SortFunc(entries, func(a, b *entry) int { return cmp.Compare(a.id, b.id) }) // snapshots are large
	flows := make([]Flow, len(entries))
	for i, e := range entries {
		flows[i] = e.snapshot()
	}
	return flows
}

func (t *table) entries() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.flows)
}

// Active returns the number of live flows.
func (r *Router) Active() int {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	return len(r.table.flows)
}

// Busiest returns the largest number of flows that were live at once since the last call.
func (r *Router) Busiest() int {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	most := r.table.most
	r.table.most = len(r.table.flows)
	return most
}

// Hits returns how often each rule decided, by rule name. It includes live flows.
func (r *Router) Hits() map[string]Hits {
	hits := r.table.past()
	for _, e := range r.table.entries() {
		f := e.snapshot()
		h := hits[f.Verdict.Rule]
		h.Count++
		if f.Start.After(h.Last) {
			h.Last = f.Start
		}
		hits[f.Verdict.Rule] = h
	}
	delete(hits, "") // flows that have not been judged yet
	return hits
}

// past returns how often each rule decided flows that have ended.
func (t *table) past() map[string]Hits {
	t.mu.Lock()
	defer t.mu.Unlock()
	hits := make(map[string]Hits, len(t.hits))
	for name, h := range t.hits {
		hits[name] = *h
	}
	return hits
}

// Kill resets the live flows that match and returns how many there were.
func (r *Router) Kill(match func(Flow) bool) int {
	n := 0
	for _, e := range r.table.entries() {
		if f := e.snapshot(); match(f) {
			r.killed.note(&f.Facts, r.Clock())
			e.kill()
			n++
		}
	}
	return n
}

// Change is a live flow and the verdict, another one, that it would get now.
type Change struct {
	Flow Flow
	Now  policy.Verdict
}

// Rejudge judges the live flows again and returns those whose action or egress would change. It does not touch them. facts,
// if not nil, updates the facts of a flow. If it returns false, the client is gone, and the flow gets the zero Verdict.
func (r *Router) Rejudge(facts func(*policy.Flow) bool, decide func(policy.Flow) policy.Verdict) []Change {
	r.epochs.last.Add(1) // before the look at the table
	var changed []Change
	for _, e := range r.table.entries() {
		f := e.snapshot()
		now := f.Facts
		now.Time = r.Clock()
		now.Sniffed = true // no further name will be read
		var v policy.Verdict
		if facts == nil || facts(&now) {
			v = decide(now)
		}
		if v.Action != f.Verdict.Action || v.Egress != f.Verdict.Egress {
			changed = append(changed, Change{f, v})
		}
	}
	return changed
}
