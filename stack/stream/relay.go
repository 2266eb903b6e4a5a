package stream

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"

	"penstock/stack/nowait"
)

const (
	// maxPieces is how many received views one writev may carry, at most the kernel's IOV_MAX of 1024.
	maxPieces = 64
	// maxShown is how many received bytes one writev may carry.
	maxShown = 512 << 10
	// copyBuffer is the size of the pooled buffers that carry data where it has to be copied.
	copyBuffer = 64 << 10
)

var copyPool = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// shown collects what an endpoint has received, without taking it.
type shown struct {
	pieces net.Buffers
	bytes  int
}

var errShownFull = errors.New("enough for one write")

func (s *shown) Write(b []byte) (int, error) {
	if len(s.pieces) == maxPieces || s.bytes >= maxShown {
		return 0, errShownFull
	}
	s.pieces = append(s.pieces, b)
	s.bytes += len(b)
	return len(b), nil
}

// discard takes n bytes and throws them away.
type discard struct{ n int }

func (d *discard) Write(b []byte) (int, error) {
	if len(b) > d.n {
		n := d.n
		d.n = 0
		return n, io.ErrShortWrite
	}
	d.n -= len(b)
	return len(b), nil
}

// WriteTo sends what is received to w until the peer sends FIN (which is no error) or either side fails. The error is
// the reader's or the writer's, as they gave it.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	c.readMu.Lock()
	defer c.unlockRead()
	switch w := w.(type) {
	case *net.TCPConn:
		return c.showTo(nowait.NewWriter(w).WriteBuffers)
	case *Conn:
		return c.showTo(w.pushAll)
	}
	var total int64
	for {
		if err := c.WaitReadable(); err != nil {
			return total, err
		}
		buf := copyPool.Get().(*[]byte)
		n, err := c.readLocked(*buf)
		if n > 0 {
			var m int
			m, err = w.Write((*buf)[:n])
			total += int64(m)
		}
		copyPool.Put(buf)
		if err != nil {
			return total, eof(err)
		}
	}
}

func eof(err error) error {
	if err == io.EOF {
		return nil
	}
	return err
}

// WaitReadable waits until Read would not: there is data, the peer's end, or an error, which Read will return. It needs no
// buffer and little of a stack. Its own errors are those of Close and the read deadline.
func (c *Conn) WaitReadable() error {
	for c.ep.Readiness(waiter.ReadableEvents) == 0 {
		if c.isEnded() {
			return c.opError("read", net.ErrClosed)
		}
		if err := c.wait(&c.readable, &c.readBy); err != nil {
			return c.opError("read", err)
		}
	}
	return nil
}

// WhenReadable calls f once, in a goroutine of its own, as soon as Read would not wait: WaitReadable without a goroutine that waits.
// The read deadline has no say in it. Nobody may read meanwhile. A second call takes the place of the first.
func (c *Conn) WhenReadable(f func()) (ok bool) {
	c.readable.drop()
	c.then.Store(&f)
	if c.ep.Readiness(waiter.ReadableEvents) != 0 || c.isEnded() { // what comes from now on finds f
		c.wake()
	}
	return true
}

// wake starts what waits in WhenReadable. gVisor calls it: it does not block.
func (c *Conn) wake() {
	if f := c.then.Swap(nil); f != nil {
		go (*f)()
	}
}

// showTo is WriteTo straight from the received segments: write is called with what there is, and takes from the front of
// it. The endpoint is not closed while it is under way (see end), so the bytes stay what they are.
func (c *Conn) showTo(write func(*net.Buffers) (int64, error)) (int64, error) {
	var total int64
	var s shown
	pieces := make(net.Buffers, 0, 8)
	for {
		if c.isEnded() {
			return total, c.opError("read", net.ErrClosed)
		}
		s.pieces, s.bytes = pieces[:0], 0
		_, err := c.ep.Read(&s, tcpip.ReadOptions{Peek: true})
		switch err.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			if err := c.wait(&c.readable, &c.readBy); err != nil {
				return total, c.opError("read", err)
			}
			continue
		default:
			return total, eof(c.readError(err))
		}
		pieces = s.pieces // keep what append has grown
		n, werr := write(&s.pieces)
		clear(pieces[:cap(pieces)])
		total += n
		if n > 0 {
			if _, err := c.ep.Read(&discard{n: int(n)}, tcpip.ReadOptions{}); err != nil {
				return total, OpError("read", c.remote, err)
			}
			c.consumed(int(n))
		}
		if werr != nil {
			return total, werr
		}
	}
}

// pushAll writes all of b, as net.Buffers.WriteTo does to a socket.
func (c *Conn) pushAll(b *net.Buffers) (total int64, err error) {
	p := piecesPayload{left: b}
	for _, piece := range *b {
		p.bytes += len(piece)
	}
	for p.bytes > 0 {
		n, err := c.push(&p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

// piecesPayload is slicePayload over several pieces.
type piecesPayload struct {
	left  *net.Buffers
	bytes int // in left
}

func (p *piecesPayload) Len() int { return p.bytes }

func (p *piecesPayload) Read(b []byte) (int, error) {
	if p.bytes == 0 {
		return 0, io.EOF
	}
	n, _ := p.left.Read(b) // comes short only where nothing is left
	p.bytes -= n
	return n, nil
}

// ReadFrom sends what r gives until its end, which is no error.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if sc, ok := r.(syscall.Conn); ok {
		if n, handled, err := c.readFromSocket(sc); handled {
			return n, err
		}
	}
	buf := copyPool.Get().(*[]byte)
	defer copyPool.Put(buf)
	var total int64
	for {
		n, err := r.Read(*buf)
		if n > 0 {
			m, werr := c.Write((*buf)[:n])
			total += int64(m)
			if werr != nil {
				return total, werr
			}
		}
		if err != nil {
			return total, eof(err)
		}
	}
}
