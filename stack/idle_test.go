package stack

import (
	"context"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"penstock/stack/datagram"
)

func TestFlowsWithoutAnswersEndSooner(t *testing.T) {
	var clock atomic.Int64
	conns := make(chan *datagram.Conn, 1)
	s, w := newWire(t, Config{Handle: Waiting(func(ctx context.Context, r *Request) {
		c, err := r.Accept()
		if err != nil {
			return
		}
		conns <- c.(*datagram.Conn)
		<-ctx.Done()
	})}, clock.Load)
	answer := func(c *datagram.Conn) {
		if _, err := c.Write(nil); err != nil { // an empty datagram is an answer too
			t.Error(err)
		}
	}
	refuse := func(c *datagram.Conn) { c.Unreachable(syscall.ECONNREFUSED) }
	for i, row := range []struct {
		name   string
		to     string
		events []func(*datagram.Conn)
		lasts  time.Duration
	}{
		{"an answered one", "203.0.113.9:4000", []func(*datagram.Conn){answer}, 2 * time.Minute},
		{"one that nobody answers", "203.0.113.9:4000", nil, 30 * time.Second},
		{"one that gets only ICMP errors", "203.0.113.9:4000", []func(*datagram.Conn){refuse, refuse}, 10 * time.Second},
		{"an error before the answer", "203.0.113.9:4000", []func(*datagram.Conn){refuse, answer}, 2 * time.Minute},
		{"an error after the answer", "203.0.113.9:4000", []func(*datagram.Conn){answer, refuse}, 2 * time.Minute},
		{"a question that nobody answers", "203.0.113.9:53", nil, 10 * time.Second},
		{"QUIC that nobody answers", "203.0.113.9:443", nil, 30 * time.Second},
	} {
		client := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1000+i))
		w.send(udpFrom(client, addr(row.to), []byte("x")))
		c := within(t, conns)
		for _, event := range row.events {
			event(c)
		}
		begin := clock.Load()
		if left := s.flows.Sweep(begin + int64(row.lasts)); left != 1 {
			t.Errorf("%s: got %d flows after %s of silence, want 1", row.name, left, row.lasts)
		}
		clock.Store(begin + int64(row.lasts) - 1)
		w.send(udpFrom(client, addr(row.to), []byte("x"))) // the client goes on: the flow is kept
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: got %v, want the first datagram", row.name, err)
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s: got %v, want the second datagram", row.name, err)
		}
		if left := s.flows.Sweep(clock.Load() + int64(row.lasts)); left != 1 {
			t.Errorf("%s: got %d flows although its client goes on, want 1", row.name, left)
		}
		if left := s.flows.Sweep(clock.Load() + int64(row.lasts) + 1); left != 0 {
			t.Errorf("%s: got %d flows after more than %s of silence, want 0", row.name, left, row.lasts)
		}
	}
}
