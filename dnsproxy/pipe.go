package dnsproxy

import (
	"io"
	"os"
	"sync"
	"time"

	"penstock/stack/deadline"
)

// pipeSize is how many octets wait for the reader before the writer does: one message of the largest size and another.
const pipeSize = 128 << 10

// pipe is one direction of a stream in memory. It has a buffer, as a socket has, so that a client which sends two queries before
// it reads the first answer does not stop the server.
type pipe struct {
	readBy, writeBy deadline.Deadline

	mu      sync.Mutex // guards below
	buf     []byte
	changed chan struct{} // closed and made anew when anything below changes
	ended   bool          // the writer has said all
	broken  bool          // nobody reads any more
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

// end says that no more comes; what is there can still be read.
func (p *pipe) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	p.changeLocked()
	p.writeBy.Set(time.Time{})
}

// cut says that nobody reads any more.
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
