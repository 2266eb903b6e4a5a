package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"penstock/policy"
)

// late carries a TCP flow to a port where the server may be the first to speak, while a name could still change its verdict. It
// is dialled and answered first, so a server's greeting is not delayed. What the client sends first is held until it shows a
// name or can show none, and is judged before it leaves.
type late struct {
	r      *Router
	ctx    context.Context // of the flow
	e      *entry
	client net.Conn
	before policy.Flow // the facts before it was read

	mu       sync.Mutex // guards below
	upstream net.Conn   // of the first verdict, and then of the one on the name
	over     bool       // the upstream has ended, or the flow was refused: no other may take its place
	refused  bool

	left chan bool // gets one value once down has left the first upstream for another: whether the client has heard from it
}

// handleLate dials, answers, and carries what the policy allows.
func (r *Router) handleLate(ctx context.Context, a Answerer, e *entry) {
	upstream, err := r.dial(ctx, e)
	if err != nil {
		r.answerFailed(a, e, err)
		return
	}
	client, err := a.Accept()
	if err != nil {
		abort(upstream)
		upstream.Close()
		e.fail("accept", err)
		return
	}
	defer client.Close()
	e.carriedBy(client)
	l := &late{r: r, ctx: ctx, e: e, client: client, before: e.flow, upstream: upstream, left: make(chan bool, 1)}
	defer func() { l.current().Close() }()
	stop := context.AfterFunc(ctx, l.abort)
	defer stop()
	if err := l.relay(); err != nil && ctx.Err() == nil {
		e.fail("relay", err)
	}
}

// relay copies both ways, as relayStream does.
func (l *late) relay() error {
	var wg sync.WaitGroup
	var upErr error
	first := l.current() // before up can replace it
	wg.Go(func() {
		if upErr = l.up(); upErr != nil {
			l.abort()
		}
	})
	downErr := l.down(first)
	if downErr != nil {
		l.abort()
	}
	wg.Wait()
	return ordinary(errors.Join(upErr, downErr))
}

func (l *late) current() net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.upstream
}

// abort resets both sides, unless the client is being told why it was refused.
func (l *late) abort() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	abort(l.upstream)
	if !l.refused {
		abort(l.client)
	}
}

// down copies from the upstream u. If another one takes its place, it tells redial, and goes on with that.
func (l *late) down(u net.Conn) error {
	for ; ; u = l.current() {
		err := copyStream(l.client, unwrapped(u))
		l.mu.Lock()
		replaced, refused := l.upstream != u, l.refused
		l.over = l.over || !replaced
		l.mu.Unlock()
		switch {
		case replaced:
			heard := l.answered()
			l.left <- heard
			if heard {
				return errNoMore
			}
		case refused:
			return nil
		case err != nil:
			return err
		default:
			return closeWrite(l.client)
		}
	}
}

// up judges what the client sends first, and copies it and the rest.
func (l *late) up() error {
	head := l.r.heads.begin(l.before.Client)
	defer head.release()
	passed, err := l.read(head)
	if errors.Is(err, errCrowded) {
		l.r.Dropped(DropSniff)
	}
	if err != nil {
		return err
	}
	through, err := l.judge(head, passed)
	if err != nil {
		return err
	}
	upstream := l.current()
	if through == nil {
		through = unwrapped(upstream)
		if _, err := through.Write(head.b[passed:]); err != nil {
			return err
		}
		head.release()
	}
	if err := copyStream(through, l.client); err != nil {
		return err
	}
	return closeWrite(upstream)
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
		case done:
			return passed, nil
		case errors.Is(err, io.EOF) && !named:
			return passed, nil // what there is can show no name
		case err != nil:
			return passed, err
		case named && deadline.IsZero():
			deadline = time.Now().Add(startedLimit)
		case !named:
			if _, err := unwrapped(l.current()).Write(head.b[passed:]); err != nil {
				return passed, err
			}
			passed = len(head.b)
		}
	}
	return passed, nil
}

// judge judges the flow by head. passed bytes of it have left. It returns the filter for the rest, or nil if all may pass, and
// makes sure that the upstream is the verdict's.
func (l *late) judge(head *head, passed int) (through io.Writer, err error) {
	kind := head.kind()
	switch kind {
	case longFirstLine:
		line := &longLine{w: unwrapped(l.current()), last: head.b[:passed]}
		_, err := line.Write(head.b[passed:])
		head.release()
		return line, err
	case noName:
		return nil, nil // the first verdict stands
	}
	first := l.e.verdict
	named, v := l.r.named(l.ctx, l.before, head.result(), l.e)
	if v.Action != policy.Forward {
		l.refuse(head, passed, &v)
		return nil, errNoMore
	}
	if !stays(l.before, first, named, v) {
		if err := l.redial(passed); err != nil {
			return nil, err
		}
	}
	if kind != request {
		return nil, nil
	}
	requests := &requestFilter{filter: filter{
		r: l.r, ctx: l.ctx, before: l.before, flow: named, verdict: v, upstream: &skip{unwrapped(l.current()), passed}, e: l.e, held: head,
	}}
	return requests, requests.pass()
}

// refuse ends the flow: with the page if nothing but a request has passed, else with RST.
func (l *late) refuse(head *head, passed int, v *policy.Verdict) {
	l.mu.Lock()
	l.over, l.refused = true, true
	abort(l.upstream)
	l.mu.Unlock()
	if passed > 0 || l.answered() {
		abort(l.client)
		return
	}
	refuseStream(l.client, head, v)
}

// answered reports whether the client has received anything.
func (l *late) answered() bool {
	c, ok := l.client.(counted)
	if !ok {
		return false
	}
	_, out := c.Bytes()
	return out > 0
}

// redial replaces the upstream by that of the verdict on the name. That is possible only while neither side has heard the other.
func (l *late) redial(passed int) error {
	if passed > 0 || l.answered() {
		return errNoMore
	}
	fresh, err := l.r.dial(l.ctx, l.e)
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
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

// replace puts another upstream in the place of the first, which it ends, unless the flow is over.
func (l *late) replace(fresh net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return false
	}
	abort(l.upstream)
	l.upstream.Close()
	l.upstream = fresh
	return true
}

// longLine passes a stream that begins with a line longer than a head may be. When the line ends, and turns out to have been that
// of a request, nothing more passes: the names of its head were not read.
type longLine struct {
	w    io.Writer
	last []byte // the end of what has passed of the line; nil once it has ended
}

// requestEnd is the end of the first line of every request of HTTP/1, without the minor version and the line's own end.
var requestEnd = []byte(" HTTP/1.")

func (l *longLine) Write(b []byte) (int, error) {
	if l.last == nil {
		return l.w.Write(b)
	}
	line, _, ended := bytes.Cut(b, []byte("\n"))
	const enough = 16 // for requestEnd and what follows it
	tail := append(bytes.Clone(l.last[max(0, len(l.last)-enough):]), line[max(0, len(line)-enough):]...)
	if ended && bytes.Contains(tail, requestEnd) {
		return 0, errNoMore
	}
	l.last = tail
	if ended {
		l.last = nil
	}
	return l.w.Write(b)
}

// skip drops the first n bytes, which have been written already.
type skip struct {
	w io.Writer
	n int
}

func (s *skip) Write(b []byte) (int, error) {
	k := min(s.n, len(b))
	s.n -= k
	if k == len(b) {
		return k, nil
	}
	n, err := s.w.Write(b[k:])
	return k + n, err
}
