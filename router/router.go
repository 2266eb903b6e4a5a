// Package router is the pipeline that every flow goes through: describe, judge, dial, answer, relay.
//
// Laptop and gateway use the same code. They differ in which stack delivers the flows and which dialers they go out through.
// The router keeps the table of live flows and counts the verdicts.
//
// It does not parse packets, resolve names, define policy or know any transport.
package router

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
	"penstock/router/readable"
)

// Dialer opens the far side of a flow. *net.Dialer and *stack.Stack implement it. network is "tcp", "udp" or "ping" followed
// by 4 or 6. address is an IP address and port. A "ping" connection carries ICMP echo bodies, which start with the identifier.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// FlowDialer is a Dialer that needs the facts of the flow. The embedded DNS server is one.
type FlowDialer interface {
	DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error)
}

// Answerer answers the client of a flow. Exactly one of its methods must be called, once. *stack.Request implements it.
type Answerer interface {
	// Accept returns the client's side of the flow. It may wait for the client.
	Accept() (net.Conn, error)
	// Refuse answers like a host on which nothing listens.
	Refuse()
	// Unreachable answers like a network in which a dial fails with err.
	Unreachable(err error)
	// Drop sends no answer.
	Drop()
}

// Judging is an Answerer of a flow that is one of those of its client that are judged at once, of which there is a bound.
type Judging interface {
	// Judged is called when that is over. What follows may wait. It may be called again, and by several goroutines at once.
	Judged()
}

// Request is a flow whose first packet has arrived.
type Request struct {
	Network  policy.Network
	Client   uint64 // key of the sender
	Src, Dst netip.AddrPort
	Answer   Answerer
}

// Policy judges flows. It must not block.
type Policy interface {
	Decide(policy.Flow) policy.Verdict
}

// Clients describes the senders of flows.
type Clients interface {
	// Describe sets the facts about a flow's client, as they are now. It returns false if the client is gone; the flow is
	// then dropped. The router calls it before each judgement of a flow.
	Describe(f *policy.Flow) bool
	// Names adds the names that the client resolved to the flow's destination, most recent first. They stay remembered until
	// release is called.
	Names(f *policy.Flow) (release func())
	// Confirm looks host up with our resolver as the flow's client would. It returns the addresses of the same family as the
	// flow's destination.
	Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error)
}

// Ways finds the ways out: the dialers, and what lies behind an address.
type Ways interface {
	// Dialer finds an egress by name.
	Dialer(egress string) (Dialer, bool)
	// Place returns where dst is, seen from this host, for a flow of the client.
	Place(client uint64, dst netip.Addr) policy.Place
	// IsNotUp reports whether a dial failed because its transport is not up.
	IsNotUp(err error) bool
}

// Config is what New needs. Policy, Clients and Ways must be set.
type Config struct {
	Policy  Policy
	Clients Clients
	Ways    Ways

	// Dropped is called for each flow that was not carried. reason is one of the Drop constants. May be nil.
	Dropped func(reason string)
	// Ended receives each finished flow once, in the goroutine that carried it. It must not block. May be nil.
	Ended func(Flow)
	Clock func() time.Time // if nil, time.Now

	// After StormLimit refusals of one client's flows to one destination within StormWindow, further ones are dropped without an
	// answer.
	StormLimit   int           // default 50; if negative, all are answered
	StormWindow  time.Duration // default 30 s
	DialTimeout  time.Duration // for one dial; default 10 s
	SniffTimeout time.Duration // how long to wait for a name before a flow is judged without one; default 300 ms
	SniffMemory  int           // bytes for flows that have not shown a name yet, at most half of them for one client; default 32 MiB
	Log          *slog.Logger  // if nil, nothing is logged
	Metrics      *Metrics      // if nil, nothing is counted
}

// Router carries flows. Its methods may be called by several goroutines at once.
type Router struct {
	Config
	table    table
	storms   storms
	killed   killed
	heads    heads
	mappings mappings
	epochs   epochs
	sockets  readable.Set
	patience patience
}

// Reasons why a flow was not carried.
const (
	DropLoop     = "loop"     // it would loop back to penstock, or comes from one of our own sockets
	DropReserved = "reserved" // its destination is this machine, a peer, or a reserved address
	DropSource   = "source"   // its client is gone
	DropStorm    = "storm"    // see Config.StormLimit
	DropSniff    = "sniff"    // see Config.SniffMemory
)

