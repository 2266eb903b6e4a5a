package stack

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"penstock/stack/datagram"
	"penstock/stack/stream"
)

// keptFlow is a flow that was kept.
type keptFlow struct {
	c    *stream.Conn
	over func()
}

// keepOn is a handler that accepts each flow, keeps it and returns.
func keepOn(flows chan<- keptFlow, returned chan<- context.Context) func(context.Context, *Request) {
	return func(ctx context.Context, r *Request) {
		defer func() { returned <- ctx }()
		if _, ok := r.Keep(); ok {
			panic("a flow was kept that was not accepted")
		}
		c, err := r.Accept()
		if err != nil {
			return
		}
		over, ok := r.Keep()
		if ok {
			flows <- keptFlow{c.(*stream.Conn), over}
		}
	}
}

func TestAKeptFlowOutlivesItsHandler(t *testing.T) {
	flows, returned := make(chan keptFlow, 1), make(chan context.Context, 1)
	p := newPair(t, byPipe, Limits{}, keepOn(flows, returned))
	c := p.dial(t, "tcp", "203.0.113.9:80")
	ctx, f := within(t, returned), within(t, flows)
	within(t, ctx.Done()) // its context ends with the handler
	if _, err := io.WriteString(c, "up"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8)
	if n, err := f.c.Read(b); err != nil || string(b[:n]) != "up" {
		t.Fatalf("got %q, %v; want what the client sent", b[:n], err)
	}
	if _, err := io.WriteString(f.c, "down"); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(b); err != nil || string(b[:n]) != "down" {
		t.Fatalf("got %q, %v; want what the server sent", b[:n], err)
	}
	if n := p.server.tcp.open.Len(); n != 1 {
		t.Errorf("got %d open flows, want 1", n)
	}
	f.over()
	if _, err := c.Read(b); err != io.EOF {
		t.Errorf("got %v once the flow was over, want its end", err)
	}
	if n := p.server.tcp.open.Len(); n != 0 {
		t.Errorf("got %d open flows once it was over, want none", n)
	}
}

func TestCloseEndsKeptFlowsAndWaitsForThem(t *testing.T) {
	flows, returned := make(chan keptFlow, 1), make(chan context.Context, 1)
	p := newPair(t, byPipe, Limits{}, keepOn(flows, returned))
	p.dial(t, "tcp", "203.0.113.9:80")
	f := within(t, flows)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.server.Close()
	}()
	if _, err := f.c.Read(make([]byte, 1)); err == nil {
		t.Error("the flow goes on after Close")
	}
	select {
	case <-closed:
		t.Error("Close has returned before the flow was over")
	default:
	}
	f.over()
	within(t, closed)
}

// keptDatagrams is a flow of datagrams that was kept, and of which the first was read.
type keptDatagrams struct {
	*datagram.Conn
	over func()
}

// keepDatagrams is a handler that accepts each flow of datagrams, keeps it and returns.
func keepDatagrams(flows chan<- keptDatagrams) func(context.Context, *Request) {
	return func(_ context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		if over, ok := r.Keep(); ok {
			c.Read(make([]byte, 8))
			flows <- keptDatagrams{c.(*datagram.Conn), over}
		}
	}
}

func TestAKeptFlowOfDatagramsOutlivesItsHandler(t *testing.T) {
	flows := make(chan keptDatagrams, 1)
	p := newPair(t, byPipe, Limits{}, keepDatagrams(flows))
	c := p.dial(t, "udp", "203.0.113.9:4000")
	io.WriteString(c, "first")
	f := within(t, flows)
	io.WriteString(c, "up")
	b := make([]byte, 8)
	if n, err := f.Read(b); err != nil || string(b[:n]) != "up" {
		t.Fatalf("got %q, %v; want what the client sent", b[:n], err)
	}
	io.WriteString(f, "down")
	if n, err := c.Read(b); err != nil || string(b[:n]) != "down" {
		t.Fatalf("got %q, %v; want what the server sent", b[:n], err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		p.server.Close()
	}()
	if _, err := f.Read(b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after Close, want net.ErrClosed", err)
	}
	select {
	case <-closed:
		t.Error("Close has returned before the flow was over")
	default:
	}
	f.over()
	within(t, closed)
}

// tellsOnce wants whenReadable to tell of something once: of what came before if it is asked after that, and else when it comes. arrives
// waits until it has come. late looks once more.
func tellsOnce(t *testing.T, what string, before bool, whenReadable func(func()) bool, come, arrives func()) (late func()) {
	t.Helper()
	told := make(chan struct{}, 8)
	tell := func() { told <- struct{}{} }
	if before {
		come()
		arrives()
		whenReadable(tell)
	} else {
		whenReadable(tell)
		select {
		case <-told:
			t.Errorf("%s: told before it came", what)
		default:
		}
		come()
	}
	within(t, told)
	return func() {
		t.Helper()
		if n := len(told); n != 0 {
			t.Errorf("%s: told %d times too many", what, n)
		}
	}
}

func TestDatagramsAreReadable(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(c *datagram.Conn, client io.Writer)
	}{
		{"a datagram", func(_ *datagram.Conn, client io.Writer) { io.WriteString(client, "x") }},
		{"Close of its own", func(c *datagram.Conn, _ io.Writer) { c.Close() }},
	} {
		for _, before := range []bool{true, false} {
			flows := make(chan keptDatagrams, 1)
			p := newPair(t, byPipe, Limits{}, keepDatagrams(flows))
			client := p.dial(t, "udp", "203.0.113.9:4000")
			io.WriteString(client, "first")
			f := within(t, flows)
			had, _ := f.Bytes()
			late := tellsOnce(t, row.name, before, f.WhenReadable, func() {
				row.make(f.Conn, client)
			}, func() {
				for limit := time.Now().Add(10 * time.Second); row.name == "a datagram" && time.Now().Before(limit); time.Sleep(time.Millisecond) {
					if has, _ := f.Bytes(); has > had {
						break
					}
				}
			})
			f.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			read := 0
			err := f.Each(func(list [][]byte) error { read += len(list); return nil })
			if row.name == "a datagram" && (read != 1 || !errors.Is(err, os.ErrDeadlineExceeded)) {
				t.Errorf("got %d datagrams and %v, want one, and the deadline", read, err)
			}
			f.over()
			p.server.Close()
			late()
		}
	}
}

func TestWhenReadable(t *testing.T) {
	for _, row := range []struct {
		name string
		make func(c *stream.Conn, client io.WriteCloser)
	}{
		{"data", func(_ *stream.Conn, client io.WriteCloser) { io.WriteString(client, "x") }},
		{"the end", func(_ *stream.Conn, client io.WriteCloser) { client.(*stream.Conn).CloseWrite() }},
		{"a reset", func(_ *stream.Conn, client io.WriteCloser) { client.(*stream.Conn).Abort() }},
		{"Close of its own", func(c *stream.Conn, _ io.WriteCloser) { c.Close() }},
		{"Abort of its own", func(c *stream.Conn, _ io.WriteCloser) { c.Abort() }},
	} {
		for _, before := range []bool{true, false} {
			flows, returned := make(chan keptFlow, 1), make(chan context.Context, 1)
			p := newPair(t, byPipe, Limits{}, keepOn(flows, returned))
			client := p.dial(t, "tcp", "203.0.113.9:80")
			f := within(t, flows)
			late := tellsOnce(t, row.name, before, f.c.WhenReadable, func() { row.make(f.c, client) }, func() { f.c.WaitReadable() })
			f.over()
			p.server.Close()
			late()
		}
	}
}
