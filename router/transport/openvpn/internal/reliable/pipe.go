package reliable

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// maxUnread bounds what a peer can make us keep: far above a TLS handshake and a 64 KiB push.
const maxUnread = 256 << 10

// ErrFlooded says that the peer sends faster than TLS reads.
var ErrFlooded = errors.New("control channel flooded")

// Pipe is the net.Conn that TLS runs over: reads block for in-order payload, writes are collected for the Stream and
// never block. One side is TLS (Read, Write, Close), the other is the session (Deliver, Take, Fail).
type Pipe struct {
	wake func() // called after a Write, outside the lock

	mu   sync.Mutex // guards below
	cond *sync.Cond
	in   []byte
	out  []byte
	err  error
}

var _ net.Conn = (*Pipe)(nil)

// NewPipe makes a pipe; wake must not block.
func NewPipe(wake func()) *Pipe {
	p := &Pipe{wake: wake}
	p.cond = sync.NewCond(&p.mu)
	return p
}

// Deliver hands payload to the reader.
func (p *Pipe) Deliver(payload []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.in)+len(payload) > maxUnread {
		return ErrFlooded
	}
	p.in = append(p.in, payload...)
	p.cond.Signal()
	return nil
}

// Take removes up to n bytes of what was written.
func (p *Pipe) Take(n int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(n, len(p.out))
	b := p.out[:n:n]
	p.out = p.out[n:]
	return b
}

// Fail ends reads and writes with err.
func (p *Pipe) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.cond.Broadcast()
}

// Read blocks until there is payload, or the pipe has failed.
func (p *Pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.in) == 0 {
		if p.err != nil {
			return 0, p.err
		}
		p.cond.Wait()
	}
	n := copy(b, p.in)
	p.in = p.in[n:]
	return n, nil
}

// Write never blocks.
func (p *Pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	if p.err != nil {
		p.mu.Unlock()
		return 0, p.err
	}
	p.out = append(p.out, b...)
	p.mu.Unlock()
	p.wake()
	return len(b), nil
}

// Close fails the pipe.
func (p *Pipe) Close() error {
	p.Fail(io.ErrClosedPipe)
	return nil
}

// LocalAddr is a name without meaning.
func (p *Pipe) LocalAddr() net.Addr { return pipeAddr{} }

// RemoteAddr is a name without meaning.
func (p *Pipe) RemoteAddr() net.Addr { return pipeAddr{} }

// SetDeadline is not supported: the session ends a negotiation with Fail.
func (p *Pipe) SetDeadline(time.Time) error { return os.ErrNoDeadline }

// SetReadDeadline is not supported.
func (p *Pipe) SetReadDeadline(time.Time) error { return os.ErrNoDeadline }

// SetWriteDeadline is not supported: writes never block.
func (p *Pipe) SetWriteDeadline(time.Time) error { return nil }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "openvpn" }
func (pipeAddr) String() string  { return "control" }
