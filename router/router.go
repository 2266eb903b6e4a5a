// Package router is the pipeline that every flow goes through: describe, judge, dial, answer, relay.
//
// The same code serves laptop and gateway; what differs is which stack hands flows in and which dialers are the ways
// out. The router keeps the table of live flows and the counts of what was decided.
//
// It does not parse packets, resolve names, make policy or know any transport.
package router

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

// Dialer opens the far side of a flow. *net.Dialer and *stack.Stack are ones. network is "tcp", "udp" or "ping" with 4
// or 6 behind it, address an IP address and port; a "ping" connection carries ICMP echo bodies, identifier first.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// FlowDialer is a Dialer that has to know whose flow it serves, as the embedded DNS server does.
type FlowDialer interface {
	DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error)
}

// Answerer is how a flow's client is answered: exactly once, by one of the four. *stack.Request is one.
type Answerer interface {
	// Accept returns the client's side of the flow. It may wait for the client.
	Accept() (net.Conn, error)
	// Refuse answers as a host does where nobody listens.
	Refuse()
	// Unreachable answers as the network does when a dial fails with err.
	Unreachable(err error)
	// Drop answers nothing.
	Drop()
}

// Request is a flow whose first packet has come.
type Request struct {
	Network  policy.Network
	Client   uint64 // key of whoever sent it
	Src, Dst netip.AddrPort
	Answer   Answerer
}

// Policy judges flows. It must not block.
type Policy interface {
	Decide(policy.Flow) policy.Verdict
}

// Clients knows who sends flows, and what belongs to them.
type Clients interface {
	// Describe adds to a flow what is known of its client. It reports false for a client that is gone; its flow is dropped.
	Describe(f *policy.Flow) bool
	// Names adds the names that the flow's client resolved to its destination, most recent first, and keeps them until
	// release is called.
	Names(f *policy.Flow) (release func())
	// Confirm returns the addresses, of the family of the flow's destination, that our resolver gives the flow's client for
	// a host.
	Confirm(ctx context.Context, f policy.Flow, host string) ([]netip.Addr, error)
}

// Ways are the ways out.
type Ways interface {
	// Dialer finds an egress by name.
	Dialer(egress string) (Dialer, bool)
	// Place says what a destination is to this host when a client asks for it.
	Place(client uint64, dst netip.Addr) policy.Place
	// IsNotUp reports that a dial failed because its transport is not up.
	IsNotUp(err error) bool
}

// Config is what New needs. Policy, Clients and Ways must be set.
type Config struct {
	Policy  Policy
	Clients Clients
	Ways    Ways

	// Dropped counts a flow that was not carried, for a reason of the closed set of this package. May be nil.
	Dropped func(reason string)
	// Ended receives each finished flow once, in the goroutine that carried it. It must not block. May be nil.
	Ended func(Flow)
	Clock func() time.Time // nil is time.Now

	// StormLimit refusals to one client at one destination within StormWindow are answered, the next ones are dropped.
	StormLimit   int           // default 50; negative answers all
	StormWindow  time.Duration // default 30 s
	DialTimeout  time.Duration // for one dial; default 10 s
	SniffTimeout time.Duration // for reading a name before a flow is judged on what is known; default 300 ms
	SniffMemory  int           // bytes that wait to name a host, half of them for one client; default 32 MiB
	Log          *slog.Logger  // nil discards
	Metrics      *Metrics      // nil counts nothing
}

// Router carries flows. Its methods may be called by several goroutines at once.
type Router struct {
	Config
	table  table
	storms storms
	heads  heads
}

// Reasons why a flow was not carried.
const (
	DropLoop     = "loop"     // it would have come back to us, or is one of our own
	DropReserved = "reserved" // its destination is this machine or a reserved address
	DropSource   = "source"   // its client is gone
	DropStorm    = "storm"    // see Config.StormLimit
	DropSniff    = "sniff"    // see Config.SniffMemory
)

// New makes a router.
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
		heads: heads{limit: c.SniffMemory, clients: make(map[uint64]int)},
	}, nil
}

