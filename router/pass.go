package router

import (
	"context"
	"net/netip"

	"penstock/policy"
)

// Carrier is an egress that carries packets, so that a TCP connection need not end in penstock. Only Ways and Passer know
// what it is.
type Carrier any

// Carriers is implemented by Ways whose egresses carry packets.
type Carriers interface {
	// Carrier returns what carries packets to dst through an egress now. ok is false if the egress is not up, has no address of
	// that family or carries no packets.
	Carrier(egress string, dst netip.Addr) (c Carrier, ok bool)
}

// Passer is an Answerer that can let the packets of a TCP flow cross to a Carrier.
type Passer interface {
	// Pass is called in place of the methods of Answerer; after an error one of those must still be called.
	Pass(to Carrier, w Watch) (Passed, error)
}

// Watch is told about a flow whose packets cross. Its functions must not block, and may be called before Pass returns.
type Watch struct {
	// Read gets what the client sends, in order, before it leaves. Nil: all of it may leave.
	Read func(b []byte)
	// Opened is called when the server has accepted.
	Opened func()
	// Moved reports whether the flow would go another way by now. It is asked when a client whose server has not answered asks again;
	// if so, the flow ends, and a new one begins.
	Moved func() bool
	// Ended is called once, when the flow is over. err is why the server was not reached, if it was not.
	Ended func(err error)
}

// Passed is a flow whose packets cross.
type Passed interface {
	// Bytes returns how much payload the client has sent and received.
	Bytes() (in, out uint64)
	// Permit lets the next n bytes that were read leave.
	Permit(n int)
	// Open lets everything leave and ends reading.
	Open()
	// Abort resets the flow on both sides.
	Abort()
}

// Path is how a flow is carried.
type Path uint8

// Values of Path.
const (
	Terminated Path = iota // it ends in penstock, which dials anew
	Forwarded              // its packets cross
	Inline                 // its packets cross; what the client sends first is held until it shows a name or can show none
)

func (p Path) String() string {
	switch p {
	case Forwarded:
		return "forwarded"
	case Inline:
		return "forwarded, judged in line"
	}
	return "terminated"
}

// PathOf returns how a flow with verdict v would be carried through an egress that carries packets, and why.
func PathOf(f policy.Flow, v policy.Verdict, decide func(policy.Flow) policy.Verdict) (p Path, why string) {
	switch {
	case v.Action != policy.Forward:
		return Terminated, ""
	case f.Network != policy.TCP:
		return Terminated, "only TCP is forwarded"
	case v.Later == policy.LaterNothing:
		return Forwarded, "no name could change the verdict"
	case v.Later == policy.LaterEgress:
		return Terminated, "a name in the flow could lead it elsewhere"
	case showsPage(f.Dst.Port()):
		return Terminated, "its client may have to be shown a page"
	}
	if speaksFirst(f.Network, f.Dst.Port()) {
		f.Sniffed = true // and shows no name
		if w := decide(f); w.Action != policy.Forward || w.Egress != v.Egress {
			return Terminated, "without a name it would be refused"
		}
	}
	return Inline, "a name in the flow could still block it"
}

// crosser is a Router as it lets the packets of flows cross.
type crosser struct{ *Router }

// carrier returns what would carry the packets of a judged flow; nil if it has to end here.
func (r crosser) carrier(req *Request, e *entry) Carrier {
	ways, ok := r.Ways.(Carriers)
	if _, can := req.Answer.(Passer); !ok || !can || e.verdict.Action != policy.Forward {
		return nil
	}
	c, ok := ways.Carrier(e.verdict.Egress, e.flow.Dst.Addr())
	if !ok {
		return nil
	}
	p, _ := PathOf(e.flow, e.verdict, r.Policy.Decide)
	if p == Terminated {
		return nil
	}
	e.pathIs(p)
	return c
}

// pass lets the packets of a flow cross. It reports false if the flow has to be carried in another way.
func (r crosser) pass(ctx context.Context, req *Request, e *entry) bool {
	var in *inline
	watch := Watch{
		Opened: func() { r.Metrics.dialled(r.Clock().Sub(e.start)) },
		Moved:  func() bool { return r.moved(e) },
		Ended:  func(err error) { go r.crossed(e, in, err) }, // whoever brought the last packet has others to carry
	}
	if e.path == Inline {
		in = newInline(ctx, r.Router, e)
		watch.Read = in.feed
	}
	p, err := req.Answer.(Passer).Pass(e.carrier, watch)
	if err != nil {
		r.Log.Debug("the packets of a flow cannot cross", "flow", e.id, "dst", e.flow.Dst, "egress", e.verdict.Egress, "err", err)
		e.pathIs(Terminated)
		return false
	}
	e.passedAs(p)
	if ctx.Err() != nil { // it was killed meanwhile, by somebody who did not see p
		p.Abort()
	}
	if in != nil {
		in.begin(p)
	}
	return true
}

// moved reports whether a flow that its server has not answered would go another way by now: its group has changed to another
// transport, or its transport is not up and the policy knows another way.
func (r crosser) moved(e *entry) bool {
	f := e.snapshot()
	if c, ok := r.Ways.(Carriers).Carrier(f.Verdict.Egress, f.Facts.Dst.Addr()); ok {
		return c != e.carrier
	}
	f.Facts.Down, f.Facts.Time = f.Verdict.Egress, r.Clock()
	v := r.Policy.Decide(f.Facts)
	return v.Action == policy.Forward && v.Egress != f.Verdict.Egress
}

// crossed ends a flow whose packets crossed.
func (r crosser) crossed(e *entry, in *inline, err error) {
	if in != nil {
		in.close()
	}
	if err != nil {
		e.fail("dial", err)
		r.Metrics.dialFailed(dialReason(err, r.Ways))
	}
	r.end(e)
	e.release()
}
