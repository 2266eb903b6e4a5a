package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"penstock/stack/link"
)

// holed is a port that loses everything while the hole is open.
type holed struct {
	link.Port
	open *atomic.Bool
}

func (h holed) Write(m link.Meta, pieces [][]byte) error {
	if h.open.Load() {
		return nil
	}
	return h.Port.Write(m, pieces)
}

// numbers sends 0, 1, 2 and so on, a few hundred a second.
func numbers(_ context.Context, r *Request) {
	c, err := r.Accept()
	if err != nil {
		return
	}
	for n := uint64(0); ; n++ {
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
			return
		}
		time.Sleep(3 * time.Millisecond)
	}
}

func TestAStreamSurvivesABlackHole(t *testing.T) {
	for _, row := range []struct {
		name     string
		lossless bool
	}{
		{"with the loss recovery of a tunnel", false},
		{"with that of a TUN", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var open atomic.Bool
			client, err := New(Config{Name: "client", Addrs: clientAddrs, Lossless: row.lossless})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			server, err := New(Config{Name: "server", Addrs: serverAddrs, Lossless: row.lossless, Handle: Waiting(numbers)})
			if err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			a, b := link.Pipe(1500)
			if err := errors.Join(client.Attach(holed{a, &open}), server.Attach(holed{b, &open})); err != nil {
				t.Fatal(err)
			}
			c := (&pair{client, server}).dial(t, "tcp", "203.0.113.9:80")
			next := func() uint64 {
				t.Helper()
				c.SetReadDeadline(time.Now().Add(10 * time.Second))
				b := make([]byte, 8)
				if _, err := io.ReadFull(c, b); err != nil {
					t.Fatal(err)
				}
				return binary.BigEndian.Uint64(b)
			}
			want := uint64(0)
			for range 100 {
				if got := next(); got != want {
					t.Fatalf("got number %d, want %d", got, want)
				}
				want++
			}
			open.Store(true)
			time.Sleep(1500 * time.Millisecond) // the outage itself
			open.Store(false)
			for range 1000 {
				if got := next(); got != want {
					t.Fatalf("got number %d after the outage, want %d", got, want)
				}
				want++
			}
		})
	}
}

// newHoled is a pair between which a hole can open. accepted is the server's end of each connection.
func newHoled(t *testing.T, limits Limits) (p *pair, accepted <-chan net.Conn, hole *atomic.Bool) {
	t.Helper()
	client, err := New(Config{Name: "client", Addrs: clientAddrs, Lossless: true, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	conns := make(chan net.Conn, 1)
	server, err := New(Config{Name: "server", Addrs: serverAddrs, Lossless: true, Limits: limits, Handle: Waiting(func(ctx context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		conns <- c
		<-ctx.Done()
	})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	hole = new(atomic.Bool)
	a, b := link.Pipe(1500)
	if err := errors.Join(client.Attach(holed{a, hole}), server.Attach(holed{b, hole})); err != nil {
		t.Fatal(err)
	}
	return &pair{client, server}, conns, hole
}

// quick are limits that a test can wait for.
var quick = Limits{KeepaliveIdle: 3 * time.Second, KeepaliveEvery: time.Second}

// bothWays runs a test of who writes to a peer: once the server to its client, and once the client to a server it has dialled.
func bothWays(t *testing.T, test func(t *testing.T, writer *Stack, w, peer net.Conn, hole *atomic.Bool)) {
	t.Helper()
	for _, down := range []bool{true, false} {
		name := "a server"
		if down {
			name = "a client"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, accepted, hole := newHoled(t, quick)
			client := p.dial(t, "tcp", "203.0.113.9:80")
			server := within(t, accepted)
			if down {
				test(t, p.server, server, client, hole)
			} else {
				test(t, p.client, client, server, hole)
			}
		})
	}
}

// tooMuch is more than the buffers of both sides hold, bytes.
const tooMuch = 24 << 20

// writeTooMuch writes it all, and returns where the error goes.
func writeTooMuch(w net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, tooMuch))
		done <- err
	}()
	return done
}

// readNothing reads what never comes, and returns where the error goes.
func readNothing(w net.Conn) <-chan error {
	done := make(chan error, 1)
	go func() {
		_, err := w.Read(make([]byte, 1))
		done <- err
	}()
	return done
}