// Handle takes one flow through the pipeline and returns when it is over, or when ctx is.
//
// Facts and verdict are in the entry, not in variables: a goroutine waits below here for as long as the flow lives, and
// what it has on its stack is most of what a flow costs.
func (r *Router) Handle(ctx context.Context, req Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var e *entry
	if sniffable(req.Network, req.Dst.Port()) {
		aside(func() { e = r.begin(&req, cancel) })
	} else {
		e = r.begin(&req, cancel)
	}
	if e == nil {
		req.Answer.Drop()
		return
	}
	defer e.release()
	defer r.end(e)
	switch v := &e.verdict; {
	case v.Later != policy.LaterNothing:
		r.handleUnnamed(ctx, e)
	case explainable(&e.flow, v):
		r.refuseNamed(ctx, e)
	case v.Action != policy.Forward:
		r.answer(req.Answer, e)
	default:
		r.forward(ctx, req.Answer, e)
	}
}

// begin enters a flow in the table, with what is known of it and the verdict on that, and accepts it if it will be read.
// It returns nil for a flow that nobody can have sent.
func (r *Router) begin(req *Request, cancel context.CancelFunc) *entry {
	f, release, ok := r.describe(req)
	if !ok {
		return nil
	}
	e := r.table.begin(f, r.Clock(), cancel)
	e.release = release
	v := r.Policy.Decide(f)
	e.judged(f, v)
	if v.Later != policy.LaterNothing || explainable(&f, &v) {
		e.accept(req.Answer)
	}
	return e
}

// forward dials the far side of a flow, answers the client as the dial ends, and carries the flow's data.
func (r *Router) forward(ctx context.Context, a Answerer, e *entry) {
	upstream, err := r.dial(ctx, e)
	if err != nil {
		r.answerFailed(a, e, err)
		return
	}
	defer upstream.Close()
	client, err := a.Accept() // only now is the SYN answered
	if err != nil {
		abort(upstream) // the client has gone: what it dialled was not ended in peace
		e.fail("accept", err)
		return
	}
	r.carry(ctx, e, client, upstream)
}

// describe gathers what is known of a flow before any of it was read. release must be called when the flow is over.
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
	f.Sniffed = !sniffable(f.Network, f.Dst.Port()) // nothing will be read of the others: what is known now is all
	f.Place = r.Ways.Place(f.Client, f.Dst.Addr())
	return f, r.Clients.Names(&f), true
}

// judge asks the policy for a flow that was read. Where the flow claims a name that DNS did not give, our resolver is
// asked: a true name counts, and one that stands for another address is dialled there instead.
func (r *Router) judge(ctx context.Context, f policy.Flow) (policy.Flow, policy.Verdict) {
	v := r.Policy.Decide(f)
	if v.Claim == "" {
		return f, v
	}
	addrs, err := r.Clients.Confirm(ctx, f, v.Claim)
	if err != nil || len(addrs) == 0 {
		r.Log.Debug("a flow claims a name that does not resolve", "src", f.Src, "dst", f.Dst, "host", v.Claim, "err", err)
		return f, v
	}
	g := f.Confirmed(v.Claim, addrs)
	g.Place = r.Ways.Place(g.Client, g.Dst.Addr())
	w := r.Policy.Decide(g)
	if w.Claim != "" { // one true name among false ones
		return f, v
	}
	return g, w
}

// answer says no.
func (r *Router) answer(a Answerer, e *entry) {
	f, v := &e.flow, &e.verdict
	switch {
	case v.Cause == policy.ByLoop:
		r.Dropped(DropLoop)
	case v.Cause == policy.ByGuard:
		r.Dropped(DropReserved)
	}
	switch {
	case v.Action == policy.Drop:
		a.Drop()
	case r.storms.refused(f, r.Clock()):
		r.Dropped(DropStorm)
		a.Drop()
	default:
		a.Refuse()
	}
}

// sniffable says that the clients of a port speak first, and name a host.
func sniffable(n policy.Network, port uint16) bool {
	switch port {
	case 80, 8080, 8443:
		return n == policy.TCP
	case 443:
		return n == policy.TCP || n == policy.UDP
	}
	return false
}

// sourceOf is where a name that was read in a flow comes from.
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
