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
	// The filters judge by what was known before this flow was read: a later request names its own host.
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

// startedLimit is how long a client may take over a hello or head that it has begun. What has begun to name a host is
// never let through unnamed: a client that stalls on purpose would choose its own verdict.
const startedLimit = 10 * time.Second

// readName reads the first bytes of a stream into head until they name a host, cannot any more, or time is up: budget
// for the first byte, startedLimit once something has begun that will carry a name. The end of the latter is an error.
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
		case len(head.b) > 0: // what has begun did not go on
			return res, err
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
			return res, nil
		default:
			return res, err
		}
	}
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
