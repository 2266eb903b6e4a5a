package router

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// listener is a server that says nothing until it has received something, and then says its name. It keeps what it received.
type listener struct {
	addr string

	mu       sync.Mutex // guards below
	received bytes.Buffer
}

func newListener(t *testing.T, name string) *listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{addr: ln.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for said := false; ; said = true {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					l.mu.Lock()
					l.received.Write(buf[:n])
					l.mu.Unlock()
					if !said {
						fmt.Fprintln(c, name)
					}
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return l
}

func (l *listener) got() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.received.String()
}

// On ports where the server may speak first, what the client sends first is judged before it leaves.
func TestNamesOnEveryPort(t *testing.T) {
	get := func(host string) string { return "GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }
	hello := string(clientHello("bad.bet"))
	rows := []struct {
		name string
		send []string // with pauses in between
		want string   // the first line that the client gets; "reset"
		out  string   // what the server of the first verdict may have received; "*" is everything sent
	}{
		{"an allowed SNI goes out", []string{string(clientHello("good.example"))}, "out", "*"},
		{"a blocked SNI is reset", []string{hello}, "reset", ""},
		{"a blocked SNI in pieces gets no further than what could be anything", []string{hello[:3], hello[3:50], hello[50:]}, "out", hello[:3]},
		{"an SNI can choose the egress", []string{string(clientHello("intra.corp"))}, "corp", ""},
		{"an allowed Host goes out", []string{get("good.example")}, "out", "*"},
		{"a Host can choose the egress", []string{get("intra.corp")}, "corp", ""},
		{"a blocked Host gets a page", []string{get("bad.bet")}, "HTTP/1.1 403 Forbidden", ""},
		{"a blocked Host in pieces gets no further than its first word", []string{"GE", "T / HTTP/1.1\r\n", get("bad.bet")[len("GET / HTTP/1.1\r\n"):]}, "out", "GE"},
		{"a blocked second request is not sent", []string{get("good.example"), get("bad.bet")}, "out", get("good.example")},
		{"a protocol without names passes", []string{"SSH-2.0-client\r\n"}, "out", "*"},
		{"single letters pass", []string{"h", "e", "l", "p", "\n"}, "out", "*"},
		{"a word and silence passes", []string{"HELO"}, "out", "*"},
		{"two words without an end of line pass", []string{"last words"}, "out", "*"},
		{"a blocked Host behind a pause in the first line is not sent", []string{"GET /", " HTTP/1.1\r\nHost: bad.bet\r\n\r\n"}, "out", "GET /"},
		{"a text without an end of line, longer than any head, passes", []string{strings.Repeat("and from me", 100000)}, "out", "*"},
		{"and its later lines", []string{strings.Repeat("and from me", 20000), "\nGET / HTTP/1.1\n"}, "out", "*"},
		{"settings of HTTP/2 go out before any request", []string{settings2}, "out", "*"},
		{"a blocked request behind them is not sent", []string{settings2, request2("bad.bet")}, "out", settings2},
		{"a request right behind them can choose the egress", []string{settings2 + request2("intra.corp")}, "corp", ""},
		{"bytes that are nobody's", []string{"\x00\x01\x02"}, "out", "*"},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			out, corp := newListener(t, "out"), newListener(t, "corp")
			w := newWorld(t, Config{
				Policy: decide(byName), Ways: ways{"out": dialTo(out.addr), "corp": dialTo(corp.addr)}, SniffTimeout: 50 * time.Millisecond,
			})
			c := newClient(t)
			w.handle(c, 4443)
			for i, s := range row.send {
				if i > 0 {
					time.Sleep(150 * time.Millisecond)
				}
				io.WriteString(c, s)
			}
			line, err := bufio.NewReader(c).ReadString('\n')
			got := strings.TrimSpace(line)
			if errors.Is(err, syscall.ECONNRESET) || err == io.EOF {
				got = "reset"
			}
			if got != row.want {
				t.Errorf("got %q, %v; want %q", got, err, row.want)
			}
			want := row.out
			if want == "*" {
				want = strings.Join(row.send, "")
			}
			limit := time.Now().Add(5 * time.Second)
			for len(out.got()) < len(want) && time.Now().Before(limit) {
				time.Sleep(time.Millisecond)
			}
			c.Close()
			if f := <-w.ended; f.Verdict.Rule == "" {
				t.Errorf("the record has no rule: %+v", f)
			}
			if got := out.got(); got != want {
				t.Errorf("the first server received %q, want %q", got, want)
			}
			if row.want == "corp" && corp.got() != strings.Join(row.send, "") {
				t.Errorf("the other server received %q, want all", corp.got())
			}
		})
	}
}

// Of a request whose first line is longer than what is read for a name, the rest is read all the same.
func TestAnEndlessRequestLineShowsNoHost(t *testing.T) {
	out := newListener(t, "out")
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(out.addr)}})
	c := newClient(t)
	w.handle(c, 8880)
	for _, s := range []string{"GET /" + strings.Repeat("x", 300<<10), " HTTP/1", ".1\r\nHost: bad.bet\r\n\r\n"} {
		io.WriteString(c, s)
		time.Sleep(50 * time.Millisecond)
	}
	<-w.ended
	if got := out.got(); strings.Contains(got, "Host") {
		t.Errorf("the server received the line and %q", got[strings.Index(got, "\n"):])
	}
}

