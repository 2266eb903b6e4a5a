package router

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"

	"penstock/policy"
)

// carry copies data both ways until both sides are done. It closes upstream. kept reports that the flow goes on without its handler.
func (r *Router) carry(ctx context.Context, a Answerer, e *entry, client, upstream net.Conn) (kept bool) {
	if e.facts.network() == policy.TCP {
		return r.carryStream(ctx, a, e, client, upstream, nil)
	}
	return (&relay{r: r, e: e, client: client, upstream: upstream}).carryDatagrams(ctx, a, nil)
}

// abort closes a connection, with RST if it is TCP.
func abort(c net.Conn) {
	switch c := unwrapped(c).(type) {
	case interface{ Abort() }:
		c.Abort()
		return
	case *net.TCPConn:
		c.SetLinger(0)
	}
	c.Close()
}

func closeWrite(c net.Conn) error {
	if w, ok := unwrapped(c).(interface{ CloseWrite() error }); ok {
		err := w.CloseWrite()
		if errors.Is(err, syscall.ENOTCONN) { // the peer closed first
			return nil
		}
		return err
	}
	return c.Close()
}

// copyStream copies src to dst by the fastest way that both support. It returns nil at the end of src.
func copyStream(dst io.Writer, src net.Conn) (n int64, err error) {
	if _, socket := src.(*net.TCPConn); socket {
		if rf, ok := dst.(io.ReaderFrom); ok { // a stack reads from the socket straight into its segments
			return rf.ReadFrom(src)
		}
	} else if wt, ok := src.(io.WriterTo); ok {
		return wt.WriteTo(dst)
	}
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
}

var bufferPool = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// errNoMore is the error with which a filter ends a flow.
var errNoMore = errors.New("the policy ended the flow")

// ordinary drops errors with which flows normally end.
func ordinary(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}
