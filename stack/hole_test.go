package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync/atomic"
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
