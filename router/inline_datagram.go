package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"penstock/policy"
	"penstock/policy/sniff"
)

func (r crosser) passDatagrams(life context.Context, req *Request, e *entry) error {
	start := r.Clock()
	release := func() {}
	open := func(open func(port uint16) (uint16, error)) error {
		_, err := open(0)
		return err
	}
	if req.Network == policy.UDP {
		var one *mapping
		f := e.flow()
		one, release = r.mappings.hold(&f, e.verdict().Egress)
		open = one.openNow
	}
	var in *inlineDatagrams
	watch := DatagramWatch{Ended: func(err error) {
		over := func() {
			release()
			if err != nil { // as where it ends here, the dial succeeded
				e.fail("relay", err)
			}
			r.end(e)
		}
		if in == nil {
			over()
			return
		}
		go func() {
			in.close()
			over()
		}()
	}}
	if e.path == Inline {
		in = &inlineDatagrams{r: r.Router, e: e, before: e.flow(), first: e.course()}
		in.ctx, in.cancel = context.WithCancel(context.WithoutCancel(life)) // a judgement that is under way ends with the flow
		watch.Read = in.read
	}
	var p PassedDatagrams
	err := open(func(port uint16) (used uint16, err error) {
		watch.Port = port
		if p, err = req.Answer.(Passer).PassDatagrams(e.carrier, watch); err == nil {
			used = p.Port()
		}
		return used, err
	})
	if err != nil {
		release()
		return err
	}
	r.Metrics.dialled(r.Clock().Sub(start))
	e.carriedBy(p)
	e.resetBy(life, p)
	if in != nil {
		in.begin(p)
	}
	return nil
}

// inlineDatagrams judges a flow whose packets cross by what its client sends. Whoever carries them calls read, which lets a datagram
// leave at once unless it shows another name. That one and what follows are kept, and a goroutine that lives as long as there are any
// judges them.
type inlineDatagrams struct {
	r      *Router
	e      *entry
	ctx    context.Context // ends with the flow
	cancel context.CancelFunc
	before policy.Flow // the facts before it was read
	first  course

	mu       sync.Mutex      // guards below
	to       PassedDatagrams // nil until the flow has passed
	initials sniff.Initials
	last     *sniff.Result // what was judged last; nil before
	kept     []keptDatagram
	bytes    int                   // that kept takes, and what is being sent: see heldSize
	hellos   int                   // bytes that initials holds
	busy     bool                  // a goroutine judges
	end      func(PassedDatagrams) // how to end the flow; nil while it goes on

	judging sync.WaitGroup // of that goroutine
}

// keptDatagram waits for the judgement of what the flow shows with it.
type keptDatagram struct {
	b      []byte
	manner uint32
	res    sniff.Result
}

// begin says what the flow has passed as.
func (in *inlineDatagrams) begin(p PassedDatagrams) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.to = p
	if in.end != nil {
		go in.end(p)
		return
	}
	in.startLocked()
}

// read looks at a datagram of the client's.
func (in *inlineDatagrams) read(b []byte, manner uint32) (leave bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.end != nil {
		return false
	}
	res := in.initials.Datagram(b)
	if !in.accountLocked() {
		return false
	}
	if res.Status != sniff.NeedMore && len(in.kept) == 0 && !in.busy {
		if in.last != nil && *in.last == res {
			return true
		}
		// Nothing has to be looked up, and it is the handler that waits: what comes later comes from whoever carries all packets.
		if res.Status != sniff.Found && in.to == nil {
			in.judgedLocked(res, in.judge(res))
			return in.end == nil
		}
	}
	in.keepLocked(b, manner, res)
	in.startLocked()
	return false
}

// errEndless ends a flow that would otherwise be one that was forwarded, and of which nothing has left.
var errEndless = errors.New("a hello was begun and does not end")

// keepLocked keeps a datagram that cannot be judged yet.
func (in *inlineDatagrams) keepLocked(b []byte, manner uint32, res sniff.Result) {
	// One that comes alone and is whole is judged at once, and may have any size.
	whole := len(in.kept) == 0 && !in.busy && res.Status != sniff.NeedMore
	switch {
	case !whole && in.bytes+heldSize(b) > 2*sniff.MaxBytes:
		if in.decidable() == 0 && !in.busy { // a hello that never ends; else one that is looked up or sent: the client repeats what is lost
			in.endLocked(errEndless, PassedDatagrams.Abort)
		}
	case !in.takeLocked(heldSize(b)):
	default:
		in.kept = append(in.kept, keptDatagram{bytes.Clone(b), manner, res})
		in.bytes += heldSize(b)
	}
}

