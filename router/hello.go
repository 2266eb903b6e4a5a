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
	if err := w.readFirst(); err != nil {
		if !errors.Is(err, errNoMore) {
			e.fail("read", err)
		}
		return false
	}
	carried = true
	return (&relay{r: r, e: e, client: client, upstream: w.upstream}).carryDatagrams(ctx, a, w)
}

// helloFilter reads the datagrams of a QUIC client. It holds them while a hello is incomplete, and lets no part of one go: a server may put
// it together with what comes from another port. It judges each complete hello, and dials after it has judged the first.
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
	bytes    int // that held takes
	taken    int // of Config.SniffMemory: for held, and for what initials holds
}

// readFirst reads from the client until the flow has been judged and dialled.
func (w *helloFilter) readFirst() error {
	limit := time.Now().Add(startedLimit)
	if err := w.client.SetReadDeadline(limit); err != nil {
		return err
	}
	defer w.client.SetReadDeadline(time.Time{})
	for w.upstream == nil {
		if err := w.readOne(); err != nil {
			return err
		}
		if c, ok := unwrapped(w.client).(waiter); ok && w.upstream == nil { // a buffer is held by nobody who waits
			if err := await(c, time.Until(limit)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *helloFilter) readOne() error {
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	n, err := w.client.Read(*buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errSlow
	}
	if err == nil {
		_, err = w.Write((*buf)[:n])
	}
	if err != nil && w.upstream != nil && (&icmpErrors{client: w.client, upstream: unwrapped(w.upstream)}).pass(err) {
		return nil // it was lost, and ends no flow: see carryDatagrams
	}
	return err
}

// await waits until there is something to read.
func await(c waiter, limit time.Duration) error {
	ready := make(chan struct{})
	if !c.WhenReadable(func() { close(ready) }) {
		return nil
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-ready:
		return nil
	case <-timer.C:
		return errSlow
	}
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
		w.held = append(w.held, bytes.Clone(b))
		w.bytes += heldSize(b)
	}
	if !w.account() {
		w.r.Dropped(DropSniff)
		return 0, errCrowded
	}
	if res.Status == sniff.NeedMore {
		return len(b), nil
	}
	if w.upstream == nil || res != *w.last {
		if err := w.judge(res); err != nil {
			return 0, err
		}
	}
	return w.upstream.Write(b)
}

// account takes of Config.SniffMemory what is held now, or gives it back. It fails if there is too little.
func (w *helloFilter) account() (ok bool) {
	more := w.bytes + w.initials.Held() - w.taken
	if more > 0 && !w.r.heads.take(w.f.Client, more) {
		return false
	}
	if more < 0 {
		w.r.heads.give(w.f.Client, -more)
	}
	w.taken += more
	return true
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
	w.held, w.bytes = nil, 0
	w.account()
	return nil
}

// letGo gives back all memory. Nothing is read any more.
func (w *helloFilter) letGo() {
	w.r.heads.give(w.f.Client, w.taken)
	w.held, w.bytes, w.taken = nil, 0, 0
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
