package router

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"testing"
	"time"

	"penstock/policy"
)

// kept is a client whose flow may outlive its handler.
type kept struct {
	*client
	over chan struct{} // closed when the flow is over
}

func (k kept) Keep() (over func(), ok bool) { return func() { close(k.over) }, true }

// quietWorld is a world in which flows are quiet at once, and the far sides of its flows.
func quietWorld(t *testing.T, v policy.Verdict) (w *world, accepted <-chan net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	list := make(chan net.Conn, 256)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			list <- c
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	w = newWorld(t, Config{Policy: decideAlways(v), Ways: ways{"out": dialTo(ln.Addr().String())}})
	w.patience.quiet = time.Millisecond
	return w, list
}

// settle waits until at most n goroutines are left.
func settle(t *testing.T, n int) {
	t.Helper()
	for limit := time.Now().Add(20 * time.Second); runtime.NumGoroutine() > n; time.Sleep(time.Millisecond) {
		if time.Now().After(limit) {
			all := make([]byte, 1<<20)
			t.Fatalf("got %d goroutines, want %d at most:\n%s", runtime.NumGoroutine(), n, all[:runtime.Stack(all, true)])
		}
	}
}

// open opens a flow to the far side and waits until it has carried a line each way.
func (w *world) open(t *testing.T, c *client, a Answerer, accepted <-chan net.Conn) (far net.Conn) {
	t.Helper()
	w.wg.Go(func() { w.Handle(t.Context(), requestTo(25, a)) })
	far = <-accepted
	t.Cleanup(func() { far.Close() })
	far.SetDeadline(time.Now().Add(20 * time.Second))
	sayBothWays(t, "first", c.Conn, far)
	return far
}

// sayBothWays wants a line from a to b, and then one from b to a.
func sayBothWays(t *testing.T, line string, a, b net.Conn) {
	t.Helper()
	for _, row := range [][2]net.Conn{{a, b}, {b, a}} {
		row[1].SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprintln(row[0], line)
		if got, err := bufio.NewReader(row[1]).ReadString('\n'); err != nil || got != line+"\n" {
			t.Fatalf("got %q, %v; want the line %q", got, err, line)
		}
	}
}

// silent opens flows that are kept, over which nothing is said. Their handlers have returned.
func (w *world) silent(t *testing.T, flows int, accepted <-chan net.Conn) (clients []*client, fars []net.Conn) {
	t.Helper()
	for range flows {
		c := newClient(t)
		clients = append(clients, c)
		w.wg.Go(func() { w.Handle(t.Context(), requestTo(25, kept{c, make(chan struct{})})) })
		far := <-accepted
		t.Cleanup(func() { far.Close() })
		fars = append(fars, far)
	}
	w.wg.Wait()
	return clients, fars
}

func TestQuietFlowsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a socket is waited for by a goroutine")
	}
	for _, row := range []struct {
		name string
		v    policy.Verdict
	}{
		{"without a name that could change anything", policy.Verdict{Action: policy.Forward, Egress: "out"}},
		{"judged by what the client sends first", policy.Verdict{Action: policy.Forward, Egress: "out", Later: policy.LaterBlock}},
	} {
		t.Run(row.name, func(t *testing.T) {
			const flows = 40
			w, accepted := quietWorld(t, row.v)
			var clients []*client
			var fars []net.Conn
			before := runtime.NumGoroutine()
			for range flows {
				c := newClient(t)
				clients = append(clients, c)
				fars = append(fars, w.open(t, c, kept{c, make(chan struct{})}, accepted))
			}
			w.wg.Wait() // their handlers
			settle(t, before+3)
			for i, c := range clients {
				sayBothWays(t, "second", c.Conn, fars[i])
			}
			settle(t, before+3)
			if n := w.Kill(func(Flow) bool { return true }); n != flows {
				t.Errorf("got %d flows killed, want %d", n, flows)
			}
			for range flows {
				<-w.ended
			}
			settle(t, before)
		})
	}
}

func TestManyPumpsWaitLess(t *testing.T) {
	p := patience{quiet: quietFor}
	for _, row := range []struct {
		pumps int64
		want  time.Duration
	}{{0, quietFor}, {manyPumps, quietFor}, {manyPumps + 1, quietFor / crowded}} {
		p.pumps.Store(row.pumps)
		if got := p.now(); got != row.want {
			t.Errorf("with %d: got %v, want %v", row.pumps, got, row.want)
		}
	}
}

// TestNewFlowsAmongManyHaveNoGoroutine: they wait for their first bytes without one.
func TestNewFlowsAmongManyHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a socket is waited for by a goroutine")
	}
	w, accepted := quietWorld(t, policy.Verdict{Action: policy.Forward, Egress: "out"})
	w.patience.quiet = time.Hour
	w.patience.pumps.Store(manyPumps + 1)
	const flows = 20
	before := runtime.NumGoroutine()
	clients, fars := w.silent(t, flows, accepted)
	settle(t, before+3)
	for i, c := range clients {
		sayBothWays(t, "first", fars[i], c.Conn)
		fars[i].Close()
		c.Close()
	}
	for range flows {
		<-w.ended
	}
	settle(t, before)
	if got := w.patience.pumps.Load(); got != manyPumps+1 {
		t.Errorf("%d directions are counted that have ended", got-manyPumps-1)
	}
}

