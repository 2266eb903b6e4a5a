package nowait

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Writer writes to a stream. Use it for one call at a time.
type Writer struct {
	raw   syscall.RawConn
	parts []unix.Iovec
	from  *net.Buffers
	n     int64
	err   error
	call  func(fd uintptr) bool // w.all
}

// NewWriter returns a Writer to a connection, whose deadlines and end it minds.
func NewWriter(c *net.TCPConn) *Writer {
	raw, _ := c.SyscallConn() // only nil has none
	w := &Writer{raw: raw}
	w.call = w.all
	return w
}

// WriteBuffers writes all buffers, which it takes from the front as net.Buffers.WriteTo does, and returns how many bytes were written.
func (w *Writer) WriteBuffers(b *net.Buffers) (int64, error) {
	w.from, w.n, w.err = b, 0, nil
	err := w.raw.Write(w.call)
	w.from = nil
	switch {
	case err != nil:
		return w.n, err
	case w.err != nil:
		return w.n, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("sendmsg", w.err)}
	}
	return w.n, nil
}

// all writes until nothing is left or the socket is full.
func (w *Writer) all(fd uintptr) (over bool) {
	for len(*w.from) > 0 {
		w.parts = w.parts[:0]
		for _, b := range (*w.from)[:min(len(*w.from), MaxParts)] {
			w.parts = append(w.parts, Part(b))
		}
		n, err := Send(int(fd), w.parts)
		clear(w.parts)
		if err == unix.EAGAIN {
			return false
		}
		if err != nil {
			w.err = err
			return true
		}
		w.n += int64(n)
		take(w.from, n)
	}
	return true
}

// take takes n bytes from the front.
func take(b *net.Buffers, n int) {
	for n > 0 || len(*b) > 0 && len((*b)[0]) == 0 {
		first := (*b)[0]
		if n < len(first) {
			(*b)[0] = first[n:]
			return
		}
		n -= len(first)
		(*b)[0] = nil
		*b = (*b)[1:]
	}
}

// Reader reads from a stream. Use it for one call at a time.
type Reader struct {
	raw  syscall.RawConn
	into []byte
	n    int
	err  error
	call func(fd uintptr) bool // r.once
}

// NewReader returns a Reader from a connection, whose deadlines and end it minds.
func NewReader(c *net.TCPConn) *Reader {
	raw, _ := c.SyscallConn() // only nil has none
	r := &Reader{raw: raw}
	r.call = r.once
	return r
}

// Read implements io.Reader.
func (r *Reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	r.into = b
	err := r.raw.Read(r.call)
	r.into = nil
	switch {
	case err != nil:
		return 0, err
	case r.err != nil:
		return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("recvfrom", r.err)}
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

func (r *Reader) once(fd uintptr) (over bool) {
	r.n, r.err = Receive(int(fd), r.into)
	return r.err != unix.EAGAIN
}
