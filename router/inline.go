package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

// inline judges a flow whose packets cross by what the client sends first. The packets wait in the stack meanwhile: whoever
// carries them calls feed, which only notes the bytes, and then heard, which judges them and permits them to leave. What may take
// time, such as a name that has to be looked up, is left to a goroutine that lives as long as there are bytes.
type inline struct {
	r      *Router
	e      *entry
	ctx    context.Context // ends with the flow
	cancel context.CancelFunc
	before policy.Flow // the facts before it was read
	over   func()      // called when nothing is read any more, unless the flow ends with that

	// Of who reads.
	head    *head
	passed  int         // bytes of head that have left
	through io.Writer   // the filter of everything after head; nil while head is read
	late    *time.Timer // ends a flow whose hello or head was begun and does not go on

	mu      sync.Mutex   // guards below
	to      PassedStream // nil until the flow has passed
	pending []byte
	fed     int  // bytes that were fed
	kept    int  // bytes of those that are kept, or fewer are
	taken   int  // bytes of Config.SniffMemory
	crowded bool // there were none left
	busy    bool // somebody reads
	done    bool // nothing more is read

	reading sync.WaitGroup // of who reads
}

// maxHeld is about how much the stack keeps of a flow that is read, in bytes.
const maxHeld = 192 << 10

func newInline(life context.Context, r *Router, e *entry) *inline {
	in := &inline{r: r, e: e, before: e.flow(), head: r.heads.begin(e.facts.client())}
	in.ctx, in.cancel = context.WithCancel(context.WithoutCancel(life)) // a judgement that is under way ends with the flow
	return in
}

// begin says where to permit bytes.
func (in *inline) begin(p PassedStream) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.to = p
	if in.startsLocked() {
		in.reading.Go(func() { in.work(false) })
	}
}

// feed takes what the client sends. It does not block and does not keep b.
func (in *inline) feed(b []byte) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.done {
		return
	}
	in.fed += len(b)
	in.kept += len(b)
	if more := min(in.kept, maxHeld) - in.taken; more > 0 {
		if in.crowded = !in.r.heads.take(in.before.Client, more); !in.crowded {
			in.taken += more
		}
	}
	in.pending = append(in.pending, b...)
}

// promptBytes is the size from which reading a head again takes time.
const promptBytes = 4 << 10

// heard reads what was fed, as far as that takes no time.
func (in *inline) heard() {
	in.mu.Lock()
	starts := in.startsLocked()
	if starts {
		in.reading.Add(1)
	}
	large := in.taken > promptBytes
	in.mu.Unlock()
	if starts {
		defer in.reading.Done()
		in.work(true)
	}
	if large {
		in.giveBack()
	}
}

// giveBack returns what is not kept any more of what was taken.
func (in *inline) giveBack() {
	in.mu.Lock()
	to, fed := in.to, in.fed
	in.mu.Unlock()
	if to == nil {
		return
	}
	kept := to.Held() // who feeds holds its lock
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.done {
		return
	}
	in.kept = kept + in.fed - fed
	if less := in.taken - min(in.kept, maxHeld); less > 0 {
		in.r.heads.give(in.before.Client, less)
		in.taken -= less
	}
}

// startsLocked reports whether the caller is to read.
func (in *inline) startsLocked() bool {
	starts := in.to != nil && !in.busy && !in.done && (len(in.pending) > 0 || in.isAnswered())
	in.busy = in.busy || starts
	return starts
}

// work reads what is pending until there is nothing. prompt says that the caller has no time: a goroutine goes on with what may take
// some.
func (in *inline) work(prompt bool) {
	defer in.recover()
	for {
		in.mu.Lock()
		b := in.pending
		if prompt && len(b) > 0 && !in.done && !in.reads(b) {
			in.mu.Unlock()
			in.reading.Go(func() { in.work(false) })
			return
		}
		in.pending = nil
		if !in.done && in.isAnswered() {
			in.mu.Unlock()
			in.settle(true, nil)
			continue
		}
		if len(b) == 0 || in.done {
			in.busy = false
			done := in.done
			if done {
				in.letGo()
			}
			in.mu.Unlock()
			if done {
				in.over()
			}
			return
		}
		err := error(nil)
		if in.crowded {
			err = errCrowded
		}
		in.mu.Unlock()
		whole := false
		if err == nil {
			whole, err = in.read(b)
		}
		switch {
		case !whole || err != nil:
			in.settle(in.opened(), err)
		case !prompt:
			in.settle(in.judge(in.ctx))
		case in.takesTime():
			in.reading.Go(func() {
				defer in.recover()
				in.settle(in.judge(in.ctx))
				in.work(false)
			})
			return
		default:
			ctx, over := context.WithCancel(in.ctx)
			over() // should a name have to be looked up by now, it is not
			in.settle(in.judge(ctx))
		}
	}
}

// reads reports whether it takes no time to read b.
func (in *inline) reads(b []byte) bool {
	if in.through == nil {
		return len(in.head.b) <= promptBytes
	}
	later, ok := in.through.(*laterFilter)
	return ok && later.prompt(b)
}

// isAnswered reports whether the server has answered what may be a request to few servers: it takes it for none.
func (in *inline) isAnswered() bool {
	later, ok := in.through.(*laterFilter)
	return ok && later.mayBeOdd() && answered(in.to)
}