func TestALateClientThatEndsIsPassedOn(t *testing.T) {
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(echoServer(t, "220 hello"))}})
	c := newClient(t)
	w.handle(c, 25)
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); line != "220 hello\n" {
		t.Fatalf("got %q, %v; want the greeting", line, err)
	}
	io.WriteString(c, "last words")
	if err := c.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(r)
	if string(rest) != "last words" || err != nil {
		t.Errorf("after the client's end: got %q, %v; want its echo and an end", rest, err)
	}
	if f := <-w.ended; f.Err != "" {
		t.Errorf("got a flow that ended with %q, want none", f.Err)
	}
}

func TestAKilledLateFlowIsResetOnBothSides(t *testing.T) {
	out := newListener(t, "out")
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(out.addr)}})
	c := newClient(t)
	w.handle(c, 4443)
	c.got(t)
	w.Kill(func(Flow) bool { return true })
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v, want a reset", err)
	}
	<-w.ended
}

func TestAServerThatEndsFirstHearsTheRest(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	heard := make(chan string, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "bye")
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c)
		heard <- string(all)
	}()
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": dialTo(ln.Addr().String())}})
	c := newClient(t)
	w.handle(c, 25)
	if all, err := io.ReadAll(c); string(all) != "bye" || err != nil {
		t.Fatalf("got %q, %v; want the server's words and its end", all, err)
	}
	for _, s := range []string{"one ", "two ", "three"} {
		time.Sleep(20 * time.Millisecond)
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatal(err)
		}
	}
	c.Conn.(*net.TCPConn).CloseWrite()
	if got := <-heard; got != "one two three" {
		t.Errorf("the server heard %q, want all", got)
	}
	<-w.ended
}

// lateConn is an upstream whose first bytes were read before it was closed, and are delivered after.
type lateConn struct {
	net.Conn // nil
	closed   chan struct{}
	close    func()
	said     bool
}

func newLateConn() *lateConn {
	c := &lateConn{closed: make(chan struct{})}
	c.close = sync.OnceFunc(func() { close(c.closed) })
	return c
}

func (c *lateConn) Read(b []byte) (int, error) {
	<-c.closed
	if c.said {
		return 0, net.ErrClosed
	}
	c.said = true
	return copy(b, "out\n"), nil
}

func (c *lateConn) Write(b []byte) (int, error) { return len(b), nil }
func (c *lateConn) Close() error                { c.close(); return nil }

func (c *lateConn) DialContext(context.Context, string, string) (net.Conn, error) { return c, nil }

// countedConn counts what its client has sent and received, as a stack's flow does.
type countedConn struct {
	net.Conn
	out atomic.Uint64
}

func (c *countedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(uint64(n))
	return n, err
}

func (c *countedConn) Bytes() (in, out uint64) { return 0, c.out.Load() }
func (c *countedConn) Abort()                  { abort(c.Conn) }

// The greeting of the first server may be on its way to the client when the name asks for another one.
func TestAClientNeverHearsTwoServers(t *testing.T) {
	corp := newListener(t, "corp")
	w := newWorld(t, Config{Policy: decide(byName), Ways: ways{"out": newLateConn(), "corp": dialTo(corp.addr)}, SniffTimeout: 50 * time.Millisecond})
	c := newClient(t)
	c.near = &countedConn{Conn: c.near}
	w.handle(c, 4443)
	c.Write(clientHello("intra.corp"))
	got, err := io.ReadAll(c)
	if strings.Contains(string(got), "corp") || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %q, %v; want no more than the greeting", got, err)
	}
}

// A client that sends a word without a line's end and then ends its side, as printf word | nc -N does, is heard by the server, on a web
// port as on any other.
func TestAWordBeforeTheEndReachesTheServer(t *testing.T) {
	for _, row := range []struct {
		name  string
		port  uint16
		pause time.Duration
	}{
		{"another port", 25, 0},
		{"a web port, at once", 443, 0},
		{"a web port, after the time for a name", 443, time.Second},
		{"another port, after the time for a name", 25, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			got := make(chan string, 1)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				all, err := io.ReadAll(c)
				if err != nil {
					got <- err.Error()
					return
				}
				got <- string(all)
			}()
			w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": dialTo(ln.Addr().String())}})
			c := newClient(t)
			w.handle(c, row.port)
			time.Sleep(row.pause)
			io.WriteString(c, "hello")
			c.Conn.(*net.TCPConn).CloseWrite()
			select {
			case all := <-got:
				if all != "hello" {
					t.Errorf("the server got %q and the end, want hello", all)
				}
			case <-time.After(5 * time.Second):
				_, err := c.Read(make([]byte, 1))
				t.Errorf("the server got nothing, and no connection; the client: %v", err)
			}
		})
	}
}
