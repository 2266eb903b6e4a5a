package router

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"penstock/policy"
)

// Flow is what the table knows of a flow, live or just ended.
type Flow struct {
	ID         uint64
	Facts      policy.Flow
	Verdict    policy.Verdict
	Egress     string // where it went; differs from Verdict.Egress after a fallback
	Start, End time.Time
	TxBytes    uint64 // payload from the client
	RxBytes    uint64 // payload to the client
	Err        string // why it failed, empty if it did not
}

// Name is the name that the flow was judged by: one read in it, else the one resolved last.
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

// table holds the live flows, and the addresses of our own sockets.
type table struct {
	lastID *atomic.Uint64

	mu    *sync.Mutex // guards below
	flows map[uint64]*entry
	most  int // flows at once since Busiest was called
	ours  map[netip.AddrPort]int
	hits  map[string]*Hits
}

// Hits is how often a rule decided.
type Hits struct {
	Count uint64
	Last  time.Time
}

func newTable() table {
	return table{
		lastID: new(atomic.Uint64),
		mu:     new(sync.Mutex),
		flows:  make(map[uint64]*entry),
		ours:   make(map[netip.AddrPort]int),
		hits:   make(map[string]*Hits),
	}
}

// entry is a live flow.
type entry struct {
	id     uint64
	start  time.Time
	cancel context.CancelFunc

	release  func()   // of its names, when it is over
	accepted net.Conn // the client's side, if the flow is read before it is dialled
	failure  error    // of accepting

	// mu guards below. One goroutine at a time judges a flow: it writes flow and verdict, and reads them without the lock.
	mu         sync.Mutex
	flow       policy.Flow
	verdict    policy.Verdict
	egressName string
	client     counted
	err        string
}

func (t *table) begin(f policy.Flow, now time.Time, cancel context.CancelFunc) *entry {
	e := &entry{id: t.lastID.Add(1), start: now, flow: f, cancel: cancel}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.flows[e.id] = e
	t.most = max(t.most, len(t.flows))
	return e
}

// accept answers the client of a flow that is read before it is dialled.
func (e *entry) accept(a Answerer) {
	if e.accepted, e.failure = a.Accept(); e.failure != nil {
		e.fail("accept", e.failure)
		return
	}
	e.carriedBy(e.accepted)
}

func (t *table) remove(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.flows, e.id)
	h := t.hits[e.verdict.Rule]
	if h == nil {
		h = new(Hits)
		t.hits[e.verdict.Rule] = h
	}
	h.Count++
	if e.start.After(h.Last) {
		h.Last = e.start
	}
}

func (t *table) opened(a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ours[a]++
}

func (t *table) closed(a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ours[a]--; t.ours[a] <= 0 {
		delete(t.ours, a)
	}
}

// isOurs says that a is the near end of one of our own sockets.
func (t *table) isOurs(a netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ours[a] > 0
}

// judged notes a verdict and the facts that it was given on.
func (e *entry) judged(f policy.Flow, v policy.Verdict) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.flow, e.verdict, e.egressName = f, v, v.Egress
}

// via notes that another egress than the verdict's is used.
func (e *entry) via(egress string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.egressName = egress
}

func (e *entry) egress() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.egressName
}

// fail notes why a flow ended badly.
func (e *entry) fail(step string, err error) { e.failed(step + ": " + err.Error()) }

func (e *entry) failed(why string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = why
}

func (e *entry) carriedBy(c any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.client, _ = c.(counted)
}

func (e *entry) snapshot() Flow {
	e.mu.Lock()
	defer e.mu.Unlock()
	f := Flow{
		ID: e.id, Facts: e.flow, Verdict: e.verdict, Egress: e.egressName, Start: e.start, Err: e.err,
	}
	if e.client != nil {
		f.TxBytes, f.RxBytes = e.client.Bytes()
	}
	return f
}

// end takes a flow out of the table and tells what became of it.
func (r *Router) end(e *entry) {
	f := e.snapshot()
	f.End = r.Clock()
	r.table.remove(e)
	r.Metrics.ended(&f)
	r.Ended(f)
}

// Flows are the live flows, oldest first.
func (r *Router) Flows() []Flow {
	flows := make([]Flow, 0, 64)
	for _, e := range r.table.entries() {
		flows = append(flows, e.snapshot())
	}
	slices.SortFunc(flows, func(a, b Flow) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return flows
}

func (t *table) entries() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*entry, 0, len(t.flows))
	for _, e := range t.flows {
		list = append(list, e)
	}
	return list
}

// Active is how many flows are live.
func (r *Router) Active() int {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	return len(r.table.flows)
}

// Busiest is how many flows were live at once, at most, since it was called last.
func (r *Router) Busiest() int {
	r.table.mu.Lock()
	defer r.table.mu.Unlock()
	most := r.table.most
	r.table.most = len(r.table.flows)
	return most
}

// Hits is how often each rule decided, by rule name, live flows included.
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
	delete(hits, "") // flows that are not judged yet
	return hits
}

// past is how often each rule decided flows that are over.
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
		if match(e.snapshot()) {
			e.cancel()
			n++
		}
	}
	return n
}

// Change is a live flow that would be judged otherwise now.
type Change struct {
	Flow Flow
	Now  policy.Verdict
}

// Rejudge judges the live flows anew and returns those that would be refused or sent elsewhere. Nothing is done to them.
// facts, if not nil, brings what is known of a flow up to date; false says that its client is gone, which is a change to
// the zero verdict.
func (r *Router) Rejudge(facts func(*policy.Flow) bool, decide func(policy.Flow) policy.Verdict) []Change {
	var changed []Change
	for _, e := range r.table.entries() {
		f := e.snapshot()
		now := f.Facts
		now.Time = r.Clock()
		now.Sniffed = true // what was not read by now will not be read
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
