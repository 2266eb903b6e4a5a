package router

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"penstock/policy"
	"penstock/policy/sniff"
)

func (r *Router) handleUnnamedUDP(ctx context.Context, client net.Conn, e *entry) {
	w := &helloFilter{r: r, f: e.flow, e: e, ctx: ctx, client: client}
	defer w.close()
	if err := client.SetReadDeadline(time.Now().Add(r.SniffTimeout)); err != nil {
		e.fail("read", err)
		return
	}
	if err := w.readFirst(); err != nil {
		if !errors.Is(err, errNoMore) {
			e.fail("read", err)
		}
		return
	}
	client.SetReadDeadline(time.Time{})
	r.carryFrom(ctx, e, client, w.upstream, w)
}

// helloFilter reads what a QUIC client sends. Datagrams are held while a hello is incomplete; each complete hello is
// judged, the first before anything is dialled.
type helloFilter struct {
	r        *Router
	f        policy.Flow // as it was known before it was read
	e        *entry
	ctx      context.Context // of the flow; Write has no other way to get it
	client   net.Conn
	upstream net.Conn
	flow     policy.Flow // as it was judged
	verdict  policy.Verdict
	initials sniff.Initials
	last     sniff.Result // judged last
	held     [][]byte
	bytes    int
}

// readFirst reads the client until the flow was judged and dialled.
func (w *helloFilter) readFirst() error {
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	for w.upstream == nil {
		n, err := w.client.Read(*buf)
		switch {
		case err == nil:
			_, err = w.Write((*buf)[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = w.judge(sniff.Result{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *helloFilter) Write(b []byte) (int, error) {
	res := w.initials.Datagram(b)
	if res.Status == sniff.NeedMore {
		if w.bytes+len(b) > 2*sniff.MaxBytes {
			return 0, errNoMore // a hello that never ends
		}
		if !w.r.heads.take(w.f.Client, len(b)) {
			w.r.Dropped(DropSniff)
			return 0, errCrowded
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
	named, v := w.r.named(w.ctx, w.f, res, w.e)
	if v.Action != policy.Forward || w.upstream != nil && !stays(w.flow, w.verdict, named, v) {
		if v.Action == policy.Refuse {
			w.unreachable(syscall.ECONNREFUSED)
		}
		return errNoMore
	}
	w.last = res
	if w.upstream == nil {
		up, err := w.r.dial(w.ctx, w.e)
		if err != nil {
			if !silent(err) {
				w.unreachable(err)
			}
			return err
		}
		w.flow, w.verdict, w.upstream = named, v, up
	}
	for _, b := range w.held {
		w.upstream.Write(b) // a lost datagram is the client's to send again
	}
	w.letGo()
	return nil
}

func (w *helloFilter) letGo() {
	if w.bytes > 0 {
		w.r.heads.give(w.f.Client, w.bytes)
	}
	w.held, w.bytes = nil, 0
}

// unreachable tells the client why nobody answers, where its side of the flow can.
func (w *helloFilter) unreachable(err error) {
	if c, ok := w.client.(interface{ Unreachable(error) }); ok {
		c.Unreachable(err)
	}
}

func (w *helloFilter) close() {
	w.letGo()
	if w.upstream != nil {
		w.upstream.Close()
	}
}
