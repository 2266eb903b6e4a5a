// Package router is the pipeline that every flow goes through: describe, judge, dial, answer, relay.
//
// The same code serves laptop and gateway; what differs is which stack hands flows in and which dialers stand in the
// egress map. The router keeps the table of live flows and the counts of what was decided.
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

// Answerer is how a flow's client is answered: exactly once, by one of the three. *stack.Request is one.
type Answerer interface {
	// Accept returns the client's side of the flow. It may wait for the client.
	Accept() (net.Conn, error)
	// Refuse answers as a host does where nobody listens.
	Refuse()
	// Drop answers nothing.
	Drop()
}

// Request is a flow whose first packet has come.
type Request struct {
	Network  policy.Network
	Src, Dst netip.AddrPort
	Answer   Answerer
}

// Config is what New needs. Decide and Dialer must be set.
type Config struct {
	// Decide judges a flow. It must not block.
	Decide func(policy.Flow) policy.Verdict
	// Dialer finds an egress by name.
	Dialer func(egress string) (Dialer, bool)
	// Describe tells who sends from an address: peer name and groups. ok is false for a source that nobody may use;
	// its flows are dropped. Nil knows nobody and lets all in.
	Describe func(src netip.Addr) (peer string, groups []string, ok bool)
	// Program tells who on this machine sends a flow: the owner of its socket, and the path of the program, which may be
	// empty. ok is false if that is not known. Nil knows nobody.
	Program func(n policy.Network, src, dst netip.AddrPort) (uid uint32, path string, ok bool)
	// Names are the names that a client resolved to an address, most recent first. Nil knows none.
	Names func(client, dst netip.Addr) []policy.Name
	// Pin keeps the names of a (client, address) for as long as a flow is open. May be nil.
	Pin func(client, dst netip.Addr) (release func())
	// Own reports that a destination is the process's own: dialling it would come back here. May be nil.
	Own func(dst netip.Addr) bool
	// Reserved reports that an egress must not dial a destination although the verdict of rule forwards it: loopback,
	// link-local, metadata services, the gateway itself. May be nil.
	Reserved func(dst netip.Addr, egress, rule string) bool
	// Fallback is the egress to use instead while a dial through the verdict's egress fails because it is not up; ok is
	// false to refuse, which is what happens if Fallback is nil.
	Fallback func(v policy.Verdict) (egress string, ok bool)
	// NotUp is the error that such a dial's error wraps. May be nil.
	NotUp error
	// Dropped counts a flow that was not carried, for a reason of the closed set of this package. May be nil.
	Dropped func(reason string)
	// Ended receives each finished flow once, in the goroutine that carried it. May be nil.
	Ended func(Flow)
	// Generation is the number of the policy that Decide asks now. May be nil.
	Generation func() uint64

	// StormLimit refusals to one client at one destination within StormWindow are answered, the next ones are dropped.
	StormLimit   int           // default 50; negative answers all
	StormWindow  time.Duration // default 30 s
	DialTimeout  time.Duration // for one dial; default 10 s
	SniffTimeout time.Duration // for reading a name before a flow is judged on what is known; default 300 ms
	Clock        func() time.Time
	Log          *slog.Logger // nil discards
	Metrics      *Metrics     // nil counts nothing
}

// Router carries flows. Its methods may be called by several goroutines at once.
type Router struct {
	Config
	table  table
	storms storms
}

// Reasons why a flow was not carried.
const (
	DropLoop     = "loop"     // it would have come back to us, or is one of our own
	DropReserved = "reserved" // see Config.Reserved
	DropSource   = "source"   // nobody may send from that address
	DropStorm    = "storm"    // see Config.StormLimit
)

// New makes a router.
func New(c Config) (*Router, error) {
	if c.Decide == nil || c.Dialer == nil {
		return nil, errors.New("router: Decide and Dialer must be set")
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = 10 * time.Second
	}
	if c.SniffTimeout == 0 {
		c.SniffTimeout = 300 * time.Millisecond
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
	return &Router{Config: c, table: newTable(), storms: newStorms(c.StormLimit, c.StormWindow)}, nil
}

// Handle takes one flow through the pipeline and returns when it is over, or when ctx is.
func (r *Router) Handle(ctx context.Context, req Request) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f, ok := r.describe(req)
	if !ok {
		r.Dropped(DropSource)
		req.Answer.Drop()
		return
	}
	if r.loops(f) {
		r.Dropped(DropLoop)
		req.Answer.Drop()
		return
	}
	if r.Pin != nil {
		defer r.Pin(f.Src.Addr(), f.Dst.Addr())()
	}
	e := r.table.begin(f, r.now(), r.generation(), cancel)
	defer r.end(e)

	v := r.Decide(f)
	e.judged(f, v, e.generation)
	if v.Later != policy.LaterNothing {
		r.handleUnnamed(ctx, req, f, e)
		return
	}
	if explainable(f, v) {
		r.refuseNamed(ctx, req, v, e)
		return
	}
	if v.Action != policy.Forward {
		r.answer(req.Answer, &f, v.Action)
		return
	}
	upstream, err := r.dial(ctx, f, v, e)
	if err != nil {
		r.answerFailed(req.Answer, e, err)
		return
	}
	defer upstream.Close()
	client, err := req.Answer.Accept() // only now is the SYN answered
	if err != nil {
		abort(upstream) // the client has gone: what it dialled was not ended in peace
		e.fail("accept", err)
		return
	}
	r.carry(ctx, e, client, upstream)
}

// describe gathers what is known of a flow before any of it was read.
func (r *Router) describe(req Request) (policy.Flow, bool) {
	f := policy.Flow{Network: req.Network, Src: req.Src, Dst: req.Dst, Time: r.now()}
	f.Sniffed = !sniffable(f) // nothing will be read of the others: what is known now is all
	if r.Describe != nil {
		var ok bool
		if f.Peer, f.Groups, ok = r.Describe(req.Src.Addr()); !ok {
			return f, false
		}
	}
	if r.Program != nil {
		f.UID, f.Process, f.HasUID = r.Program(req.Network, req.Src, req.Dst)
	}
	if r.Names != nil {
		f.Names = r.Names(req.Src.Addr(), req.Dst.Addr())
	}
	return f, true
}

// loops reports a flow that we sent ourselves, or that would come back to us.
func (r *Router) loops(f policy.Flow) bool {
	if r.table.isOurs(f.Src) {
		return true
	}
	return r.Own != nil && r.Own(f.Dst.Addr())
}

// answer says no.
func (r *Router) answer(a Answerer, f *policy.Flow, action policy.Action) {
	switch {
	case action == policy.Drop:
		a.Drop()
	case r.storms.refused(f, r.now()):
		r.Dropped(DropStorm)
		a.Drop()
	default:
		a.Refuse()
	}
}

// sniffable says that the clients of a port speak first, and name a host.
func sniffable(f policy.Flow) bool {
	switch f.Dst.Port() {
	case 80, 8080, 8443:
		return f.Network == policy.TCP
	case 443:
		return f.Network == policy.TCP || f.Network == policy.UDP
	}
	return false
}

func (r *Router) now() time.Time { return r.Clock() }

func (r *Router) generation() uint64 {
	if r.Generation == nil {
		return 0
	}
	return r.Generation()
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
