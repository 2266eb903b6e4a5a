package dnsproxy

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"penstock/dnsproxy/wire"
	"penstock/policy"
)

const (
	clientIdle     = 15 * time.Second // between two queries
	clientPatience = 5 * time.Second  // to send the rest of a query, and to accept an answer
	clientPending  = 64               // queries of one connection that wait for upstreams
)

// ErrTooManyConns says that a client, or all clients together, have reached their limit of TCP connections.
var ErrTooManyConns = errors.New("dnsproxy: too many connections")

// ServeConn answers the queries in TCP framing on conn, several at once and in any order, until the client closes it, is idle
// for 15 s or slow, or ctx is done. It closes conn. A client that disconnects or times out is no error.
func (s *Server) ServeConn(ctx context.Context, client netip.AddrPort, conn net.Conn) error {
	return s.serveStream(ctx, s.describe(unmapped(client)), conn)
}

// stream is a connection whose queries are in TCP framing.
type stream struct {
	net.Conn
	idle   time.Duration              // between two queries
	limits *limits                    // of connections
	conns  int                        // at most so many; 0: Settings.MaxConns
	again  func() (policy.Flow, bool) // who asks, before each query; false ends the connection. Nil: it cannot change
	asked  func(*exchange)            // told of each query. May be nil
}

// serveStream serves a connection of the client that sent flow.
func (s *Server) serveStream(ctx context.Context, flow policy.Flow, conn net.Conn) error {
	return s.serveQueries(ctx, flow, stream{Conn: conn, idle: clientIdle, limits: s.limits})
}

func (s *Server) serveQueries(ctx context.Context, flow policy.Flow, conn stream) error {
	defer conn.Close()
	if !s.tasks.begin() {
		return errClosed
	}
	defer s.tasks.end()
	if flow.Client == 0 {
		flow.Client = AddressKey(flow.Src.Addr())
	}
	settings := s.state.Load().settings
	settings.MaxConns = cmp.Or(conn.conns, settings.MaxConns)
	done, ok := conn.limits.connect(flow.Client, &settings)
	if !ok {
		s.cfg.Metrics.turnedAway()
		return ErrTooManyConns
	}
	defer done()
	ctx, cancel := s.tasks.context(ctx, flow.Client)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()

	to := &streamAnswerer{ctx: ctx, conn: conn, slots: make(chan struct{}, clientPending)}
	defer to.wait()
	var buf []byte
	for {
		to.slots <- struct{}{}
		msg, err := readQuery(conn, buf)
		if err != nil {
			<-to.slots
			return quiet(err)
		}
		buf = msg
		if conn.again != nil {
			now, ok := conn.again()
			if !ok || now.Client != flow.Client {
				<-to.slots
				return errNobody
			}
			flow = now
		}
		ex := s.start(flow.Src, &flow, to)
		ex.stream = true
		if conn.asked != nil {
			conn.asked(ex)
		}
		s.serve(ctx, ex, msg)
	}
}

// readQuery reads one message. A client may pause between messages, but not in the middle of one.
func readQuery(conn stream, buf []byte) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Now().Add(conn.idle)); err != nil {
		return nil, err
	}
	return wire.ReadFrame(begun{conn.Conn}, buf)
}

// begun shortens the read deadline of a connection as soon as something has been read.
type begun struct{ net.Conn }

func (b begun) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if n > 0 {
		b.SetReadDeadline(time.Now().Add(clientPatience))
	}
	return n, err
}

// quiet drops the errors with which connections normally end.
func quiet(err error) error {
	for _, usual := range []error{io.EOF, io.ErrUnexpectedEOF, io.ErrClosedPipe, net.ErrClosed, os.ErrDeadlineExceeded} {
		if errors.Is(err, usual) {
			return nil
		}
	}
	return fmt.Errorf("dnsproxy: read a query: %w", err)
}

// streamAnswerer writes the answers of one connection.
type streamAnswerer struct {
	ctx   context.Context // the lifetime of the connection
	conn  net.Conn
	slots chan struct{} // one for each query without its answer

	mu  sync.Mutex // guards below, and a frame is written whole
	buf []byte
}

func (t *streamAnswerer) answer(ex *exchange) error {
	defer func() { <-t.slots }()
	switch {
	case len(ex.out) == 0:
		return nil
	case t.ctx.Err() != nil: // it says that the question was given up
		return net.ErrClosed
	}
	if ex.private && ex.q.Padding {
		ex.out = wire.PadAnswer(ex.out)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = binary.BigEndian.AppendUint16(t.buf[:0], uint16(len(ex.out)))
	t.buf = append(t.buf, ex.out...)
	t.conn.SetWriteDeadline(time.Now().Add(clientPatience))
	_, err := t.conn.Write(t.buf)
	if err != nil {
		t.conn.Close()
	}
	return err
}

// wait waits for outstanding answers: a client that has closed its side for writing still reads.
func (t *streamAnswerer) wait() {
	for range cap(t.slots) {
		t.slots <- struct{}{}
	}
}

// ServeListener serves the connections of ln until ctx is done, closes ln, waits for them, and returns nil. It returns an error
// when accepting fails for good.
func (s *Server) ServeListener(ctx context.Context, ln net.Listener) error {
	return acceptAll(ctx, ln, func(client netip.AddrPort, conn net.Conn) {
		if !s.state.Load().serves(client.Addr()) {
			conn.Close()
			return
		}
		s.serveLogged(ctx, client, conn)
	})
}

// acceptAll serves each connection of ln on a goroutine, until ctx is done. It closes ln and waits for the goroutines.
func acceptAll(ctx context.Context, ln net.Listener, serve func(client netip.AddrPort, conn net.Conn)) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("dnsproxy: accept: %w", err)
		case err != nil: // out of descriptors, or the client has hung up already
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() { serve(addrPort(conn.RemoteAddr()), conn) })
	}
}

func (s *Server) serveLogged(ctx context.Context, client netip.AddrPort, conn net.Conn) {
	if err := s.ServeConn(ctx, client, conn); err != nil {
		s.cfg.Log.Debug("dns connection ended", "src", client, "err", err)
	}
}

// addrPort returns the address of a TCP or UDP peer, or the zero AddrPort for any other.
func addrPort(a net.Addr) netip.AddrPort {
	if at, ok := a.(interface{ AddrPort() netip.AddrPort }); ok {
		return unmapped(at.AddrPort())
	}
	return netip.AddrPort{}
}

// unmapped returns an IPv4 address for one that is mapped into IPv6.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
