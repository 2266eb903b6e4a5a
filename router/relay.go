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
	if e.flow.Network == policy.TCP {
		return r.carryStream(ctx, a, e, client, upstream, nil)
	}
	carryDatagrams(ctx, e, client, upstream, nil)
	return false
}

// carryDatagrams carries a flow of datagrams. filter is between the client and the upstream. If it is nil, everything passes.
func carryDatagrams(ctx context.Context, e *entry, client, upstream net.Conn, filter io.Writer) {
	defer upstream.Close()
	e.carriedBy(client)
	stop := context.AfterFunc(ctx, func() {
		abort(client)
		abort(upstream)
	})
	defer stop()
	if err := relayDatagrams(client, upstream, filter); err != nil && ctx.Err() == nil {
		e.fail("relay", err)
	}
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

// relayDatagrams copies datagrams both ways until the client's side ends or the upstream is closed. The stack ends the client's
// side when the flow is idle. ICMP errors do not end the flow (RFC 4787, REQ-12): the client gets them, as it would without us.
func relayDatagrams(client, upstream net.Conn, filter io.Writer) error {
	var up io.Writer = unwrapped(upstream)
	if filter != nil {
		up = filter
	}
	told := icmpErrors{client: client, upstream: unwrapped(upstream)}
	told.boundPath()
	var wg sync.WaitGroup
	wg.Go(func() {
		copyDatagrams(up, client, told.pass)
		upstream.Close()
	})
	var err error
	for {
		err = copyDatagrams(client, told.upstream, nil)
		if !told.pass(err) {
			break
		}
	}
	client.Close()
	wg.Wait()
	if c, ok := client.(counted); ok && told.last != nil {
		if _, out := c.Bytes(); out == 0 { // nothing else came back
			return told.last
		}
	}
	return ordinary(err)
}

// icmpErrors passes the ICMP errors that an upstream reports on to the client.
type icmpErrors struct {
	client, upstream net.Conn

	mu   sync.Mutex // guards below
	last error
}

// pass tells the client about err and reports whether it was an ICMP error, after which the flow goes on.
func (t *icmpErrors) pass(err error) bool {
	for _, cause := range []error{
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EACCES, syscall.EPERM, syscall.ENOPROTOOPT, syscall.EMSGSIZE,
	} {
		if !errors.Is(err, cause) {
			continue
		}
		t.mu.Lock()
		t.last = err
		t.mu.Unlock()
		if cause == syscall.EMSGSIZE {
			t.boundPath()
		} else if c, ok := t.client.(interface{ Unreachable(error) }); ok {
			c.Unreachable(cause)
		}
		return true
	}
	return false
}

// boundPath tells the client's side how large a packet may be on the path of the upstream.
func (t *icmpErrors) boundPath() {
	mtu := 0
	switch c := t.upstream.(type) {
	case *net.UDPConn:
		mtu = socketMTU(c)
	case interface{ PathMTU() int }:
		mtu = c.PathMTU()
	}
	if c, ok := t.client.(interface{ SetPathMTU(int) }); ok && mtu > 0 {
		c.SetPathMTU(mtu)
	}
}

// copyDatagrams copies until src ends or dst is closed. If dst refuses a datagram, it is lost, as on any network. If refused, which
// may be nil, finds that the error was about an earlier one, the datagram is sent again.
func copyDatagrams(dst io.Writer, src net.Conn, refused func(error) bool) error {
	send := func(b []byte) error {
		_, err := dst.Write(b)
		if err != nil && refused != nil && refused(err) {
			_, err = dst.Write(b) // the kernel reports an ICMP error once, in place of sending
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, errNoMore) {
			return err
		}
		return nil
	}
	if each, ok := src.(interface {
		Each(func([]byte) error) error
	}); ok { // a stack's flow passes each queued datagram
		return each.Each(send)
	}
	if handled, err := eachFromSocket(src, send); handled {
		return err
	}
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	for {
		n, err := src.Read(*buf)
		if err != nil {
			return err
		}
		if err := send((*buf)[:n]); err != nil {
			return err
		}
	}
}

// errNoMore is the error with which a filter ends a flow.
var errNoMore = errors.New("the policy ended the flow")

// ordinary drops errors with which flows normally end.
func ordinary(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}
