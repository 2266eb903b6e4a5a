package stream

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"penstock/stack/nowait"
)

// maxSocketRead bounds what one look at a socket moves into the send buffer.
const maxSocketRead = 256 << 10

// readFromSocket is ReadFrom for a kernel stream socket: it asks the socket how much it holds, and lets gVisor read just
// that into the segments it will send. While the socket is silent nothing is held.
func (c *Conn) readFromSocket(sc syscall.Conn) (total int64, handled bool, err error) {
	if _, ok := sc.(*net.TCPConn); !ok {
		return 0, false, nil
	}
	rc, err := sc.SyscallConn()
	if err != nil {
		return 0, true, err
	}
	m := &socketMove{c: c}
	step := m.step // one closure for the life of the flow
	for {
		if err := rc.Read(step); err != nil {
			return m.total, true, err
		}
		if _, full := m.werr.(*tcpip.ErrWouldBlock); full {
			if c.isEnded() {
				return m.total, true, c.opError("write", net.ErrClosed)
			}
			if err := c.wait(&c.writable, &c.writeBy); err != nil {
				return m.total, true, c.opError("write", err)
			}
			continue
		}
		switch {
		case m.werr != nil:
			return m.total, true, OpError("write", c.remote, m.werr)
		case m.err == io.EOF:
			return m.total, true, nil
		case m.err != nil:
			return m.total, true, os.NewSyscallError("read", m.err)
		case c.isEnded():
			return m.total, true, c.opError("write", net.ErrClosed)
		}
	}
}

// socketMove moves bytes from a socket into a connection's send buffer. It is the tcpip.Payloader itself.
type socketMove struct {
	c     *Conn
	fd    int
	left  int         // bytes that the socket is known to hold
	err   error       // of the socket
	werr  tcpip.Error // of the connection
	total int64
}

// step moves what there is. It reports false to be called again when the socket is readable, and never waits: the
// socket cannot be closed meanwhile.
func (m *socketMove) step(fd uintptr) bool {
	m.fd, m.err, m.werr = int(fd), nil, nil
	if !m.look() {
		return false
	}
	for m.left > 0 && m.err == nil && m.werr == nil {
		n, err := m.c.ep.Write(m, tcpip.WriteOptions{})
		m.total += n
		m.c.sent(int(n))
		m.werr = err
	}
	return true
}

// look asks how many bytes wait in the socket. It reports false if there are none yet.
func (m *socketMove) look() bool {
	n, err := nowait.Readable(m.fd)
	if err != nil {
		m.left, m.err = 0, err
		return true
	}
	m.left = min(n, maxSocketRead)
	if m.left > 0 {
		return true
	}
	// Nothing waits: the end, an error, or not yet.
	var one [1]byte
	n, err = nowait.Peek(m.fd, one[:])
	switch {
	case err == unix.EAGAIN:
		return false
	case err != nil:
		m.err = err
	case n == 0:
		m.err = io.EOF
	default: // it came between the two calls
		m.left = 1
		if n, err := nowait.Readable(m.fd); err == nil {
			m.left = max(1, min(n, maxSocketRead))
		}
	}
	return true
}

func (m *socketMove) Len() int { return m.left }

// Read fills b from the socket. It cannot fail: gVisor throws away what it has read when a Payloader fails, and spins
// when one ends early. So a read that comes up short is filled with zeros, and err ends the flow. That should never
// happen, because nobody else reads the socket and the kernel has said how much it holds.
func (m *socketMove) Read(b []byte) (int, error) {
	if m.left == 0 {
		return 0, io.EOF
	}
	if len(b) == 0 {
		return 0, nil
	}
	b = b[:min(len(b), m.left)]
	n, err := nowait.Receive(m.fd, b)
	switch {
	case err == nil && n > 0:
		m.left -= n
		return n, nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	m.err = err
	clear(b)
	m.left -= len(b)
	return len(b), nil
}
