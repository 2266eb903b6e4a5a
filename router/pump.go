package router

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/router/readable"
)

// Keeper is an Answerer of flows that can go on without their handler.
type Keeper interface {
	// Keep is called once, after Accept. ok is false for a flow that ends with its handler. Otherwise it ends when over is called,
	// once, and ctx of the handler has no say in it.
	Keep() (over func(), ok bool)
}

// pump copies one direction of a flow. It has a goroutine only while data comes, and until quietFor after that: two that wait would
// be half of what an idle flow costs.
type pump struct {
	dst  io.Writer
	src  net.Conn
	move mover
	wait waiter          // tells when src has something; nil if nobody can
	over func(err error) // called once: err is nil at the end of src
	r    *Router

	begun bool
}

// mover copies src to dst until src ends, or until its read deadline. n counts what was copied: 0 is nothing.
type mover func(dst io.Writer, src net.Conn) (n int64, err error)

// waiter calls f once, in a goroutine of its own, when something can be read, or at the end. ok is false, and f is not called, where
// that cannot be told.
type waiter interface {
	WhenReadable(f func()) (ok bool)
}

// quietFor is how long a direction is silent, at least, before its goroutine ends. It is longer than what a server takes to answer,
// and short beside what an idle flow lasts. Where more than manyPumps directions have a goroutine, it is divided by crowded: the runtime
// keeps a descriptor of each goroutine that there has ever been at one time, so that a burst of flows would stay in memory for good.
const (
	quietFor  = time.Second
	manyPumps = 512
	crowded   = 20
)

// patience is how long directions may be silent.
type patience struct {
	quiet time.Duration // quietFor
	pumps atomic.Int64  // directions that have a goroutine, of those that can do without
}

func (p *patience) isCrowded() bool { return p.pumps.Load() > manyPumps }

func (p *patience) now() time.Duration {
	if p.isCrowded() {
		return p.quiet / crowded
	}
	return p.quiet
}

// waits reports that run will be called once there is something. Where many directions have a goroutine, this one begins without.
func (p *pump) waits() bool {
	return p.wait != nil && p.r.patience.isCrowded() && p.wait.WhenReadable(p.run)
}

// run copies until the end of src, or until it has been quiet: then it goes on in another goroutine once there is something.
func (p *pump) run() {
	waits, err := p.copy()
	if waits {
		return
	}
	_ = guard(p.r.Log, func() error { // whoever is told of the end is no reason to end the process either
		p.over(err)
		return nil
	})
}

// errPanicked is why a flow is reset of which a copy panicked.
var errPanicked = errors.New("internal error")

// guard runs f. What a client sent may make it panic: that ends a flow, and not the process.
func guard(log *slog.Logger, f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("carrying a flow panicked; it is reset", "err", fmt.Sprint(v), "trace", string(debug.Stack()))
			err = errPanicked
		}
	}()
	return f()
}

// copy reports that run will be called again, or how the direction has ended.
func (p *pump) copy() (waits bool, err error) {
	err = guard(p.r.Log, func() (err error) {
		waits, err = p.copyUntilQuiet()
		return err
	})
	return waits, err
}

func (p *pump) copyUntilQuiet() (waits bool, err error) {
	if p.wait == nil {
		_, err := p.move(p.dst, p.src)
		return false, err
	}
	p.r.patience.pumps.Add(1)
	defer p.r.patience.pumps.Add(-1)
	for {
		quiet := p.r.patience.now()
		if p.open(); !p.begun && isPassable(p.dst) {
			quiet = min(quiet, openSoon)
		}
		p.begun = true
		p.src.SetReadDeadline(time.Now().Add(quiet)) // if it fails, so does the copy
		n, err := p.move(p.dst, p.src)
		switch {
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return false, err
		case n > 0:
			continue
		}
		p.open()                           // an answer may have come meanwhile
		p.src.SetReadDeadline(time.Time{}) // and no timer is left
		if p.wait.WhenReadable(p.run) {
			return true, nil
		}
		_, err = p.move(p.dst, p.src) // nobody can tell, as off Linux: this goroutine waits, and wakes for nothing else
		return false, err
	}
}

// passable is implemented by a filter that may come to let everything pass.
type passable interface {
	// opened returns where the rest goes without the filter, once that is so.
	opened() (to io.Writer, ok bool)
}

func isPassable(dst io.Writer) bool { _, ok := dst.(passable); return ok }

// openSoon is when to look first whether a filter lets everything pass: once the handshake of TLS is over, most do.
const openSoon = 50 * time.Millisecond

// open takes filters that let everything pass out of the way: it may be faster without them.
func (p *pump) open() {
	for {
		f, ok := p.dst.(passable)
		if !ok {
			return
		}
		to, open := f.opened()
		if !open {
			return
		}
		p.dst = to
	}
}

