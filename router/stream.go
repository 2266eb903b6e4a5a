package router

import (
	"context"
	"errors"
	"io"
	"net"

	"penstock/policy"
	"penstock/policy/sniff"
)

func (r *Router) handleUnnamedTCP(ctx context.Context, a Answerer, client net.Conn, e *entry) (kept bool) {
	head := r.heads.begin(e.facts.client())
	if err := head.readName(client, r.SniffTimeout); err != nil {
		head.release()
		if errors.Is(err, errCrowded) {
			r.Dropped(DropSniff)
		}
		e.fail("read", err)
		abort(client)
		return false
	}
	return e.carryNamed(ctx, r, a, client, head)
}

// carryNamed judges a stream that starts with head, and carries it. It releases head, unless a filter goes on to hold it. kept is as in
// carryStream.
func (e *entry) carryNamed(ctx context.Context, r *Router, a Answerer, client net.Conn, head *head) (kept bool) {
	filters := false
	defer func() {
		if !filters {
			head.release()
		}
	}()
	upstream, f := r.openNamed(ctx, client, e, head)
	if upstream == nil {
		return false
	}
	filters = f != nil
	return r.carryStream(ctx, a, e, client, upstream, f)
}

// openNamed judges a stream that starts with head and dials its far side. It passes the head on, or leaves it to f, the filter of what
// follows. If the flow cannot go on, openNamed ends the client's side and returns no upstream.
func (r *Router) openNamed(ctx context.Context, client net.Conn, e *entry, head *head) (upstream net.Conn, f *filtered) {
	before, res := e.flow(), head.result()
	r.named(ctx, before, res, e)
	if v := e.verdict(); v.Action != policy.Forward {
		refuseStream(client, head, &v)
		return nil, nil
	}
	upstream, err := r.dial(ctx, e)
	if err != nil {
		e.fail("dial", err)
		abort(client)
		return nil, nil
	}
	// The filters start from the facts before this flow was read, because a later request names its own host.
	var through io.Writer
	filtering, cancel := context.WithCancel(context.WithoutCancel(ctx)) // the flow may outlive its handler
	defer context.AfterFunc(ctx, cancel)()
	filter := filter{r: r, ctx: filtering, before: &before, course: e.course(), upstream: unwrapped(upstream), e: e, held: head}
	switch {
	case head.said == nil && !head.isPreface():
		late := &lateFilter{filter: filter}
		err = late.passOn()
		through = late
	default:
		later := filter.later()
		err = later.pass()
		through = later
	}
	if err != nil {
		if !errors.Is(err, errNoMore) {
			e.fail("relay", err)
		}
		abort(client)
		abort(upstream)
		upstream.Close()
		cancel()
		return nil, nil
	}
	if through == nil {
		cancel()
		return upstream, nil
	}
	return upstream, &filtered{through, head, cancel}
}

// filter is the common part of the filters of a stream. A filter sees what the client sends before the upstream does.
type filter struct {
	r        *Router
	ctx      context.Context // of the flow; Write cannot take one
	before   *policy.Flow    // the facts before it was read
	course   course          // of upstream
	upstream io.Writer
	e        *entry
	held     *head // bytes not passed on yet
	passed   int   // of which these have been, for all that
}

// judge judges a later name. It returns errNoMore unless the flow may stay on its connection.
func (w *filter) judge(res sniff.Result) error {
	if now, v := w.r.named(w.ctx, *w.before, res, w.e); !w.course.stays(now, v) {
		return errNoMore
	}
	return nil
}

// laterNames reads the names that a stream shows behind its first: see sniff.Requests and sniff.Hellos.
type laterNames interface {
	Feed(b []byte) (n int, res sniff.Result)
}

// laterFilter judges each request of a plain HTTP connection, or each hello of a TLS connection whose server asks for another one. It
// ends the connection if one is refused or must go elsewhere. The client then opens a new connection, which is judged on its own.
type laterFilter struct {
	filter
	names  laterNames
	hellos sniff.Hellos // names, if they are those of TLS
	first  bool         // the flow has not been judged by a name yet
	open   bool         // no name can follow
}

// later returns the filter for a stream that starts with the held bytes, a request or a hello.
func (w filter) later() *laterFilter {
	l := &laterFilter{filter: w, first: !w.held.isNamed()}
	if w.held.kind() == hello {
		l.hellos = sniff.BehindHello(w.held.b, w.held.result())
		l.names = &l.hellos
	} else {
		l.names = new(sniff.Requests)
	}
	return l
}

