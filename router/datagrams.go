package router

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// carryDatagrams carries a flow of datagrams until the client's side ends or the upstream is closed. The stack ends the client's side
// when the flow is idle. ICMP errors do not end the flow (RFC 4787, REQ-12): the client gets them, as it would without us. filter is
// between the client and the upstream. If it is nil, everything passes. kept is as in carryStream.
func (s *relay) carryDatagrams(ctx context.Context, a Answerer, filter *helloFilter) (kept bool) {
	client, upstream := s.client, s.upstream
	d := &datagrams{icmpErrors: icmpErrors{client: client, upstream: unwrapped(upstream)}, filter: filter}
	d.boundPath()
	s.running, s.datagrams = 2, d
	if filter != nil {
		filter.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx)) // the flow may outlive its handler
		if c, ok := client.(interface{ OnEnd(func()) }); ok {
			c.OnEnd(s.cancel) // nobody reads from the client while a hello is judged
		}
	}
	s.e.carriedBy(client)
	stop := s.begin(ctx, a)
	up := s.pump(d.to(), client, func(err error) {
		s.reset(false)
		if !errors.Is(err, errPanicked) {
			err = nil // what the client's side ends with says nothing
		}
		s.leave(err)
	})
	down := s.pump(client, upstream, func(err error) { s.ended(err, client) })
	up.move, down.move = d.up, d.down
	s.start(up, down)
	return s.wait(stop)
}

// datagrams is what a flow of them has that a stream has not.
type datagrams struct {
	icmpErrors
	filter *helloFilter // nil if there is none
}

// to is where what the client sends goes.
func (d *datagrams) to() io.Writer {
	if d.filter != nil {
		return d.filter
	}
	return d.upstream
}

// over is called once both directions have ended. Where nothing came back but ICMP errors, it returns the last of them.
func (d *datagrams) over() error {
	if d.filter != nil {
		d.filter.letGo()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if c, ok := d.client.(counted); ok && d.last != nil {
		if _, out := c.Bytes(); out == 0 {
			return d.last
		}
	}
	return nil
}

// up copies what the client sends.
func (d *datagrams) up(dst io.Writer, src net.Conn) (n int64, err error) {
	return copyDatagrams(dst, src, d.pass)
}

// down copies what comes back, and passes on the errors among it.
func (d *datagrams) down(dst io.Writer, _ net.Conn) (n int64, err error) {
	for {
		some, err := copyDatagrams(dst, d.upstream, nil)
		n += some
		if !d.pass(err) {
			return n, err
		}
	}
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

// copyDatagrams copies until src ends or dst is closed. n is how many datagrams src gave. If dst refuses one, it is lost, as on any
// network. If refused, which may be nil, finds that the error was about an earlier one, the datagram is sent again.
func copyDatagrams(dst io.Writer, src net.Conn, refused func(error) bool) (n int64, err error) {
	send := func(b []byte) error {
		n++
		_, err := dst.Write(b)
		if err != nil && refused != nil && refused(err) {
			_, err = dst.Write(b) // the kernel reports an ICMP error once, in place of sending
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, errNoMore) {
			return err
		}
		return nil
	}
	together := func([][]byte) (int, error) { return 0, nil }
	if u, ok := dst.(*net.UDPConn); ok {
		together = (&alike{conn: u}).send
	}
	all := func(list [][]byte) error {
		for len(list) > 0 {
			left, err := together(list)
			if err != nil && refused != nil {
				refused(err)
			}
			if left > 0 {
				n += int64(left)
				list = list[left:]
				continue
			}
			if err := send(list[0]); err != nil {
				return err
			}
			list = list[1:]
		}
		return nil
	}
	if many, ok := dst.(interface{ WriteAll([][]byte) error }); ok && refused == nil {
		all = func(list [][]byte) error {
			n += int64(len(list))
			if err := many.WriteAll(list); errors.Is(err, net.ErrClosed) {
				return err
			}
			return nil
		}
	}
	if each, ok := src.(interface {
		Each(func([][]byte) error) error
	}); ok { // a stack's flow passes queued datagrams
		err = each.Each(all) // changes n
		return n, err
	}
	if handled, err := eachFromSocket(src, all); handled {
		return n, err
	}
	buf := bufferPool.Get().(*[]byte)
	defer bufferPool.Put(buf)
	for {
		size, err := src.Read(*buf)
		if err != nil {
			return n, err
		}
		if err := send((*buf)[:size]); err != nil {
			return n, err
		}
	}
}
