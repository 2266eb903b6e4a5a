package dnsproxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"penstock/dnsproxy/pipe"
	"penstock/policy"
	"penstock/stack/deadline"
)

// DialFlow makes the server an egress: the flow's client talks to the server over the connection that is returned, wherever the
// flow was bound for. Over UDP each Write is a query and each Read an answer; over TCP the connection has the TCP framing and
// CloseWrite. The policy judges the questions with the facts in f. Only the values of ctx are used: the connection lasts until
// Close, until [Server.CloseClient] for f.Client, or until Run ends.
func (s *Server) DialFlow(ctx context.Context, f policy.Flow) (net.Conn, error) {
	switch f.Network {
	case policy.UDP:
		return s.dialPackets(ctx, f)
	case policy.TCP:
		return s.dialStream(ctx, f)
	}
	return nil, fmt.Errorf("dnsproxy: dial: network %d carries no DNS", f.Network)
}

// packetQueue is how many answers wait for a Read. More are lost, as datagrams are.
const packetQueue = 512

// packetConn is the client's end of a UDP flow to the server.
type packetConn struct {
	server *Server
	flow   policy.Flow
	ctx    context.Context // the lifetime of the connection
	cancel context.CancelFunc
	read   deadline.Deadline
	came   chan struct{} // of one: there are answers

	mu      sync.Mutex // guards below
	answers [][]byte
	then    func() // what waits to be told that there are; nil unless somebody does
}

func (s *Server) dialPackets(ctx context.Context, f policy.Flow) (net.Conn, error) {
	if !s.tasks.begin() {
		return nil, errClosed
	}
	defer s.tasks.end()
	if f.Client == 0 {
		f.Client = AddressKey(f.Src.Addr())
	}
	ctx, cancel := s.tasks.context(context.WithoutCancel(ctx), f.Client)
	c := &packetConn{server: s, flow: f, ctx: ctx, cancel: cancel, came: make(chan struct{}, 1)}
	context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.tellLocked()
	})
	return c, nil
}

func (c *packetConn) Write(query []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, net.ErrClosed
	}
	ex := c.server.start(c.flow.Src, &c.flow, c)
	c.server.serve(c.ctx, ex, query)
	return len(query), nil
}

func (c *packetConn) answer(ex *exchange) error {
	switch {
	case len(ex.out) == 0:
		return nil
	case c.ctx.Err() != nil: // it says that the question was given up
		return net.ErrClosed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) == packetQueue {
		return fmt.Errorf("%d answers wait already", packetQueue)
	}
	c.answers = append(c.answers, bytes.Clone(ex.out))
	c.tellLocked()
	return nil
}

// tellLocked wakes what waits for answers.
func (c *packetConn) tellLocked() {
	if then := c.then; then != nil {
		c.then = nil
		go then()
		return
	}
	select {
	case c.came <- struct{}{}:
	default:
	}
}

// WhenReadable calls f once, in a goroutine of its own, when there is an answer, or the connection has ended. Nobody may read meanwhile.
func (c *packetConn) WhenReadable(f func()) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) > 0 || c.ctx.Err() != nil {
		go f()
		return true
	}
	c.then = f
	return true
}

func (c *packetConn) Read(buf []byte) (int, error) {
	msg, err := c.next()
	return copy(buf, msg), err
}

// Each hands every answer to f, until f or the connection returns an error. It needs no buffer of the caller's.
func (c *packetConn) Each(f func([]byte) error) error {
	for {
		msg, err := c.next()
		if err != nil {
			return err
		}
		if err := f(msg); err != nil {
			return err
		}
	}
}

// next waits for an answer.
func (c *packetConn) next() ([]byte, error) {
	for {
		if msg := c.take(); msg != nil {
			return msg, nil
		}
		select {
		case <-c.came:
		case <-c.ctx.Done():
			return nil, net.ErrClosed
		case <-c.read.Passed():
			return nil, os.ErrDeadlineExceeded
		}
	}
}

// take takes the oldest answer, or nil.
func (c *packetConn) take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) == 0 {
		return nil
	}
	msg := c.answers[0]
	if c.answers[0] = nil; len(c.answers) == 1 {
		c.answers = c.answers[:0:0]
	} else {
		c.answers = c.answers[1:]
		c.tellLocked() // for other readers
	}
	return msg
}

func (c *packetConn) Close() error {
	c.cancel()
	c.read.Set(time.Time{})
	return nil
}

func (c *packetConn) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(c.flow.Src) }
func (c *packetConn) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(c.flow.Dst) }

func (c *packetConn) SetDeadline(t time.Time) error     { return c.SetReadDeadline(t) }
func (c *packetConn) SetReadDeadline(t time.Time) error { c.read.Set(t); return nil }

// SetWriteDeadline does nothing: a Write never waits.
func (c *packetConn) SetWriteDeadline(time.Time) error { return nil }

func (s *Server) dialStream(ctx context.Context, f policy.Flow) (net.Conn, error) {
	if !s.tasks.begin() {
		return nil, errClosed
	}
	defer s.tasks.end()
	near, far := pipe.New(net.TCPAddrFromAddrPort(f.Src), net.TCPAddrFromAddrPort(f.Dst))
	ctx = context.WithoutCancel(ctx)
	s.tasks.spawn(func() {
		if err := s.serveStream(ctx, f, far); err != nil {
			s.cfg.Log.Debug("dns flow ended", "src", f.Src, "err", err)
		}
	})
	return near, nil
}