// accountLocked takes of Config.SniffMemory what is held of hellos now, or gives it back. It ends the flow if there is too little.
func (in *inlineDatagrams) accountLocked() (ok bool) {
	more := in.initials.Held() - in.hellos
	switch {
	case more < 0:
		in.r.heads.give(in.before.Client, -more)
	case more > 0 && !in.takeLocked(more):
		return false
	}
	in.hellos += more
	return true
}

// takeLocked takes memory, or ends the flow.
func (in *inlineDatagrams) takeLocked(n int) (ok bool) {
	if ok = in.r.heads.take(in.before.Client, n); !ok {
		in.r.Dropped(DropSniff)
		in.endLocked(errCrowded, PassedDatagrams.Abort)
	}
	return ok
}

// endLocked ends the flow. Nothing leaves any more.
func (in *inlineDatagrams) endLocked(why error, how func(PassedDatagrams)) {
	if in.end != nil {
		return
	}
	if !errors.Is(why, errNoMore) {
		in.e.fail("read", why)
	}
	in.end = how
	if in.to != nil {
		go how(in.to) // the flow may have been called from
	}
}

// judge judges the flow by what it shows, and returns how to end it; nil if it may go on. What makes the reader panic ends the flow, and
// not the process.
func (in *inlineDatagrams) judge(res sniff.Result) (how func(PassedDatagrams)) {
	defer func() {
		if v := recover(); v != nil {
			in.r.Log.Error("what a client sent made the reader panic; its flow ends", "flow", in.e.id, "err", fmt.Sprint(v), "trace", string(debug.Stack()))
			in.e.failed("read: internal error")
			how = PassedDatagrams.Abort
		}
	}()
	named, v := in.r.named(in.ctx, in.before, res, in.e)
	switch {
	case in.first.stays(named, v):
		return nil
	case v.Action == policy.Drop:
		return PassedDatagrams.Drop
	case v.Action == policy.Refuse:
		return PassedDatagrams.Refuse
	}
	return PassedDatagrams.Abort
}

// judgedLocked notes a judgement.
func (in *inlineDatagrams) judgedLocked(res sniff.Result, how func(PassedDatagrams)) {
	in.last = &res
	if how != nil {
		in.endLocked(errNoMore, how)
	}
}

// decidable is how many of the kept datagrams show something together. NeedMore says that the next one goes on.
func (in *inlineDatagrams) decidable() int {
	for i, k := range in.kept {
		if k.res.Status != sniff.NeedMore {
			return i + 1
		}
	}
	return 0
}

func (in *inlineDatagrams) startLocked() {
	if in.to != nil && in.end == nil && !in.busy && in.decidable() > 0 {
		in.busy = true
		in.judging.Go(in.work)
	}
}

// work judges what is kept, and sends it.
func (in *inlineDatagrams) work() {
	in.mu.Lock()
	defer in.mu.Unlock()
	for n := in.decidable(); n > 0 && in.end == nil; n = in.decidable() {
		if res := in.kept[n-1].res; in.last == nil || *in.last != res {
			in.mu.Unlock()
			how := in.judge(res)
			in.mu.Lock()
			in.judgedLocked(res, how)
			if in.end != nil {
				break
			}
		}
		list := in.kept[:n]
		if in.kept = in.kept[n:]; len(in.kept) == 0 {
			in.kept = nil // nor the memory of list
		}
		in.mu.Unlock()
		for _, k := range list {
			in.to.Send(k.b, k.manner)
		}
		in.mu.Lock()
		in.forgetLocked(list)
	}
	in.busy = false
}

// forgetLocked returns the memory of datagrams.
func (in *inlineDatagrams) forgetLocked(list []keptDatagram) {
	n := 0
	for _, k := range list {
		n += heldSize(k.b)
	}
	in.bytes -= n
	in.r.heads.give(in.before.Client, n)
}

// close is called when the flow is over. It waits for a judgement that is under way: the flow ends with its verdict.
func (in *inlineDatagrams) close() {
	in.cancel()
	in.mu.Lock()
	in.endLocked(errNoMore, PassedDatagrams.Abort)
	in.mu.Unlock()
	in.judging.Wait()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.forgetLocked(in.kept)
	in.kept = nil
	in.r.heads.give(in.before.Client, in.hellos)
	in.hellos = 0
}