// What ends a flow ends it while it is quiet too.
func TestAQuietFlowEnds(t *testing.T) {
	ends := func(r io.Reader) string {
		n, err := io.Copy(io.Discard, r)
		switch {
		case errors.Is(err, syscall.ECONNRESET):
			return "reset"
		case err != nil:
			return err.Error()
		}
		return fmt.Sprintf("end after %d bytes", n)
	}
	reset := func(c net.Conn) { c.(*net.TCPConn).SetLinger(0); c.Close() }
	for _, row := range []struct {
		name string
		end  func(w *world, near, far net.Conn)
		near string // what the client sees
		far  string // what the server sees
	}{
		{"the client resets", func(_ *world, near, _ net.Conn) { reset(near) }, "", "reset"},
		{"the server resets", func(_ *world, _, far net.Conn) { reset(far) }, "reset", ""},
		{"it is killed", func(w *world, _, _ net.Conn) { w.Kill(func(Flow) bool { return true }) }, "reset", "reset"},
		{"the client closes its side, and the server answers and closes", func(_ *world, near, far net.Conn) {
			near.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, far)
			io.WriteString(far, "bye")
			far.Close()
		}, "end after 3 bytes", ""},
		{"the server closes its side, and the client answers and closes", func(_ *world, near, far net.Conn) {
			far.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, near)
			io.WriteString(near, "bye")
			near.Close()
		}, "", "end after 3 bytes"},
	} {
		for _, keeps := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, kept %v", row.name, keeps), func(t *testing.T) {
				w, accepted := quietWorld(t, policy.Verdict{Action: policy.Forward, Egress: "out"})
				before := runtime.NumGoroutine()
				c := newClient(t)
				k := kept{c, make(chan struct{})}
				var a Answerer = c
				if keeps {
					a = k
				}
				far := w.open(t, c, a, accepted)
				if runtime.GOOS == "linux" {
					limit := before + 3 // the poll's own
					if !keeps {
						limit += 2 // the handler, and what ends it with its context
					}
					settle(t, limit)
				}
				row.end(w, c.Conn, far)
				if row.near != "" {
					if got := ends(c.Conn); got != row.near {
						t.Errorf("the client got %s, want %s", got, row.near)
					}
				}
				if row.far != "" {
					if got := ends(far); got != row.far {
						t.Errorf("the server got %s, want %s", got, row.far)
					}
				}
				<-w.ended
				if keeps {
					<-k.over
				}
				w.wg.Wait()
				if got := w.Active(); got != 0 {
					t.Errorf("got %d live flows, want 0", got)
				}
			})
		}
	}
}

// A flow whose client has not spoken yet, and may be silent for hours, costs no goroutine.
func TestFlowsOfSilentClientsHaveNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere a socket is waited for by a goroutine")
	}
	const flows = 20
	w, accepted := quietWorld(t, policy.Verdict{Action: policy.Forward, Egress: "out", Later: policy.LaterBlock})
	before := runtime.NumGoroutine()
	clients, fars := w.silent(t, flows, accepted)
	settle(t, before+3)
	for i, c := range clients[1:] {
		sayBothWays(t, "first", fars[i+1], c.Conn)
	}
	if n := w.Kill(func(Flow) bool { return true }); n != flows {
		t.Errorf("got %d flows killed, want %d", n, flows)
	}
	for range flows {
		<-w.ended
	}
	settle(t, before)
}

// Requests on a connection that was quiet are judged, as those before were.
func TestAQuietConnectionOfRequestsIsJudgedAgain(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	site := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { io.WriteString(rw, "this is "+r.Host) })}
	served := make(chan error, 1)
	go func() { served <- site.Serve(ln) }()
	t.Cleanup(func() { site.Close(); <-served })
	for _, port := range []uint16{80, 8000} {
		w := newWorld(t, Config{Policy: decide(blocksBet), Ways: ways{"out": dialTo(ln.Addr().String())}})
		w.patience.quiet = time.Millisecond
		before := runtime.NumGoroutine()
		c := newClient(t)
		k := kept{c, make(chan struct{})}
		w.wg.Go(func() { w.Handle(t.Context(), requestTo(port, k)) })
		get := func(host string) (string, error) {
			if _, err := fmt.Fprintf(c.Conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
				return "", err
			}
			res, err := http.ReadResponse(bufio.NewReader(c.Conn), nil)
			if err != nil {
				return "", err
			}
			b, err := io.ReadAll(res.Body)
			return string(b), err
		}
		for range 2 {
			if got, err := get("good.example"); err != nil || got != "this is good.example" {
				t.Fatalf("port %d: got %q, %v", port, got, err)
			}
			w.wg.Wait() // the handler
			if runtime.GOOS == "linux" {
				settle(t, before+5) // the poll's, and the server's
			}
		}
		if got, err := get("bad.bet"); err == nil {
			t.Errorf("port %d: got %q of a blocked site", port, got)
		}
		<-k.over
		if f := <-w.ended; f.Verdict.Action == policy.Forward {
			t.Errorf("port %d: the record says %v, want that it was blocked", port, f.Verdict.Action)
		}
		if n := w.heads.total; n != 0 {
			t.Errorf("port %d: %d bytes were not given back", port, n)
		}
	}
}
