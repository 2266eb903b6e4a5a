// Package stream is a TCP connection of gVisor's as a net.Conn, and the fast ways between it and a kernel socket.
//
// It holds no buffer while nothing passes, and tells a reset from an end. It does not open connections, bound them or know
// whose they are.
package stream

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"penstock/stack/deadline"
)

// Active is told whenever data passes.
type Active interface{ Touch() }

// Conn is one TCP connection. It holds no buffer while it is idle.
//
// WriteTo and ReadFrom move data without a copy of ours where the other side is a kernel socket: up, the received
// segments are shown to writev and discarded afterwards; down, the socket is read straight into the segments that are
// sent.
type Conn struct {
	ep            tcpip.Endpoint
	wq            *waiter.Queue
	local, remote netip.AddrPort
	in, out       atomic.Uint64
	active        Active // nil: nobody asks

	readable, writable signal // look again
	readEntry          waiter.Entry
	writeEntry         waiter.Entry
	readBy, writeBy    deadline.Deadline

	then   atomic.Pointer[func()] // of WhenReadable
	readMu sync.Mutex             // one reader at a time; held while the endpoint's bytes are shown to writev

	mu     sync.Mutex // guards below
	ending func()     // Close or Abort that waits for the reader to let go
	ended  bool
}

// New makes a connection of an endpoint that is connected, whose events wq tells. It owns the endpoint from then on.
func New(ep tcpip.Endpoint, wq *waiter.Queue, remote, local netip.AddrPort, active Active) *Conn {
	c := &Conn{ep: ep, wq: wq, local: local, remote: remote, active: active}
	c.readEntry = waiter.NewFunctionEntry(waiter.ReadableEvents|waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) {
		c.readable.poke()
		c.wake()
	})
	c.writeEntry = waiter.NewFunctionEntry(waiter.WritableEvents|waiter.EventHUp|waiter.EventErr, func(waiter.EventMask) { c.writable.poke() })
	wq.EventRegister(&c.readEntry)
	wq.EventRegister(&c.writeEntry)
	return c
}

// wait waits for a look again. It may return without one: whoever calls it looks first whether the connection has ended.
func (c *Conn) wait(again *signal, d *deadline.Deadline) error {
	ch, fresh := again.wait()
	if fresh { // what came before it was there is seen by looking again
		return nil
	}
	select {
	case <-ch:
		if c.isEnded() {
			again.poke() // for the next who waits
		}
		return nil
	case <-d.Passed():
		return os.ErrDeadlineExceeded
	}
}

// signal is a channel of capacity 1 that is there while somebody waits.
type signal struct{ ch atomic.Pointer[chan struct{}] }

// wait returns the channel. fresh says that nobody could poke it before.
func (s *signal) wait() (ch <-chan struct{}, fresh bool) {
	for {
		if p := s.ch.Load(); p != nil {
			return *p, false
		}
		made := make(chan struct{}, 1)
		if s.ch.CompareAndSwap(nil, &made) {
			return made, true
		}
	}
}

func (s *signal) poke() {
	p := s.ch.Load()
	if p == nil {
		return
	}
	select {
	case *p <- struct{}{}:
	default:
	}
}

// drop is called when nobody waits.
func (s *signal) drop() { s.ch.Store(nil) }

// Read reads what has come, and waits for it. The end of the peer's side is io.EOF, a reset is ECONNRESET.
func (c *Conn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.unlockRead()
	return c.readLocked(b)
}

func (c *Conn) readLocked(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		if c.isEnded() {
			return 0, c.opError("read", net.ErrClosed)
		}
		n, err := c.take(b)
		switch err.(type) {
		case nil:
			c.consumed(n)
			return n, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(&c.readable, &c.readBy); err != nil {
				return 0, c.opError("read", err)
			}
		default:
			return 0, c.readError(err)
		}
	}
}

// take reads what there is. It is a function of its own because what gVisor returns is large: whoever waits for data does
// not keep it on its stack.
func (c *Conn) take(b []byte) (int, tcpip.Error) {
	w := tcpip.SliceWriter(b)
	res, err := c.ep.Read(&w, tcpip.ReadOptions{})
	return res.Count, err
}

// readError is io.EOF after the peer's FIN, and otherwise the error that broke the connection. gVisor reports that error
// once and an end of the stream from then on: without a look at the state a reset would be passed on as FIN.
func (c *Conn) readError(err tcpip.Error) error {
	if _, end := err.(*tcpip.ErrClosedForReceive); !end {
		return OpError("read", c.remote, err)
	}
	if tcp.EndpointState(c.ep.State()) == tcp.StateError {
		return OpError("read", c.remote, &tcpip.ErrConnectionReset{})
	}
	return io.EOF
}

// consumed counts bytes that were read, and lets the receive buffer grow as fast as they are.
func (c *Conn) consumed(n int) {
	c.in.Add(uint64(n))
	c.touch()
	c.ep.ModerateRecvBuf(n)
}

