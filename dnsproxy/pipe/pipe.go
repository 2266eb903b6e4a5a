// Package pipe is a TCP connection in memory: with a buffer in each direction, deadlines, and a side that can be closed for writing
// alone.
//
// It knows nothing of what is sent over it.
package pipe

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"penstock/stack/deadline"
)

// pipeSize is the size of the buffer, octets: two DNS messages of the largest size. A writer waits when it is full.
const pipeSize = 128 << 10

// Conn is one end of a connection. Its methods may be called by several goroutines at once.
type Conn struct {
	in, out       *pipe
	local, remote net.Addr
}

// New returns the two ends of a connection between two addresses.
func New(near, far net.Addr) (*Conn, *Conn) {
	a, b := newPipe(), newPipe()
	return &Conn{in: a, out: b, local: near, remote: far}, &Conn{in: b, out: a, local: far, remote: near}
}

// Read reads what the other end wrote.
func (c *Conn) Read(b []byte) (int, error) { return c.in.Read(b) }

// Write writes to the other end. It waits while the buffer is full.
func (c *Conn) Write(b []byte) (int, error) { return c.out.Write(b) }

// CloseWrite says that nothing more is written. What is in the buffer can still be read.
func (c *Conn) CloseWrite() error {
	c.out.end()
	return nil
}

// Close closes both directions. The other end can still read what is in the buffer.
func (c *Conn) Close() error {
	c.out.end()
	c.in.cut()
	return nil
}

// LocalAddr returns the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr returns the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets the deadlines for reading and writing.
func (c *Conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline sets the deadline for reading.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.readBy.Set(t); return nil }

// SetWriteDeadline sets the deadline for writing.
func (c *Conn) SetWriteDeadline(t time.Time) error { c.out.writeBy.Set(t); return nil }

// pipe is one direction of a connection. It has a buffer, as a socket has, so that a client which sends two queries before it reads
// the first answer does not stop the server.
type pipe struct {
	readBy, writeBy deadline.Deadline

	mu      sync.Mutex // guards below
	buf     []byte
	changed chan struct{} // closed and replaced whenever a field below changes
	ended   bool          // the writer is done
	broken  bool          // the reader is gone
}

func newPipe() *pipe {
	return &pipe{changed: make(chan struct{})}
}

func (p *pipe) Read(b []byte) (int, error) {
	for {
		n, changed, err := p.take(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		select {
		case <-changed:
		case <-p.readBy.Passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

func (p *pipe) take(b []byte) (int, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken:
		return 0, nil, io.ErrClosedPipe
	case isClosed(p.readBy.Passed()):
		return 0, nil, os.ErrDeadlineExceeded
	case len(p.buf) > 0:
		n := copy(b, p.buf)
		p.buf = append(p.buf[:0], p.buf[n:]...)
		p.changeLocked()
		return n, nil, nil
	case p.ended:
		return 0, nil, io.EOF
	}
	return 0, p.changed, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	for done := 0; ; {
		n, changed, err := p.give(b[done:])
		if done += n; done == len(b) || err != nil {
			return done, err
		}
		select {
		case <-changed:
		case <-p.writeBy.Passed():
			return done, os.ErrDeadlineExceeded
		}
	}
}

func (p *pipe) give(b []byte) (int, <-chan struct{}, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken || p.ended:
		return 0, nil, io.ErrClosedPipe
	case isClosed(p.writeBy.Passed()):
		return 0, nil, os.ErrDeadlineExceeded
	}
	n := min(len(b), pipeSize-len(p.buf))
	p.buf = append(p.buf, b[:n]...)
	if n > 0 {
		p.changeLocked()
	}
	return n, p.changed, nil
}

// end closes the writing side. What is in the buffer can still be read.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.changeLocked()
	p.writeBy.Set(time.Time{})
}

// cut closes the reading side.
func (p *pipe) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken, p.buf = true, nil
	p.changeLocked()
	p.readBy.Set(time.Time{})
}

func (p *pipe) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
