package router

import (
	"context"
	"errors"
	"io"
	"net"

	"penstock/policy"
	"penstock/policy/sniff"
)

func (r *Router) handleUnnamedTCP(ctx context.Context, client net.Conn, e *entry) {
	head := r.heads.begin(e.flow.Client)
	defer head.release()
	if err := head.readName(client, r.SniffTimeout); err != nil {
		if errors.Is(err, errCrowded) {
			r.Dropped(DropSniff)
		}
		e.fail("read", err)
		abort(client)
		return
	}
	upstream, through := r.openNamed(ctx, client, e, head)
	if upstream == nil {
		return
	}
	defer upstream.Close()
	r.carryFrom(ctx, e, client, upstream, through)
}

// openNamed judges a stream of which head was read and dials its far side. What was read is passed on, or waits in
// through, the filter of what follows. Without a way on it ends the client's side and returns no upstream.
func (r *Router) openNamed(ctx context.Context, client net.Conn, e *entry, head *head) (upstream net.Conn, through io.Writer) {
	before, res := e.flow, head.result()
	r.named(ctx, before, res, e)
	if e.verdict.Action != policy.Forward {
		refuseStream(client, head, &e.verdict)
		return nil, nil
	}
	upstream, err := r.dial(ctx, e)
	if err != nil {
		e.fail("dial", err)
		abort(client)
		return nil, nil
	}
	// The filters judge by what was known before this flow was read: a later request names its own host.
	filter := filter{r: r, ctx: ctx, before: before, flow: e.flow, verdict: e.verdict, upstream: unwrapped(upstream), e: e, held: head}
	switch {
	case len(head.b) == 0:
		through = &lateFilter{filter: filter}
	case res.Protocol == sniff.HTTP || res.Protocol == sniff.HTTP2:
		requests := &requestFilter{filter: filter}
		err = requests.pass()
		through = requests
	default:
		_, err = unwrapped(upstream).Write(head.b)
		head.release()
	}
	if err != nil {
		e.fail("relay", err)
		abort(client)
		abort(upstream)
		upstream.Close()
		return nil, nil
	}
	return upstream, through
}

// filter is what the filters of a stream have in common. They stand before its upstream and see what the client sends.
type filter struct {
	r        *Router
	ctx      context.Context // of the flow; Write has no other way to get it
	before   policy.Flow     // as it was known before it was read
	flow     policy.Flow     // as it was judged
	verdict  policy.Verdict
	upstream io.Writer
	e        *entry
	held     *head // not passed on yet
}

// judge judges what was read later, and returns errNoMore unless the flow may stay where it is.
func (w *filter) judge(res sniff.Result) error {
	if now, v := w.r.named(w.ctx, w.before, res, w.e); !stays(w.flow, w.verdict, now, v) {
		return errNoMore
	}
	return nil
}

// requestFilter judges each request of a plain HTTP connection. A request that is refused or belongs elsewhere ends the
// connection: its client comes back with a new one, which is judged from scratch.
type requestFilter struct {
	filter
	requests sniff.Requests
}

func (w *requestFilter) Write(b []byte) (int, error) {
	if len(w.held.b) == 0 { // nothing waits: what is whole passes without a copy
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

// pass feeds what is held, and keeps what does not end a head yet.
func (w *requestFilter) pass() error {
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

// feed judges the requests in b, passes them on, and returns what is left.
func (w *requestFilter) feed(b []byte) (rest []byte, err error) {
	for len(b) > 0 {
		n, res := w.requests.Feed(b)
		if res.Status == sniff.NoName && res.Ambiguous {
			return nil, errNoMore
		}
		if res.Status == sniff.Found || res.Status == sniff.NoName {
			if err := w.judge(res); err != nil {
				return nil, err
			}
		}
		if n == 0 {
			break
		}
		if _, err := w.upstream.Write(b[:n]); err != nil {
			return nil, err
		}
		b = b[n:]
	}
	if len(b) > sniff.MaxBytes {
		return nil, errNoMore
	}
	return b, nil
}

// lateFilter judges a client that had said nothing when the budget was over, perhaps to be let through unnamed. What it
// says first is held until it names a host or cannot any more.
type lateFilter struct {
	filter
	next io.Writer // takes what follows; nil until judged
}

func (w *lateFilter) Write(b []byte) (int, error) {
	if w.next != nil {
		return w.next.Write(b)
	}
	if err := w.held.hold(b); err != nil {
		return 0, err
	}
	res := sniff.TCP(w.held.b)
	if res.Status == sniff.NeedMore {
		return len(b), nil
	}
	if res.Protocol == sniff.HTTP || res.Protocol == sniff.HTTP2 {
		requests := &requestFilter{filter: w.filter}
		w.next = requests
		return len(b), requests.pass()
	}
	if res.Status != sniff.NotThis {
		if err := w.judge(res); err != nil {
			return 0, err
		}
	}
	w.next = w.upstream
	if _, err := w.next.Write(w.held.b); err != nil {
		return 0, err
	}
	w.held.release()
	return len(b), nil
}
