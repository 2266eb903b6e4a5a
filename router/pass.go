package router

import (
	"context"
	"net/netip"
	"sync/atomic"

	"penstock/policy"
)

// Carrier is an egress that carries packets, so that a flow need not end in penstock. Only Ways and Passer know what it is.
type Carrier any

// Carriers is implemented by Ways whose egresses carry packets.
type Carriers interface {
	// Carrier returns what carries packets of a protocol to dst through an egress now. ok is false if the egress is not up, has no
	// address of that family or carries no such packets.
	Carrier(egress string, n policy.Network, dst netip.Addr) (c Carrier, ok bool)
}

// Passer is an Answerer that can let the packets of a flow cross to a Carrier. One of its methods is called in place of those of
// Answerer; after an error one of those must still be called.
type Passer interface {
	// Pass lets the packets of a TCP flow cross. read gets what the client sends, in order, before it leaves; it must not block. Nil: all
	// of it may leave.
	Pass(to Carrier, w Watch, read func(b []byte)) (PassedStream, error)
	// PassDatagrams lets the packets of any other flow cross.
	PassDatagrams(to Carrier, w DatagramWatch) (PassedDatagrams, error)
}

// Watch is told about a TCP flow whose packets cross. Its methods must not block, and may be called before Pass returns.
type Watch interface {
	// Opened is called when the server has accepted.
	Opened()
	// Moved reports whether the flow would go another way by now. It is asked when a client whose server has not answered asks again;
	// if so, the flow ends, and a new one begins.
	Moved() bool
	// Heard is called after read got bytes. Unlike read it may call the PassedStream.
	Heard()
	// Ended is called once, when the flow is over. err is why the server was not reached, if it was not.
	Ended(err error)
}

// DatagramWatch is told about another flow whose packets cross. Its functions must not block, and may be called before
// PassDatagrams returns.
type DatagramWatch struct {
	Port uint16 // that the flow leaves from, if it is free; 0: any
	// Read looks at what the client sends, and reports whether it may leave. manner says how it is carried, and is given to Send if it
	// leaves later. Read must not keep b. Nil: all of it may.
	Read func(b []byte, manner uint32) (leave bool)
	// Ended is called once, when the flow is over. err is the ICMP error that the client got, if it got nothing else.
	Ended func(err error)
}

// Passed is a flow whose packets cross.
type Passed interface {
	// Bytes returns how much payload the client has sent and received.
	Bytes() (in, out uint64)
	// Abort resets the flow on both sides.
	Abort()
}

// PassedStream is a TCP flow whose packets cross.
type PassedStream interface {
	Passed
	// Held returns how many bytes are kept of what was read, until the server has them.
	Held() int
	// Permit lets the next n bytes that were read leave.
	Permit(n int)
	// Skip lets n bytes leave that are not read, if all that was read has been permitted. It reports false if they will be read.
	Skip(n int) (ok bool)
	// Open lets everything leave and ends reading.
	Open()
}

// PassedDatagrams is another flow whose packets cross.
type PassedDatagrams interface {
	Passed
	// Port is the port that the flow leaves from.
	Port() uint16
	// Send sends a datagram that Read has not let leave, in the manner that Read was told.
	Send(b []byte, manner uint32)
	// Refuse ends the flow and answers the client as Answerer.Refuse does.
	Refuse()
	// Drop ends the flow as Answerer.Drop does.
	Drop()
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
	case v.Later == policy.LaterNothing:
		return Forwarded, "no name could change the verdict"
	case v.Later == policy.LaterEgress:
		return Terminated, "a name in the flow could lead it elsewhere"
	case f.Network == policy.TCP && showsPage(f.Dst.Port()):
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
	if _, can := req.Answer.(Passer); !ok || !can || e.verdict().Action != policy.Forward {
		return nil
	}
	c, ok := ways.Carrier(e.verdict().Egress, req.Network, e.facts.dst.Addr())
	if !ok {
		return nil
	}
	p, _ := PathOf(e.flow(), e.verdict(), r.Policy.Decide)
	if p == Terminated {
		return nil
	}
	e.pathIs(p)
	return c
}

// pass lets the packets of a flow cross. It reports false if the flow has to be carried in another way.
func (r crosser) pass(life context.Context, req *Request, e *entry) bool {
	err := error(nil)
	if req.Network == policy.TCP {
		err = r.passStream(life, req, e)
	} else {
		err = r.passDatagrams(life, req, e)
	}
	if err != nil {
		r.Log.Debug("the packets of a flow cannot cross", "flow", e.id, "dst", e.facts.dst, "egress", e.verdict().Egress, "err", err)
		e.pathIs(Terminated)
	}
	return err == nil
}

func (r crosser) passStream(life context.Context, req *Request, e *entry) error {
	w := &watched{r: r, e: e}
	var read func([]byte)
	var in *inline
	if e.path == Inline {
		in = newInline(life, r.Router, e)
		in.over = func() { w.in.Store(nil) }
		w.in.Store(in)
		read = in.feed
	}
	p, err := req.Answer.(Passer).Pass(e.carrier, w, read)
	if err != nil {
		return err
	}
	e.carriedBy(p)
	e.resetBy(life, p)
	if in != nil {
		in.begin(p)
	}
	return nil
}

// watched is a flow of the router's as the Watch of its packets.
type watched struct {
	r  crosser
	e  *entry
	in atomic.Pointer[inline] // nil if nothing is read, or no more
}

func (w *watched) Opened() { w.r.Metrics.dialled(w.r.Clock().Sub(w.e.start)) }

func (w *watched) Heard() {
	if in := w.in.Load(); in != nil {
		in.heard()
	}
}

func (w *watched) Ended(err error) {
	in := w.in.Load()
	if in == nil {
		w.over(err)
		return
	}
	in.close(func() { w.over(err) })
}

func (w *watched) over(err error) {
	if err != nil {
		w.e.fail("dial", err)
		w.r.Metrics.dialFailed(dialReason(err, w.r.Ways))
	}
	w.r.end(w.e)
}

// Moved reports that the flow's group has changed to another transport, or that its transport is not up and the policy knows another way.
func (w *watched) Moved() bool {
	r, f := w.r, w.e.snapshot()
	if c, ok := r.Ways.(Carriers).Carrier(f.Verdict.Egress, f.Facts.Network, f.Facts.Dst.Addr()); ok {
		return c != w.e.carrier
	}
	if f.Verdict.Egress == policy.EgressDirect {
		return true // it is always up: by now a socket is its way
	}
	f.Facts.Down, f.Facts.Time = f.Verdict.Egress, r.Clock()
	v := r.Policy.Decide(f.Facts)
	return v.Action == policy.Forward && v.Egress != f.Verdict.Egress
}