// relay carries a flow both ways. It passes FIN on as FIN, so that half-closed connections keep working. If one side ends in any
// other way, it resets the other.
type relay struct {
	r      *Router
	e      *entry
	client net.Conn

	cancel    context.CancelFunc // of what judges the flow while it is carried; nil if nothing does
	head      *head              // of a filter of a stream, which the end of the flow releases; nil if there is none
	datagrams *datagrams         // nil for a stream

	over func()        // what ends a flow that goes on without its handler
	done chan struct{} // closed at the end of any other; nil if the flow is kept

	mu       sync.Mutex // guards below
	upstream net.Conn
	sockets  []*readable.Socket // that may be waited for
	running  int                // directions
	ending   bool               // it ends, or one side has: no other upstream may take the place of the first
	refused  bool               // the client is told why, and not reset
	killed   bool
	err      error // why it ended
}

// pump makes one direction of the flow.
func (s *relay) pump(dst io.Writer, src net.Conn, over func(error)) *pump {
	return &pump{dst: dst, src: unwrapped(src), move: copyStream, wait: s.waiter(src), over: over, r: s.r}
}

// waiter tells when a connection has something to read; nil if nobody can tell.
func (s *relay) waiter(c net.Conn) waiter {
	switch c := unwrapped(c).(type) {
	case *net.TCPConn:
		return s.socket(c)
	case *net.UDPConn:
		return s.socket(c)
	case waiter:
		return c
	}
	return nil
}

// socket makes a socket one that may be waited for.
func (s *relay) socket(c syscall.Conn) waiter {
	socket := s.r.sockets.Socket(c)
	s.mu.Lock()
	s.sockets = append(s.sockets, socket)
	s.mu.Unlock()
	return socket
}

// carryStream carries a flow until both sides are done. It closes upstream. kept reports that the flow goes on without its handler.
func (r *Router) carryStream(ctx context.Context, a Answerer, e *entry, client, upstream net.Conn, f *filtered) (kept bool) {
	s := &relay{r: r, e: e, client: client, upstream: upstream, running: 2}
	to := io.Writer(unwrapped(upstream))
	if f != nil {
		s.cancel, s.head, to = f.cancel, f.head, f.through
	}
	e.carriedBy(client)
	stop := s.begin(ctx, a)
	up := s.pump(to, client, func(err error) { s.ended(err, upstream) })
	down := s.pump(client, upstream, func(err error) { s.ended(err, client) })
	s.start(up, down)
	return s.wait(stop)
}

// filtered is what stands between the client of a stream and its upstream.
type filtered struct {
	through io.Writer
	head    *head              // of the filter
	cancel  context.CancelFunc // of the filter's context, which outlives the handler
}

// start runs both directions, one of them in this goroutine until it has ended or is quiet.
func (s *relay) start(up, down *pump) {
	if !up.waits() {
		go up.run()
	}
	if !down.waits() {
		down.run()
	}
}

// begin makes the flow one that can be killed. Nothing in it needs ctx from here on.
func (s *relay) begin(ctx context.Context, a Answerer) (stop func() bool) {
	if k, ok := a.(Keeper); ok {
		if s.over, ok = k.Keep(); ok {
			s.e.resetBy(ctx, s)
			return nil
		}
	}
	s.done = make(chan struct{})
	return context.AfterFunc(ctx, s.Abort)
}

// wait waits for the end of a flow that is not kept.
func (s *relay) wait(stop func() bool) (kept bool) {
	if s.done == nil {
		return true
	}
	<-s.done
	stop()
	return false
}

// ended notes the end of the direction to one side.
func (s *relay) ended(err error, to net.Conn) {
	if err == nil {
		err = closeWrite(to)
	}
	if err != nil {
		s.reset(false)
	}
	s.leave(err)
}

// leave ends the flow with its second direction.
func (s *relay) leave(err error) {
	s.mu.Lock()
	s.err = errors.Join(s.err, err)
	s.running--
	last, failed, upstream := s.running == 0, ordinary(s.err), s.upstream
	if errors.Is(s.err, errPanicked) {
		failed = errPanicked // the other direction ends as one does that is closed
	}
	killed := s.killed
	if killed {
		failed = nil
	}
	s.mu.Unlock()
	if !last {
		return
	}
	upstream.Close()
	if s.head != nil {
		s.head.release()
	}
	if s.datagrams != nil {
		if err := s.datagrams.over(); err != nil && !killed {
			failed = err
		}
	}
	if failed != nil {
		s.e.fail("relay", failed)
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.done != nil {
		close(s.done)
		return
	}
	defer s.over() // whatever becomes of the record: the stack waits for it
	s.r.end(s.e)
}

// Abort resets both sides, because somebody wants the flow to end.
func (s *relay) Abort() { s.reset(true) }

func (s *relay) reset(killed bool) {
	s.mu.Lock()
	s.ending, s.killed = true, s.killed || killed
	upstream, refused := s.upstream, s.refused
	s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
	abort(upstream)
	if !refused {
		abort(s.client)
	}
	s.wake()
}

// wake makes the directions whose socket was closed see that.
func (s *relay) wake() {
	s.mu.Lock()
	sockets := s.sockets
	s.mu.Unlock()
	for _, socket := range sockets {
		socket.Wake()
	}
}
