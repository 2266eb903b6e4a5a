package ingress

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/dnsproxy/pipe"
)

// carried is the client's side of a flow, for the router. It counts bytes, and holds little memory while it is idle.
type carried struct {
	net.Conn
	sent    []byte // by the client before the flow was accepted
	in, out atomic.Uint64
	spend   func(up bool, n int) (wait time.Duration) // see Config.Spend; may be nil
	over    chan struct{}                             // closed with the connection
	once    sync.Once
}

// carry returns the client's side of a flow of who.
func (s *Server) carry(c net.Conn, who Login, sent []byte) *carried {
	side := &carried{Conn: c, sent: sent, over: make(chan struct{})}
	if s.Spend != nil {
		side.spend = func(up bool, n int) time.Duration { return s.Spend(who.Client, up, n) }
	}
	return side
}

// maxWait is how long a connection waits before it asks again how long it must.
const maxWait = time.Second

// pay counts bytes, and waits until more may follow.
func (c *carried) pay(up bool, n int) {
	if c.spend == nil || n == 0 {
		return
	}
	for wait := c.spend(up, n); wait > 0; wait = c.spend(up, 0) {
		select {
		case <-c.over:
			return
		case <-time.After(min(wait, maxWait)):
		}
	}
}

// Read reads what the client sent before, and then what it sends.
func (c *carried) Read(b []byte) (int, error) {
	if len(c.sent) > 0 {
		n := copy(b, c.sent)
		if c.sent = c.sent[n:]; len(c.sent) == 0 {
			c.sent = nil
		}
		c.in.Add(uint64(n))
		c.pay(true, n)
		return n, nil
	}
	n, err := c.Conn.Read(b)
	c.in.Add(uint64(n))
	c.pay(true, n)
	return n, err
}

func (c *carried) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(uint64(n))
	c.pay(false, n)
	return n, err
}

// WriteTo copies what the client sends until it ends, which is no error.
func (c *carried) WriteTo(w io.Writer) (int64, error) { return copyFrugally(w, readOnly{c}) }

// ReadFrom copies to the client until r ends, which is no error.
func (c *carried) ReadFrom(r io.Reader) (int64, error) { return copyFrugally(writeOnly{c}, r) }

// Bytes returns how much has passed, from the client and to it.
func (c *carried) Bytes() (in, out uint64) { return c.in.Load(), c.out.Load() }

// CloseWrite ends the client's receiving side.
func (c *carried) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// Close closes the client's connection.
func (c *carried) Close() error {
	c.once.Do(func() { close(c.over) })
	return c.Conn.Close()
}

// Abort resets the client's connection.
func (c *carried) Abort() {
	c.once.Do(func() { close(c.over) })
	abort(c.Conn)
}

func abort(c net.Conn) {
	if a, ok := c.(interface{ Abort() }); ok {
		a.Abort()
		return
	}
	c.Close()
}

// readOnly and writeOnly hide the fast ways of a connection, so that a copy does not call itself.
type readOnly struct{ io.Reader }
type writeOnly struct{ io.Writer }

const (
	smallBuffer = 2 << 10  // while nothing comes
	largeBuffer = 64 << 10 // while much comes
)

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeBuffer); return &b }}

// copyFrugally copies until src ends, which is no error. It waits with a small buffer, and takes a large one only for as long as
// that is full each time.
func copyFrugally(dst io.Writer, src io.Reader) (total int64, err error) {
	small := make([]byte, smallBuffer)
	for {
		n, err := pass(dst, src, small)
		if total += int64(n); err != nil {
			return total, ended(err)
		}
		if n < len(small) {
			continue
		}
		large := largeBuffers.Get().(*[]byte)
		for n = largeBuffer; n > smallBuffer && err == nil; {
			n, err = pass(dst, src, *large)
			total += int64(n)
		}
		largeBuffers.Put(large)
		if err != nil {
			return total, ended(err)
		}
	}
}

func pass(dst io.Writer, src io.Reader, buf []byte) (int, error) {
	n, err := src.Read(buf)
	if n > 0 {
		if _, failed := dst.Write(buf[:n]); failed != nil {
			return n, failed
		}
	}
	return n, err
}

func ended(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// newPipe returns the two ends of a connection in memory: what speaks HTTP to a server, and the client's side of its flow.
func newPipe(client, server net.Addr) (inner, outer *pipeEnd) {
	a, b := pipe.New(client, server)
	reset := new(atomic.Bool)
	return &pipeEnd{a, reset}, &pipeEnd{b, reset}
}

// pipeEnd is one end. After Abort of one, the other sees a reset and not an end: half an answer must not look like a whole one.
type pipeEnd struct {
	*pipe.Conn
	reset *atomic.Bool
}

func (p *pipeEnd) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if err != nil && p.reset.Load() {
		err = syscall.ECONNRESET
	}
	return n, err
}

// Abort closes both directions at once.
func (p *pipeEnd) Abort() {
	p.reset.Store(true)
	p.Close()
}