// New returns a Router.
func New(c Config) (*Router, error) {
	if c.Policy == nil || c.Clients == nil || c.Ways == nil {
		return nil, errors.New("router: Policy, Clients and Ways must be set")
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.SniffTimeout == 0 {
		c.SniffTimeout = 300 * time.Millisecond
	}
	if c.SniffMemory == 0 {
		c.SniffMemory = 32 << 20
	}
	if c.StormLimit == 0 {
		c.StormLimit = 50
	}
	if c.StormWindow == 0 {
		c.StormWindow = 30 * time.Second
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Dropped == nil {
		c.Dropped = func(string) {}
	}
	if c.Ended == nil {
		c.Ended = func(Flow) {}
	}
	return &Router{
		Config: c, table: newTable(), storms: newStorms(c.StormLimit, c.StormWindow),
		heads: heads{limit: c.SniffMemory, clients: make(map[uint64]int)}, patience: patience{quiet: quietFor},
	}, nil
}

// Handle takes one flow through the pipeline. It returns when the flow is over or ctx is done, or when the flow goes on without it: its
// packets cross, or Answer is a Keeper.
func (r *Router) Handle(ctx context.Context, req Request) {
	var rest func(context.Context)
	aside(func() { rest = r.Begin(ctx, req) })
	if rest != nil {
		rest(ctx)
	}
}

// Begin is Handle as far as nothing is waited for, and does not block. It returns what is left to do; nil if nothing is. life is that of
// whoever the flow comes from: a flow whose packets would cross after its end is reset.
func (r *Router) Begin(life context.Context, req Request) (rest func(ctx context.Context)) {
	e := r.begin(&req)
	switch {
	case e == nil:
		req.Answer.Drop()
		return nil
	case e.carrier != nil && (crosser{r}).pass(life, &req, e):
		return nil // whoever carries it says when it is over
	case e.verdict().Action != policy.Forward && !e.isReadFirst() && !e.isExplainable():
		e.refuse(r, req.Answer)
		r.end(e)
		return nil
	}
	return func(ctx context.Context) { e.finish(ctx, r, req.Answer) }
}

// finish takes a judged flow through the rest of the pipeline.
//
// Facts and verdict are in the entry, not in variables: a goroutine may wait in here for as long as the flow lives, and its stack
// is most of what such a flow costs.
func (e *entry) finish(ctx context.Context, r *Router, a Answerer) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	e.cancelledBy(cancel)
	if e.isReadFirst() || e.isExplainable() {
		aside(func() {
			defer stillJudged(a)()
			e.accept(a)
		})
	}
	if j, ok := a.(Judging); ok {
		j.Judged()
	}
	kept := false // the flow goes on without this goroutine
	defer func() {
		if !kept {
			r.end(e)
		}
	}()
	switch {
	case e.isReadFirst():
		kept = r.handleUnnamed(ctx, a, e)
	case e.isExplainable():
		kept = r.refuseNamed(ctx, a, e)
	case e.verdict().Later != policy.LaterNothing:
		kept = r.handleLate(ctx, a, e)
	default:
		kept = r.forward(ctx, a, e)
	}
}

// begin describes and judges a flow and enters it in the table. It returns nil for a flow that is none of a client's.
func (r *Router) begin(req *Request) *entry {
	epoch := r.epochs.last.Load()
	f, release, ok := r.describe(req)
	if !ok {
		return nil
	}
	e := r.table.begin(&f, r.Clock())
	e.release = release
	judged := false
	defer func() {
		if !judged { // it panicked: who recovers from that knows nothing of the entry
			e.fail("judge", errPanicked)
			r.end(e)
		}
	}()
	v := r.Policy.Decide(f)
	for e.judged(&f, v); !r.epochs.settled(&epoch); e.judged(&f, v) {
		if r.Clients.Describe(&f) {
			v = r.Policy.Decide(f)
		} else {
			r.Dropped(DropSource)
			v = policy.Verdict{}
		}
	}
	e.carrier = crosser{r}.carrier(req, e)
	judged = true
	return e
}

// ackTime is how long a flow that is accepted first still counts as one that is judged, while its client does not acknowledge that. So a
// flood of SYNs that nobody goes on with is held back, and keeps others of its client waiting no longer.
const ackTime = time.Second

// stillJudged begins that time.
func stillJudged(a Answerer) (stop func() bool) {
	j, ok := a.(Judging)
	if !ok {
		return func() bool { return false }
	}
	return time.AfterFunc(ackTime, j.Judged).Stop
}

// forward dials the far side of a flow, passes the outcome on to the client, and relays. kept is as in carryStream.
func (r *Router) forward(ctx context.Context, a Answerer, e *entry) (kept bool) {
	upstream, err := r.dial(ctx, e)
	if err != nil {
		r.answerFailed(a, e, err)
		return false
	}
	client, err := a.Accept() // only now is the SYN answered
	if err != nil {
		abort(upstream) // the client is gone, so the connection it asked for is reset
		upstream.Close()
		e.fail("accept", err)
		return false
	}
	return r.carry(ctx, a, e, client, upstream)
}

// describe collects the facts that are known before the flow is read. release must be called when the flow is over.
func (r *Router) describe(req *Request) (f policy.Flow, release func(), ok bool) {
	f = policy.Flow{Network: req.Network, Client: req.Client, Src: req.Src, Dst: req.Dst, Time: r.Clock()}
	if r.table.isOurs(f.Src) {
		r.Dropped(DropLoop)
		return f, nil, false
	}
	if !r.Clients.Describe(&f) {
		r.Dropped(DropSource)
		return f, nil, false
	}
	f.Sniffed = f.Network == policy.ICMP // a ping is not read, so no name will come
	f.Place = r.Ways.Place(f.Client, f.Dst.Addr())
	release = r.Clients.Names(&f)
	r.killed.recall(&f)
	return f, release, true
}

// judge judges a flow that has been read. If the flow claims a name that DNS did not give, judge looks it up with our
// resolver. If the name resolves, it counts. If it has another address, the flow is dialled there instead, or stays at present if that
// is one of several: a name's addresses come in another order each time.
//
// If the name may be an outer one, with the site's own encrypted (ECH), it counts only if our resolver gives the flow's address for it.
// That is what the client would get by asking for it, and most browsers offer ECH to every site, with the site's own name outside.
func (r *Router) judge(ctx context.Context, f policy.Flow, present netip.Addr, outer bool) (policy.Flow, policy.Verdict) {
	v := r.Policy.Decide(f)
	if v.Claim == "" {
		return f, v
	}
	addrs, err := r.Clients.Confirm(ctx, f, v.Claim)
	if err != nil || len(addrs) == 0 {
		r.Log.Debug("flow claims a name that does not resolve", "src", f.Src, "dst", f.Dst, "host", v.Claim, "err", err)
		return f, v
	}
	if outer && !slices.Contains(addrs, f.Dst.Addr()) {
		return f, v
	}
	if slices.Contains(addrs, present) && !slices.Contains(addrs, f.Dst.Addr()) {
		addrs = []netip.Addr{present}
	}
	g := f.Confirmed(v.Claim, addrs)
	g.Place = r.Ways.Place(g.Client, g.Dst.Addr())
	w := r.Policy.Decide(g)
	if w.Claim != "" { // another claimed name is still unconfirmed
		return f, v
	}
	return g, w
}

// refuse refuses or drops a flow, as the verdict says.
func (e *entry) refuse(r *Router, a Answerer) {
	f, v := e.flow(), e.verdict()
	switch {
	case v.Cause == policy.ByLoop:
		r.Dropped(DropLoop)
	case v.Cause == policy.ByGuard, v.Cause == policy.ByPeers:
		r.Dropped(DropReserved)
	}
	switch {
	case v.Action == policy.Drop:
		a.Drop()
	case r.storms.refused(&f, r.Clock()):
		r.Dropped(DropStorm)
		a.Drop()
	default:
		a.Refuse()
	}
}

// speaksFirst reports whether the client is known to speak first: over UDP always, and over TCP on the ports of the web.
func speaksFirst(n policy.Network, port uint16) bool {
	switch port {
	case 80, 443, 8080, 8443:
		return n == policy.TCP || n == policy.UDP
	}
	return n == policy.UDP
}

// isReadFirst reports whether to read the flow for a name before it is dialled.
func (e *entry) isReadFirst() bool {
	return e.verdict().Later != policy.LaterNothing && speaksFirst(e.facts.network(), e.facts.dst.Port())
}

// sourceOf returns the source of a name that was read in a flow.
func sourceOf(p sniff.Protocol) policy.Source {
	switch p {
	case sniff.TLS:
		return policy.FromSNI
	case sniff.HTTP, sniff.HTTP2:
		return policy.FromHTTP
	case sniff.QUIC:
		return policy.FromQUIC
	}
	return policy.FromNowhere
}
