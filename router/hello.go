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

// handleUnnamedUDP judges a flow of datagrams by the first of them, and carries it. kept is as in carryStream.
func (r *Router) handleUnnamedUDP(ctx context.Context, a Answerer, client net.Conn, e *entry) (kept bool) {
	w := &helloFilter{r: r, f: e.flow(), e: e, ctx: ctx, client: client}
	carried := false
	defer func() {
		if !carried { // what was read may even have made the filter panic
			w.close()
		}
	}()
	if err := client.SetReadDeadline(time.Now().Add(r.SniffTimeout)); err != nil {
		e.fail("read", err)
		return false
	}
	if err := w.readFirst(); err != nil {
		if !errors.Is(err, errNoMore) {
			e.fail("read", err)
		}
		return false
	}
	client.SetReadDeadline(time.Time{})
	carried = true
	return (&relay{r: r, e: e, client: client, upstream: w.upstream}).carryDatagrams(ctx, a, w)
}

// helloFilter reads the datagrams of a QUIC client. It holds them while a hello is incomplete and judges each complete hello.
// It dials after it has judged the first.
type helloFilter struct {
	r        *Router
	f        policy.Flow // the facts before it was read
	e        *entry
	ctx      context.Context // of the flow; Write cannot take one
	client   net.Conn
	upstream net.Conn
	course   course // of upstream
	initials sniff.Initials
	last     *sniff.Result // the result judged last
	held     [][]byte
	bytes    int
}

// readFirst reads from the client until the flow has been judged and dialled.
func (w *helloFilter) readFirst() error {
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	for w.upstream == nil {
		n, err := w.client.Read(*buf)
		switch {
		case err == nil:
			_, err = w.Write((*buf)[:n])
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = w.judge(w.initials.GiveUp())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// heldSize is about how many bytes it takes to hold a datagram. Without what is around it, a flood of empty ones would cost nothing.
func heldSize(b []byte) int {
	const around = 256
	return around + len(b)
}

func (w *helloFilter) Write(b []byte) (int, error) {
	res := w.initials.Datagram(b)
	if res.Status == sniff.NeedMore {
		if w.bytes+heldSize(b) > 2*sniff.MaxBytes {
			return 0, errNoMore // a hello that never ends
		}
		if !w.r.heads.take(w.f.Client, heldSize(b)) {
			w.r.Dropped(DropSniff)
			return 0, errCrowded
		}
		w.held = append(w.held, bytes.Clone(b))
		w.bytes += heldSize(b)
		return len(b), nil
	}
	if w.upstream == nil || res != *w.last {
		if err := w.judge(res); err != nil {
			return 0, err
		}
	}
	return w.upstream.Write(b)
}

// judge judges the flow by what has been read, dials if that is not done yet, and sends the datagrams it has held.
func (w *helloFilter) judge(res sniff.Result) error {
	named, v := w.r.named(w.ctx, w.f, res, w.e)
	if v.Action != policy.Forward || w.upstream != nil && !w.course.stays(named, v) {
		if v.Action == policy.Refuse {
			w.unreachable(syscall.ECONNREFUSED)
		}
		return errNoMore
	}
	w.last = &res
	if w.upstream == nil {
		up, err := w.r.dial(w.ctx, w.e)
		if err != nil {
			if !silent(err) {
				w.unreachable(err)
			}
			return err
		}
		w.course, w.upstream = courseOf(&named, v), up
	}
	for _, b := range w.held {
		w.upstream.Write(b) // the client resends a lost datagram
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

// unreachable sends the client an ICMP error, if its side of the flow can.
func (w *helloFilter) unreachable(err error) {
	if c, ok := w.client.(interface{ Unreachable(error) }); ok {
		c.Unreachable(err)
	}
}

// close ends a flow that is not carried.
func (w *helloFilter) close() {
	w.letGo()
	if w.upstream != nil {
		w.upstream.Close()
	}
}
