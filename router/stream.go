package router

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

func (r *Router) handleUnnamedTCP(ctx context.Context, client net.Conn, f policy.Flow, e *entry) {
	head := &head{heads: &r.heads, client: f.Client, max: sniff.MaxBytes}
	defer head.release()
	res, err := readName(client, head, r.SniffTimeout)
	if err != nil {
		if errors.Is(err, errCrowded) {
			r.Dropped(DropSniff)
		}
		e.fail("read", err)
		abort(client)
		return
	}
	named, v := r.named(ctx, f, res, e)
	if v.Action != policy.Forward {
		refuseStream(client, head.b, v, res)
		return
	}
	upstream, err := r.dial(ctx, named, v, e)
	if err != nil {
		e.fail("dial", err)
		abort(client)
		return
	}
	defer upstream.Close()
	// The filters start from the facts before this flow was read, because a later request names its own host.
	filter := filter{r: r, ctx: ctx, before: f, flow: named, verdict: v, upstream: unwrapped(upstream), e: e, held: head}
	var through io.Writer
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
		return
	}
	r.carryFrom(ctx, e, client, upstream, through)
}

// startedLimit is how long a client may take to finish a hello or head that it has started. Such a flow is never forwarded
// without its name: a client could stall on purpose to choose its own verdict.
const startedLimit = 10 * time.Second

// readName reads the first bytes of a stream into head until they show a name or can show none. It waits for budget for the
// first byte; if none comes, that is no error. After the first byte it waits for startedLimit; if the client has not finished
// by then, that is an error.
func readName(c net.Conn, head *head, budget time.Duration) (res sniff.Result, err error) {
	if err := c.SetReadDeadline(time.Now().Add(budget)); err != nil {
		return res, err
	}
	defer c.SetReadDeadline(time.Time{})
	for {
		room := head.room()
		if room == nil {
			return res, errCrowded
		}
		if len(room) == 0 {
			return res, nil
		}
		n, err := c.Read(room)
		first := len(head.b) == 0 && n > 0
		head.b = head.b[:len(head.b)+n]
		if n > 0 {
			if res = sniff.TCP(head.b); res.Status != sniff.NeedMore {
				return res, nil
			}
		}
		switch {
		case first && err == nil:
			if err := c.SetReadDeadline(time.Now().Add(startedLimit)); err != nil {
				return res, err
			}
		case err == nil:
		case len(head.b) > 0: // the client started but did not finish
			return res, err
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
			return res, nil
		default:
			return res, err
		}
	}
}

// filter is the common part of the filters of a stream. A filter sees what the client sends before the upstream does.
type filter struct {
	r        *Router
	ctx      context.Context // of the flow; Write cannot take one
	before   policy.Flow     // the facts before it was read
	flow     policy.Flow     // the facts that verdict is based on
	verdict  policy.Verdict
	upstream io.Writer
	e        *entry
	held     *head // bytes not passed on yet
}

// judge judges a later name. It returns errNoMore unless the flow may stay on its connection.
func (w *filter) judge(res sniff.Result) error {
	if now, v := w.r.named(w.ctx, w.before, res, w.e); !stays(w.flow, w.verdict, now, v) {
		return errNoMore
	}
	return nil
}

// requestFilter judges each request of a plain HTTP connection. It ends the connection if a request is refused or must go
// elsewhere. The client then opens a new connection, which is judged on its own.
type requestFilter struct {
	filter
	requests sniff.Requests
}

func (w *requestFilter) Write(b []byte) (int, error) {
	if len(w.held.b) == 0 { // nothing is held, so complete requests pass without a copy
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

// pass feeds the held bytes and keeps those of an incomplete head.
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

// feed judges the requests in b and passes them on. It returns the bytes of an incomplete head.
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

// lateFilter is for a client that sent nothing within Config.SniffTimeout, perhaps so as not to show a name. It holds the
// first bytes until they show a name or can show none, and then judges them.
type lateFilter struct {
	filter
	next io.Writer // for all later bytes; nil until judged
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