// sent counts bytes that went into the send buffer.
func (c *Conn) sent(n int) {
	c.out.Add(uint64(n))
	c.touch()
}

func (c *Conn) touch() {
	if c.active != nil {
		c.active.Touch()
	}
}

// Write puts b into the send buffer, and waits for room.
func (c *Conn) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := c.push(&slicePayload{b: b[done:]})
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// push writes what the send buffer takes of p, at least one byte, waiting for room.
func (c *Conn) push(p tcpip.Payloader) (int, error) {
	for {
		if c.isEnded() {
			return 0, c.opError("write", net.ErrClosed)
		}
		n, err := c.ep.Write(p, tcpip.WriteOptions{})
		if n > 0 {
			c.sent(int(n))
			return int(n), nil
		}
		switch err.(type) {
		case nil: // the payload had nothing to give
			return 0, nil
		case *tcpip.ErrWouldBlock:
			if err := c.wait(&c.writable, &c.writeBy); err != nil {
				return 0, c.opError("write", err)
			}
		default:
			return 0, OpError("write", c.remote, err)
		}
	}
}

// slicePayload is a tcpip.Payloader over bytes. Its Read fills its buffer as long as bytes are left.
type slicePayload struct{ b []byte }

func (p *slicePayload) Len() int { return len(p.b) }

func (p *slicePayload) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b)
	p.b = p.b[n:]
	return n, nil
}

// CloseWrite sends FIN and leaves the other direction open.
func (c *Conn) CloseWrite() error {
	switch err := c.ep.Shutdown(tcpip.ShutdownWrite); err.(type) {
	case nil, *tcpip.ErrNotConnected:
		return nil
	default:
		return OpError("close", c.remote, err)
	}
}

// Close sends FIN, or RST where received data was never read. It does not wait for the peer.
func (c *Conn) Close() error {
	c.end(c.close)
	return nil
}

// close ends keep-alive too: what is left waits for an ACK, and is no flow any more. The stack tells by it what was closed.
func (c *Conn) close() {
	c.ep.SocketOptions().SetKeepAlive(false)
	c.ep.Close()
}

// Abort sends RST.
func (c *Conn) Abort() {
	c.end(c.ep.Abort)
}

// end closes the endpoint as soon as no reader looks at its bytes: closing gives their memory to other connections.
func (c *Conn) end(how func()) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended = true
	c.ending = how
	c.mu.Unlock()
	c.readable.poke()
	c.writable.poke()
	if c.readMu.TryLock() {
		c.unlockRead()
	}
	c.wake()
}

func (c *Conn) isEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// unlockRead lets go of the reader's side, and ends the connection if that was asked for meanwhile.
func (c *Conn) unlockRead() {
	for {
		c.mu.Lock()
		how := c.ending
		c.ending = nil
		c.mu.Unlock()
		if how != nil {
			c.wq.EventUnregister(&c.readEntry)
			c.wq.EventUnregister(&c.writeEntry)
			how()
		}
		c.readMu.Unlock()
		// An end that came between the look and the unlock found the lock taken: it is still ours to do.
		c.mu.Lock()
		again := c.ending != nil
		c.mu.Unlock()
		if !again || !c.readMu.TryLock() {
			return
		}
	}
}

// Bytes returns the bytes of payload that were read from and written to the connection so far.
func (c *Conn) Bytes() (in, out uint64) { return c.in.Load(), c.out.Load() }

// LocalAddr is the stack's end.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is the peer's end.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline ends reads and writes that wait at t; the zero time never.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readBy.Set(t)
	c.writeBy.Set(t)
	return nil
}

// SetReadDeadline is SetDeadline for reads.
func (c *Conn) SetReadDeadline(t time.Time) error { c.readBy.Set(t); return nil }

// SetWriteDeadline is SetDeadline for writes.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.writeBy.Set(t); return nil }

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Addr: c.RemoteAddr(), Err: err}
}

// OpError translates gVisor's errors into those that the net package would give.
func OpError(op string, addr netip.AddrPort, err tcpip.Error) error {
	var cause error
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		cause = syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		cause = syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		cause = syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrHostDown, *tcpip.ErrNoNet:
		cause = syscall.EHOSTUNREACH
	case *tcpip.ErrNetworkUnreachable:
		cause = syscall.ENETUNREACH
	case *tcpip.ErrConnectionAborted, *tcpip.ErrAborted, *tcpip.ErrInvalidEndpointState:
		cause = net.ErrClosed
	case *tcpip.ErrClosedForSend, *tcpip.ErrNotConnected:
		cause = syscall.EPIPE
	case *tcpip.ErrBadLocalAddress:
		cause = syscall.EADDRNOTAVAIL
	case *tcpip.ErrNoPortAvailable, *tcpip.ErrPortInUse:
		cause = syscall.EADDRINUSE
	default:
		cause = endpointError(err.String())
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: cause}
}

// endpointError is an error of gVisor's that has no errno of its own.
type endpointError string

func (e endpointError) Error() string { return string(e) }