func (w *laterFilter) Write(b []byte) (int, error) {
	if len(w.held.b) == 0 { // nothing is held, so what is complete passes without a copy
		rest, err := w.feed(b)
		if err != nil {
			return 0, err
		}
		return len(b), w.held.hold(rest)
	}
	if err := w.held.hold(b); err != nil {
		return 0, err
	}
	return len(b), w.pass()
}

// opened returns where the rest of the stream goes without the filter, once no name can follow.
func (w *laterFilter) opened() (to io.Writer, ok bool) {
	return w.upstream, w.open || w.mayBeOdd() && w.e.answered()
}

// mayBeOdd reports whether the flow has shown no name, and nothing that could become one but for servers that take any line for a request.
// They answer nothing before its head has ended.
func (w *laterFilter) mayBeOdd() bool {
	r, ok := w.names.(*sniff.Requests)
	return ok && w.first && len(w.held.b) == 0 && r.MayBeOdd()
}

// prompt reports whether it takes no time to read b, which follows what was read: no name has to be judged.
func (w *laterFilter) prompt(b []byte) bool {
	if len(w.held.b) > 0 {
		return false
	}
	if r, ok := w.names.(*sniff.Requests); ok {
		return r.Prompt(b)
	}
	next := w.hellos
	for {
		n, res := next.Feed(b)
		switch {
		case res.Status == sniff.NotThis:
			return true
		case res.Status != sniff.NeedMore:
			return false
		case n == 0 || n == len(b):
			return true
		}
		b = b[n:]
	}
}

// pass feeds the held bytes and keeps those of an incomplete head.
func (w *laterFilter) pass() error {
	rest, err := w.feed(w.held.b)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		w.held.release()
		return nil
	}
	w.held.b = w.held.b[:copy(w.held.b, rest)]
	return nil
}

// feed judges the names in b and passes b on. It returns the bytes of one that is incomplete.
func (w *laterFilter) feed(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		n, res := w.names.Feed(b)
		if res.Status == sniff.NoName && res.Ambiguous {
			if w.first {
				w.judge(res) // so that the record has the verdict
			}
			w.e.failed(ambiguousName)
			return nil, errNoMore
		}
		if res.Status == sniff.Found || res.Status == sniff.NoName {
			if err := w.judge(res); err != nil {
				return nil, err
			}
			w.first = false
		}
		w.open = res.Status == sniff.NotThis
		if n == 0 {
			break
		}
		if err := w.write(b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	if len(b) > sniff.MaxHead {
		return nil, errNoMore
	}
	return b, nil
}

// write passes b on, but for what has been passed on before.
func (w *laterFilter) write(b []byte) error {
	passed := min(w.passed, len(b))
	w.passed -= passed
	if b = b[passed:]; len(b) == 0 {
		return nil
	}
	_, err := w.upstream.Write(b)
	return err
}

// lateFilter is for a client that sent nothing within Config.SniffTimeout, or nothing that looks like a hello or a request, perhaps so as
// not to show a name. It passes that on, as late does, and holds a hello or a request until it shows a name, and then judges it.
type lateFilter struct {
	filter
	next *laterFilter // for all later bytes; nil until judged
}

func (w *lateFilter) Write(b []byte) (int, error) {
	if w.next != nil {
		return w.next.Write(b)
	}
	done, err := w.held.add(b)
	if err == nil {
		err = w.look(done)
	}
	return len(b), err
}

// look decides about what is held. done reports that more would change nothing.
func (w *lateFilter) look(done bool) error {
	switch {
	case !done && !w.held.isPreface():
		return w.passOn()
	case w.held.kind() == hello:
		if err := w.judge(w.held.result()); err != nil {
			return err
		}
	}
	w.next = w.later()
	return w.next.pass()
}

// passOn passes on what does not look like a hello or a request yet.
func (w *lateFilter) passOn() error {
	if w.held.looksNamed() || len(w.held.b) == w.passed {
		return nil
	}
	_, err := w.upstream.Write(w.held.b[w.passed:])
	w.passed = len(w.held.b)
	return err
}

func (w *lateFilter) opened() (to io.Writer, ok bool) {
	if w.next == nil {
		return w.upstream, false
	}
	return w.next.opened()
}