func TestAPeerThatPausesKeepsItsConnection(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, _ *Stack, w, peer net.Conn, _ *atomic.Bool) {
		done := writeTooMuch(w)
		time.Sleep(leastSilence + 2*quick.KeepaliveIdle) // the pause itself
		peer.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := io.CopyN(io.Discard, peer, tooMuch); err != nil {
			t.Errorf("got %d of %d bytes after the pause and %v", n, tooMuch, err)
		}
		if err := within(t, done); err != nil {
			t.Errorf("who writes got %v", err)
		}
	})
}

func TestLostKeepAlivesDoNotEndAConnection(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, _ *Stack, w, peer net.Conn, hole *atomic.Bool) {
		hole.Store(true)
		done := readNothing(w)
		time.Sleep(quick.KeepaliveIdle + 3*quick.KeepaliveEvery/2) // two of them
		hole.Store(false)
		select {
		case err := <-done:
			t.Fatalf("got %v after two lost keep-alives", err)
		case <-time.After(2 * keepAlives * quick.KeepaliveEvery): // more than if none were answered
		}
		if _, err := peer.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := within(t, done); err != nil {
			t.Errorf("got %v after the silence", err)
		}
	})
}

func TestAPeerThatVanishesIsFound(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		waits       func(net.Conn) <-chan error
		pause       time.Duration // before it vanishes; none: it has when the data is sent
		least, most time.Duration // until it is found
	}{
		{"while nothing is sent", readNothing, 0, quick.KeepaliveIdle + (keepAlives-1)*quick.KeepaliveEvery, 4 * quick.KeepaliveIdle},
		{"while data is sent", writeTooMuch, 0, quick.KeepaliveIdle, 2*quick.KeepaliveIdle + maxRTO},
		{"after a long pause", writeTooMuch, 3 * quick.KeepaliveIdle, quick.KeepaliveIdle, leastSilence + 3*maxRTO},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			bothWays(t, func(t *testing.T, _ *Stack, w, _ net.Conn, hole *atomic.Bool) {
				hole.Store(row.pause == 0)
				done := row.waits(w)
				time.Sleep(row.pause) // the pause itself
				hole.Store(true)
				start := time.Now()
				select {
				case err := <-done:
					if took := time.Since(start); !errors.Is(err, syscall.ETIMEDOUT) || took < row.least {
						t.Errorf("got %v after %v, want %v after %v to %v", err, took, syscall.ETIMEDOUT, row.least, row.most)
					}
				case <-time.After(row.most):
					t.Errorf("not found in %v", row.most)
				}
			})
		})
	}
}

func TestAPauseDoesNotKeepWhatWasClosed(t *testing.T) {
	t.Parallel()
	bothWays(t, func(t *testing.T, s *Stack, w, _ net.Conn, _ *atomic.Bool) {
		w.SetWriteDeadline(time.Now().Add(2 * quick.KeepaliveIdle))
		if _, err := w.Write(make([]byte, tooMuch)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v from a write to a peer that pauses, want the deadline", err)
		}
		w.Close()
		if len(s.net.RegisteredEndpoints()) == 0 {
			t.Fatal("what was not read before the end is lost at once")
		}
		for limit := time.Now().Add(leastSilence + 3*maxRTO); len(s.net.RegisteredEndpoints()) > 0; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatal("what was not read before the end is kept for ever")
			}
		}
	})
}

func TestWhoPauses(t *testing.T) {
	const last, patience = int64(time.Hour), time.Minute
	soon, late := last+int64(patience)-1, last+int64(patience)
	for _, row := range []struct {
		name             string
		received, resent uint64 // segments since
		now              int64
		lifted, closed   bool
		want             waiting
	}{
		{"the first answer", 1, 0, soon, false, false, waiting{11, 5, soon, true, false}},
		{"one more answer", 1, 0, late, true, false, waiting{11, 5, late, true, false}},
		{"no answer for a short time", 0, 0, soon, true, false, waiting{10, 5, last, true, false}},
		{"no answer for long", 0, 0, late, true, false, waiting{10, 5, last, false, false}},
		{"no answer ever", 0, 0, soon, false, false, waiting{10, 5, last, false, false}},
		{"data that is sent again in vain", 1, 1, soon, true, false, waiting{11, 6, last, false, false}},
		{"an answer after the end", 1, 0, soon, true, true, waiting{11, 5, last, true, true}},
		{"an answer long after the end", 1, 0, late, true, true, waiting{11, 5, last, false, true}},
		{"a first answer after the end", 1, 0, soon, false, true, waiting{11, 5, last, false, true}},
	} {
		was := waiting{received: 10, resent: 5, answered: last, lifted: row.lifted}
		is := waiting{received: 10 + row.received, resent: 5 + row.resent, closed: row.closed}
		if got := is.since(was, row.now, patience); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}
