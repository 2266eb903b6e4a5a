package router

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

// handleUnnamed reads a flow until it names a host or the budget is spent, and judges it again on what is known then.
func (r *Router) handleUnnamed(ctx context.Context, req Request, f policy.Flow, e *entry) {
	client, err := req.Answer.Accept()
	if err != nil {
		e.fail("accept", err)
		return
	}
	defer client.Close()
	e.carriedBy(client)
	stop := context.AfterFunc(ctx, func() { abort(client) })
	defer stop()
	if f.Network == policy.UDP {
		r.handleUnnamedUDP(ctx, client, f, e)
		return
	}
	r.handleUnnamedTCP(ctx, client, f, e)
}

// named adds what was read to the facts and judges the flow.
func (r *Router) named(f policy.Flow, res sniff.Result, e *entry) (policy.Flow, policy.Verdict) {
	names, known := append([]policy.Name(nil), f.Names...), len(f.Names)
	if res.Status == sniff.Found {
		for _, h := range []sniff.Host{res.Host, res.Other} {
			if h.IsZero() {
				continue
			}
			host, err := policy.CanonicalName(h.String())
			if err != nil { // a name that cannot be judged must not pass for no name
				res.Ambiguous = true
				continue
			}
			names = append(names, policy.Name{Host: host, From: sourceOf(res.Protocol)})
			r.Metrics.nameFrom(sourceOf(res.Protocol))
		}
	}
	f.Names, f.Sniffed, f.Time = names, true, r.now()
	generation := r.generation()
	v := r.Decide(f)
	if res.ECH && v.Action == policy.Forward && !resolved(names[:known], names[known:]) {
		v = r.withoutName(f, known)
	}
	if res.Ambiguous {
		v = policy.Verdict{Action: policy.Refuse, Rule: v.Rule}
	}
	e.judged(f, v, generation)
	return f, v
}

// withoutName judges a flow whose hello offers ECH and shows a name that DNS did not give: that is the provider's outer
// name, or nothing but a guess. It may have blocked the flow; it does not let it through.
func (r *Router) withoutName(f policy.Flow, known int) policy.Verdict {
	f.Names = f.Names[:known]
	return r.Decide(f)
}

// resolved says that each name read in a flow was given by DNS for its destination.
func resolved(given, read []policy.Name) bool {
	for _, n := range read {
		if !slices.ContainsFunc(given, func(g policy.Name) bool { return g.Host == n.Host }) {
			return false
		}
	}
	return true
}

func (r *Router) handleUnnamedTCP(ctx context.Context, client net.Conn, f policy.Flow, e *entry) {
	head := bufferPool.Get().(*[]byte)
	release := func() {
		if head != nil {
			bufferPool.Put(head)
			head = nil
		}
	}
	defer release()
	n, res, err := readName(client, (*head)[:sniff.MaxBytes], r.SniffTimeout)
	if err != nil {
		e.fail("read", err)
		abort(client)
		return
	}
	named, v := r.named(f, res, e)
	if v.Action != policy.Forward {
		refuseStream(client, (*head)[:n], v, res)
		return
	}
	upstream, err := r.dial(ctx, named, v, e)
	if err != nil {
		e.fail("dial", err)
		abort(client)
		return
	}
	defer upstream.Close()
	var filter io.Writer
	switch {
	case n == 0:
		filter = &lateFilter{r: r, f: f, verdict: v, upstream: unwrapped(upstream), e: e}
	case res.Protocol == sniff.HTTP || res.Protocol == sniff.HTTP2:
		filter = &requestFilter{r: r, f: f, verdict: v, upstream: unwrapped(upstream), e: e}
		_, err = filter.Write((*head)[:n])
	default:
		_, err = unwrapped(upstream).Write((*head)[:n])
	}
	if err != nil {
		e.fail("relay", err)
		abort(client)
		abort(upstream)
		return
	}
	release()
	r.carryFrom(ctx, e, client, upstream, filter)
}

// startedLimit is how long a client may take over a hello or head that it has begun. What has begun to name a host is
// never let through unnamed: a client that stalls on purpose would choose its own verdict.
const startedLimit = 10 * time.Second

// readName reads the first bytes of a stream until they name a host, cannot any more, or time is up: budget for the
// first byte, startedLimit once something has begun that will carry a name. The latter's end is an error.
func readName(c net.Conn, buf []byte, budget time.Duration) (n int, res sniff.Result, err error) {
	if err := c.SetReadDeadline(time.Now().Add(budget)); err != nil {
		return 0, res, err
	}
	defer c.SetReadDeadline(time.Time{})
	for n < len(buf) {
		m, err := c.Read(buf[n:])
		n += m
		if m > 0 {
			if res = sniff.TCP(buf[:n]); res.Status != sniff.NeedMore {
				return n, res, nil
			}
		}
		switch {
		case err == nil:
			if m > 0 && n == m {
				if err := c.SetReadDeadline(time.Now().Add(startedLimit)); err != nil {
					return n, res, err
				}
			}
		case n > 0: // what has begun did not go on
			return n, res, err
		case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, io.EOF):
			return n, res, nil
		default:
			return n, res, err
		}
	}
	return n, res, nil
}

// requestFilter stands before the upstream of a plain HTTP connection and judges each request on it. A request that is
// refused or belongs elsewhere ends the connection: its client comes back with a new one, which is judged from scratch.
type requestFilter struct {
	r        *Router
	f        policy.Flow
	verdict  policy.Verdict
	upstream io.Writer
	e        *entry
	requests sniff.Requests
	held     []byte
}

