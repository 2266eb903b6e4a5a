package router

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"penstock/policy"
)

// late carries a TCP flow to a port where the server may be the first to speak, while a name could still change its verdict. It
// is dialled and answered first, so a server's greeting is not delayed. What the client sends first is held until it shows a
// name or can show none, and is judged before it leaves.
type late struct {
	relay
	left chan bool // gets one value once down has left the first upstream for another: whether the client has heard from it
}

// handleLate dials, answers, and carries what the policy allows. kept is as in carryStream.
func (r *Router) handleLate(handler context.Context, a Answerer, e *entry) (kept bool) {
	upstream, err := r.dial(handler, e)
	if err != nil {
		r.answerFailed(a, e, err)
		return false
	}
	client, err := a.Accept()
	if err != nil {
		abort(upstream)
		upstream.Close()
		e.fail("accept", err)
		return false
	}
	e.carriedBy(client)
	l := &late{relay: relay{r: r, e: e, client: client, upstream: upstream, running: 2}, left: make(chan bool, 1)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(handler)) // the flow may outlive its handler
	l.cancel = cancel
	stop := l.begin(handler, a)
	if down := l.down(upstream); !down.waits() {
		go down.run()
	}
	up := func() { l.up(ctx) }
	if w := l.waiter(client); w == nil || !w.WhenReadable(up) {
		up()
	}
	if kept = l.wait(stop); !kept {
		client.Close()
	}
	return kept
}

func (l *late) current() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.upstream
}

// down copies from the upstream u. If another one takes its place, it tells redial, and goes on with that.
func (l *late) down(u net.Conn) *pump {
	return l.pump(l.client, u, func(err error) {
		l.mu.Lock()
		replaced, refused := l.upstream != u, l.refused
		l.ending = l.ending || !replaced
		l.mu.Unlock()
		switch {
		case replaced:
			heard := l.answered()
			l.left <- heard
			if heard {
				l.ended(errNoMore, l.client)
			} else {
				l.down(l.current()).run()
			}
		case refused:
			l.leave(nil)
		default:
			l.ended(err, l.client)
		}
	})
}

// up judges what the client sends first, and copies it and the rest.
func (l *late) up(ctx context.Context) {
	var through io.Writer
	err := guard(l.r.Log, func() (err error) {
		through, err = l.lead(first{ctx, l.e.flow()})
		return err
	})
	if err != nil {
		l.ended(err, nil)
		return
	}
	to := l.current()
	l.pump(through, l.client, func(err error) { l.ended(err, to) }).run()
}

// first is what the judgement of a flow by its first bytes needs, and nobody afterwards.
type first struct {
	ctx    context.Context // ends with the flow
	before policy.Flow     // the facts before it was read
}

// lead judges what the client sends first, and passes it on. It returns the filter for the rest.
func (l *late) lead(f first) (through io.Writer, err error) {
	head := l.r.heads.begin(f.before.Client)
	filtered := false
	defer func() {
		if !filtered {
			head.release()
		}
	}()
	passed, err := l.read(head)
	if errors.Is(err, errCrowded) {
		l.r.Dropped(DropSniff)
	}
	if err != nil {
		return nil, err
	}
	if through, err = l.judge(f, head, passed); err != nil {
		return nil, err
	}
	l.head, filtered = head, true
	return through, nil
}

// read reads until the client's first bytes show a name or can show none. It waits for the first byte as long as it takes. Bytes
// that may become a hello or a head, but do not yet look like one, are passed on at once, so that a conversation of single words
// is not delayed; they are still read together with what follows. Once they look like one, nothing more is passed on without the
// name.
func (l *late) read(head *head) (passed int, err error) {
	defer l.client.SetReadDeadline(time.Time{})
	var deadline time.Time // none until a hello or a head has begun
	for len(head.b) < head.max {
		if err := l.client.SetReadDeadline(deadline); err != nil {
			return passed, err
		}
		done, err := head.readSome(l.client)
		named := head.looksNamed()
		switch {
		case done, head.isPreface() && errors.Is(err, os.ErrDeadlineExceeded):
			return passed, nil
		case errors.Is(err, io.EOF) && !named:
			return passed, nil // what there is can show no name
		case err != nil:
			return passed, err
		case named && deadline.IsZero():
			deadline = time.Now().Add(startedLimit)
			if head.isPreface() {
				deadline = time.Now().Add(l.r.SniffTimeout)
			}
		case !named:
			if _, err := unwrapped(l.current()).Write(head.b[passed:]); err != nil {
				return passed, err
			}
			passed = len(head.b)
		}
	}
	return passed, nil
}

// judge judges the flow by head. passed bytes of it have left. It returns the filter for the rest, and makes sure that the upstream is the
// verdict's.
func (l *late) judge(f first, head *head, passed int) (through io.Writer, err error) {
	course := courseOf(&f.before, l.e.verdict())
	if head.isNamed() { // else the first verdict stands until there is a request
		named, v := l.r.named(f.ctx, f.before, head.result(), l.e)
		if v.Action != policy.Forward {
			l.refuse(head, passed, &v)
			return nil, errNoMore
		}
		if !course.stays(named, v) {
			if err := l.redial(f.ctx, passed); err != nil {
				return nil, err
			}
		}
		course = courseOf(&named, v)
	}
	later := filter{
		r: l.r, ctx: f.ctx, before: &f.before, course: course, upstream: unwrapped(l.current()), e: l.e, held: head, passed: passed,
	}.later()
	return later, later.pass()
}

// refuse ends the flow: with the page if nothing but a request has passed, else with RST.
func (l *late) refuse(head *head, passed int, v *policy.Verdict) {
	l.mu.Lock()
	l.ending, l.refused = true, true
	upstream := l.upstream
	l.mu.Unlock()
	abort(upstream)
	l.wake()
	if passed > 0 || l.answered() {
		abort(l.client)
		return
	}
	refuseStream(l.client, head, v)
}

// answered reports whether the client has received anything.
func (l *late) answered() bool { return answered(l.client) }

// redial replaces the upstream by that of the verdict on the name. That is possible only while neither side has heard the other.
func (l *late) redial(ctx context.Context, passed int) error {
	if passed > 0 || l.answered() {
		return errNoMore
	}
	fresh, err := l.r.dial(ctx, l.e)
	if err != nil {
		l.e.fail("dial", err)
		return err
	}
	if !l.replace(fresh) {
		abort(fresh)
		fresh.Close()
		return errNoMore
	}
	// What down has read of the old upstream may still reach the client. A client must not hear two servers.
	select {
	case heard := <-l.left:
		if heard {
			return errNoMore
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// replace puts another upstream in the place of the first, which it ends, unless the flow is over.
func (l *late) replace(fresh net.Conn) bool {
	l.mu.Lock()
	old, ok := l.upstream, !l.ending
	if ok {
		l.upstream = fresh
	}
	l.mu.Unlock()
	if ok {
		abort(old)
		old.Close()
		l.wake()
	}
	return ok
}
