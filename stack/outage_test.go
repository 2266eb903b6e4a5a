package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"penstock/stack/link"
)

// slow is a port whose packets arrive late, or never while the hole is open. It takes a round-trip time to meet what gVisor
// does behind an outage: its timers follow from it, and so does how much is on the way.
type slow struct {
	link.Port
	hole *atomic.Bool
	way  chan late
}

type late struct {
	due  time.Time
	meta link.Meta
	b    []byte
}

// oneWay is how long a packet takes on a slow port.
const oneWay = 15 * time.Millisecond

func newSlow(ctx context.Context, p link.Port, hole *atomic.Bool) slow {
	s := slow{p, hole, make(chan late, 4096)}
	go s.carry(ctx)
	return s
}

func (s slow) carry(ctx context.Context) {
	for {
		select {
		case l := <-s.way:
			time.Sleep(time.Until(l.due))
			if !s.hole.Load() {
				s.Port.Write(l.meta, [][]byte{l.b})
			}
		case <-ctx.Done():
			return
		}
	}
}

func (s slow) Write(m link.Meta, pieces [][]byte) error {
	select {
	case s.way <- late{time.Now().Add(oneWay), m, bytes.Join(pieces, nil)}:
	default: // a queue that is full loses
	}
	return nil
}

// distant is a client and a server as at the ends of a tunnel, on a slow path that can lose everything each way.
type distant struct {
	pair
	up, down atomic.Bool // open: what the client sends, and what the server sends, is lost
}

func newDistant(t *testing.T, serve func(net.Conn)) *distant {
	t.Helper()
	client, err := New(Config{Name: "client", Addrs: clientAddrs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := New(Config{Name: "server", Addrs: serverAddrs, Handle: Waiting(func(_ context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	d := &distant{pair: pair{client, server}}
	a, b := link.Pipe(1500)
	if err := errors.Join(client.Attach(newSlow(t.Context(), a, &d.up)), server.Attach(newSlow(t.Context(), b, &d.down))); err != nil {
		t.Fatal(err)
	}
	return d
}

// lose loses what is sent in these ways for a time.
func (d *distant) lose(up, down bool, lasts time.Duration) {
	d.up.Store(up)
	d.down.Store(down)
	time.Sleep(lasts) // the outage itself
	d.up.Store(false)
	d.down.Store(false)
}

// step is what a sender in steps sends at once, bytes: a number, and zeros.
const step = 1 << 10

// sendSteps sends one step every so often, and never one if that is zero.
func sendSteps(c net.Conn, every time.Duration) {
	if every == 0 {
		return
	}
	b := make([]byte, step)
	for n := uint64(0); ; n++ {
		binary.BigEndian.PutUint64(b, n)
		if _, err := c.Write(b); err != nil {
			return
		}
		time.Sleep(every)
	}
}

// receiveSteps counts the steps that come, as long as they come in order.
func receiveSteps(c net.Conn, got *atomic.Uint64) error {
	b := make([]byte, step)
	for n := uint64(0); ; n++ {
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
		if came := binary.BigEndian.Uint64(b); came != n {
			return fmt.Errorf("got step %d, want %d", came, n)
		}
		got.Add(1)
	}
}

// patience is what a stream has to move on. The longest timeout is 3 s.
const patience = time.Minute

// moves waits until n has grown by so many.
func moves(t *testing.T, what string, n *atomic.Uint64, by uint64) {
	t.Helper()
	was, start := n.Load(), time.Now()
	for n.Load() < was+by {
		if time.Since(start) > patience {
			t.Errorf("%s: got %d in %v, want %d", what, n.Load()-was, patience, by)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("%s: %d after %v", what, by, time.Since(start).Round(time.Millisecond))
}

func TestAStreamInStepsMovesOnAfterAnOutage(t *testing.T) {
	const often, seldom = 3 * time.Millisecond, 20 * time.Millisecond
	for _, row := range []struct {
		name             string
		up, down         time.Duration // between two steps
		loseUp, loseDown bool
		lasts            time.Duration
	}{
		{"steps one way", 0, often, true, true, 2 * time.Second},
		{"steps both ways, a short outage", often, often, true, true, 600 * time.Millisecond},
		{"steps both ways, a long outage", often, often, true, true, 4 * time.Second},
		{"steps both ways, an outage of one", often, often, true, false, 2 * time.Second},
		{"fewer steps both ways, a short outage", seldom, seldom, true, true, 600 * time.Millisecond},
		{"fewer steps both ways, a long outage", seldom, seldom, true, true, 4 * time.Second},
		{"fewer steps both ways, an outage of one", seldom, seldom, false, true, 2 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			var up, down atomic.Uint64
			wrong := make(chan error, 2)
			d := newDistant(t, func(c net.Conn) {
				go sendSteps(c, row.down)
				wrong <- receiveSteps(c, &up)
			})
			c := d.dial(t, "tcp", "203.0.113.9:80")
			go sendSteps(c, row.up)
			go func() { wrong <- receiveSteps(c, &down) }()
			both := func(when string, by uint64) {
				t.Helper()
				if row.up > 0 {
					moves(t, "steps up "+when, &up, by)
				}
				moves(t, "steps down "+when, &down, by)
			}
			both("before the outage", 50)
			d.lose(row.loseUp, row.loseDown, row.lasts)
			both("after it", 200)
			select {
			case err := <-wrong:
				t.Error(err)
			default:
			}
		})
	}
}

func TestAFullStreamMovesOnAfterAnOutage(t *testing.T) {
	for _, lasts := range []time.Duration{300 * time.Millisecond, 3 * time.Second} {
		t.Run(lasts.String(), func(t *testing.T) {
			t.Parallel()
			d := newDistant(t, func(c net.Conn) {
				for b := make([]byte, 64<<10); ; {
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			})
			c := d.dial(t, "tcp", "203.0.113.9:80")
			var down atomic.Uint64
			go func() {
				for b := make([]byte, 64<<10); ; {
					n, err := c.Read(b)
					if err != nil {
						return
					}
					down.Add(uint64(n))
				}
			}()
			moves(t, "bytes before the outage", &down, 16<<20)
			d.lose(true, true, lasts)
			moves(t, "bytes after it", &down, 2<<20)
		})
	}
}

func TestALostRequestIsSentAgainWhileAnAnswerComes(t *testing.T) {
	var up, down atomic.Uint64
	d := newDistant(t, func(c net.Conn) {
		go sendSteps(c, 3*time.Millisecond)
		receiveSteps(c, &up)
	})
	c := d.dial(t, "tcp", "203.0.113.9:80")
	go receiveSteps(c, &down)
	request := make([]byte, step)
	for n := range uint64(3) {
		d.up.Store(n > 0)
		binary.BigEndian.PutUint64(request, n)
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		d.lose(n > 0, false, 2*oneWay)
		moves(t, "requests", &up, n+1-up.Load())
	}
	moves(t, "steps down", &down, 1)
}