// opened reports whether no name can follow what has been read.
func (in *inline) opened() bool {
	later, ok := in.through.(*laterFilter)
	return ok && later.open
}

// settle does what reading has come to: lets everything leave, ends the flow, or nothing yet.
func (in *inline) settle(open bool, err error) {
	if err == nil && !open {
		return
	}
	in.finish()
	if err != nil {
		in.failed(err)
		in.to.Abort()
	} else {
		in.to.Open()
	}
}

// recover ends a flow whose bytes make the reader panic, and not the process. It is deferred.
func (in *inline) recover() {
	if v := recover(); v != nil {
		in.r.Log.Error("what a client sent made the reader panic; its flow is reset", "flow", in.e.id, "err", fmt.Sprint(v), "trace", string(debug.Stack()))
		in.finish()
		in.e.failed("read: internal error")
		in.to.Abort()
	}
}

// failed notes why the flow is ended, unless it was refused: then its verdict says it.
func (in *inline) failed(err error) {
	if errors.Is(err, errCrowded) {
		in.r.Dropped(DropSniff)
	}
	if !errors.Is(err, errNoMore) {
		in.e.fail("read", err)
	}
}

// finish ends reading. busy reports that a judgement is under way.
func (in *inline) finish() (busy bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.done, in.pending = true, nil
	return in.busy
}

// close is called when the flow is over, and calls then: after a judgement that is under way, because the flow ends with its verdict.
func (in *inline) close(then func()) {
	in.cancel()
	if !in.finish() {
		in.letGo()
		then()
		return
	}
	go func() { // whoever brought the last packet has others to carry
		in.reading.Wait()
		in.letGo()
		then()
	}()
}

// letGo returns what reading has taken. It is called when no goroutine reads any more.
func (in *inline) letGo() {
	in.head.release()
	in.r.heads.give(in.before.Client, in.taken)
	in.taken = 0
	if in.late != nil {
		in.late.Stop()
	}
}

// errSlow ends a flow whose client has not finished what it began.
var errSlow = errors.New("a hello or a request was begun and did not go on")

// read reads the next bytes. whole reports that judge can judge the flow.
func (in *inline) read(b []byte) (whole bool, err error) {
	if in.through != nil {
		_, err := in.through.Write(b)
		in.skip()
		return false, err
	}
	hold := in.head.hold
	if in.head.b == nil {
		hold = in.head.own
	}
	if err := hold(b); err != nil {
		return false, err
	}
	switch done := in.head.look(); {
	case done || len(in.head.b) >= in.head.max || in.head.isPreface():
		return true, nil
	case !in.head.looksNamed(): // a conversation of single words is not delayed
		in.to.Permit(len(in.head.b) - in.passed)
		in.passed = len(in.head.b)
	case in.late == nil:
		in.late = time.AfterFunc(startedLimit, func() {
			in.failed(errSlow)
			in.to.Abort()
		})
	}
	return false, nil
}

// What is skipped of a body at once, in bytes. A short one is over before its client learns that it may send more.
const (
	minSkip = 64 << 10
	maxSkip = 256 << 20
)

// skip has a long body cross unread: what is read is kept until the server has it, so only little may be on its way.
func (in *inline) skip() {
	later, ok := in.through.(*laterFilter)
	if !ok || len(in.head.b) > 0 {
		return
	}
	requests, ok := later.names.(*sniff.Requests)
	if !ok {
		return
	}
	if n := min(requests.Ahead(), maxSkip); n >= minSkip && in.to.Skip(int(n)) {
		requests.Skip(n)
	}
}

// Searching is implemented by Clients whose Describe may have to search for the program that sends a flow.
type Searching interface {
	// Searches reports whether it may for a client. It does not block.
	Searches(client uint64) bool
}

// takesTime reports whether judge may wait for somebody.
func (in *inline) takesTime() bool {
	switch in.head.kind() {
	case request, longFirstLine:
		return true // more of them can come
	case noName:
		if !speaksFirst(in.before.Network, in.before.Dst.Port()) {
			return false
		}
	}
	if s, ok := in.r.Clients.(Searching); ok && s.Searches(in.before.Client) {
		return true
	}
	f, _ := withNames(in.before, in.head.result(), in.r.Clock())
	return !in.r.Clients.Describe(&f) || in.r.Policy.Decide(f).Claim != ""
}

// judge judges the flow by head. If ctx has ended, names that only the flow claims are not looked up, and so do not count. open reports
// that everything may leave from now on.
func (in *inline) judge(ctx context.Context) (open bool, err error) {
	if in.late != nil {
		in.late.Stop()
	}
	course := courseOf(&in.before, in.e.verdict())
	// Else the first verdict stands until there is a request.
	if in.head.isNamed() || in.head.kind() == noName && speaksFirst(in.before.Network, in.before.Dst.Port()) {
		named, v := in.r.named(ctx, in.before, in.head.result(), in.e)
		if !course.stays(named, v) {
			return false, errNoMore
		}
		course = courseOf(&named, v)
	}
	later := filter{
		r: in.r, ctx: in.ctx, before: &in.before, course: course, upstream: in, e: in.e, held: in.head, passed: in.passed,
	}.later()
	in.through = later
	err = later.pass()
	in.skip()
	return later.open, err
}

// Write permits the bytes that a filter has judged.
func (in *inline) Write(b []byte) (int, error) {
	in.to.Permit(len(b))
	return len(b), nil
}