func (w *requestFilter) Write(b []byte) (int, error) {
	size := len(b)
	if len(w.held) > 0 {
		w.held = append(w.held, b...)
		b = w.held
	}
	for len(b) > 0 {
		n, res := w.requests.Feed(b)
		if res.Status == sniff.NoName && res.Ambiguous {
			return 0, errNoMore
		}
		if res.Status == sniff.Found || res.Status == sniff.NoName {
			if _, v := w.r.named(w.f, res, w.e); v.Action != policy.Forward || v.Egress != w.verdict.Egress {
				return 0, errNoMore
			}
		}
		if n == 0 {
			break
		}
		if _, err := w.upstream.Write(b[:n]); err != nil {
			return 0, err
		}
		b = b[n:]
	}
	if len(b) > sniff.MaxBytes {
		return 0, errNoMore
	}
	w.held = append(w.held[:0], b...)
	if len(w.held) == 0 {
		w.held = nil
	}
	return size, nil
}

// lateFilter stands before the upstream of a connection whose client had said nothing when the budget was over, perhaps
// to be let through unnamed. What it says first is held until it names a host or cannot any more, and judged.
type lateFilter struct {
	r        *Router
	f        policy.Flow
	verdict  policy.Verdict
	upstream io.Writer
	e        *entry
	held     []byte
	next     io.Writer // takes what follows; nil until judged
}

func (w *lateFilter) Write(b []byte) (int, error) {
	if w.next != nil {
		return w.next.Write(b)
	}
	w.held = append(w.held, b...)
	res := sniff.TCP(w.held)
	if res.Status == sniff.NeedMore {
		return len(b), nil
	}
	w.next = w.upstream
	switch {
	case res.Protocol == sniff.HTTP || res.Protocol == sniff.HTTP2:
		w.next = &requestFilter{r: w.r, f: w.f, verdict: w.verdict, upstream: w.upstream, e: w.e}
	case res.Status != sniff.NotThis:
		if _, v := w.r.named(w.f, res, w.e); v.Action != policy.Forward || v.Egress != w.verdict.Egress {
			return 0, errNoMore
		}
	}
	held := w.held
	w.held = nil
	if _, err := w.next.Write(held); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (r *Router) handleUnnamedUDP(ctx context.Context, client net.Conn, f policy.Flow, e *entry) {
	w := &helloFilter{r: r, f: f, e: e, ctx: ctx, client: client}
	defer w.close()
	if err := client.SetReadDeadline(time.Now().Add(r.SniffTimeout)); err != nil {
		e.fail("read", err)
		return
	}
	buf := bufferPool.Get().(*[]byte)
	for w.upstream == nil {
		n, err := client.Read(*buf)
		if err == nil {
			_, err = w.Write((*buf)[:n])
		} else if errors.Is(err, os.ErrDeadlineExceeded) {
			err = w.judge(sniff.Result{})
		}
		if err != nil {
			bufferPool.Put(buf)
			if !errors.Is(err, errNoMore) {
				e.fail("read", err)
			}
			return
		}
	}
	bufferPool.Put(buf)
	client.SetReadDeadline(time.Time{})
	r.carryFrom(ctx, e, client, w.upstream, w)
}

// helloFilter reads what a QUIC client sends. Datagrams are held while a hello is incomplete; each complete hello is
// judged, the first before anything is dialled.
type helloFilter struct {
	r        *Router
	f        policy.Flow
	e        *entry
	ctx      context.Context // of the flow; Write has no other way to get it
	client   net.Conn
	upstream net.Conn
	verdict  policy.Verdict
	initials sniff.Initials
	last     sniff.Result // judged last
	held     [][]byte
	bytes    int
}

func (w *helloFilter) Write(b []byte) (int, error) {
	res := w.initials.Datagram(b)
	if res.Status == sniff.NeedMore {
		if w.bytes+len(b) > 2*sniff.MaxBytes {
			return 0, errNoMore // a hello that never ends
		}
		w.held = append(w.held, bytes.Clone(b))
		w.bytes += len(b)
		return len(b), nil
	}
	if w.upstream == nil || res != w.last {
		if err := w.judge(res); err != nil {
			return 0, err
		}
	}
	return w.upstream.Write(b)
}

// judge decides on what has been read, dials the first time, and lets go what was held.
func (w *helloFilter) judge(res sniff.Result) error {
	named, v := w.r.named(w.f, res, w.e)
	if v.Action != policy.Forward || w.upstream != nil && v.Egress != w.verdict.Egress {
		if c, ok := w.client.(interface{ Unreachable() }); ok && v.Action == policy.Refuse {
			c.Unreachable()
		}
		return errNoMore
	}
	w.verdict, w.last = v, res
	if w.upstream == nil {
		up, err := w.r.dial(w.ctx, named, v, w.e)
		if err != nil {
			if c, ok := w.client.(interface{ Unreachable() }); ok && !silent(err) {
				c.Unreachable()
			}
			return err
		}
		w.upstream = up
	}
	for _, b := range w.held {
		w.upstream.Write(b) // a lost datagram is the client's to send again
	}
	w.held, w.bytes = nil, 0
	return nil
}

func (w *helloFilter) close() {
	if w.upstream != nil {
		w.upstream.Close()
	}
}
