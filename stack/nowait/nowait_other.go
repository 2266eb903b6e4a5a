//go:build !linux

package nowait

import (
	"io"
	"net"
)

// Writer writes to a stream. Use it for one call at a time.
type Writer struct{ conn *net.TCPConn }

// NewWriter returns a Writer to a connection, whose deadlines and end it minds.
func NewWriter(c *net.TCPConn) *Writer { return &Writer{c} }

// WriteBuffers writes all buffers, which it takes from the front as net.Buffers.WriteTo does, and returns how many bytes were written.
func (w *Writer) WriteBuffers(b *net.Buffers) (int64, error) { return b.WriteTo(w.conn) }

// NewReader returns a reader from a connection, whose deadlines and end it minds. Use it for one call at a time.
func NewReader(c *net.TCPConn) io.Reader { return c }
