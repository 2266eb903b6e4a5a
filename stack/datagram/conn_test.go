package datagram

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"penstock/stack/packet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	here  = netip.MustParseAddrPort("10.0.0.1:4000")
	there = netip.MustParseAddrPort("203.0.113.9:53")
)

// slow is a link that takes a packet only after a while.
type slow struct {
	lasts   time.Duration
	sending atomic.Int32
}

func (s *slow) Send(uint8, netip.Addr, netip.Addr, []byte, packet.Manner, int) error {
	s.sending.Add(1)
	defer s.sending.Add(-1)
	time.Sleep(s.lasts)
	return nil
}

func (s *slow) SendSegments(netip.Addr, netip.Addr, []byte, int) error { return nil }

func (s *slow) MTU() int                    { return 1500 }
func (s *slow) TooBig(Key, int, int)        {}
func (s *slow) Unreachable(Key, packet.Why) {}

// none counts nothing.
type none struct{}

func (none) Drop(string) {}
func (none) Evicted()    {}

// newTable makes a table with a handler all of which may wait.
func newTable(t *testing.T, s Sender, serve func(context.Context, *Conn)) *Table {
	table := New(t.Context(), Config{
		Limits: Limits{Flows: 10, PerClient: 5, Begins: 10, Queue: 1 << 20, Idle: time.Minute, IdleShort: time.Minute, IdleQUIC: time.Minute},
		Serve: func(_ context.Context, c *Conn) func(context.Context) {
			return func(ctx context.Context) { serve(ctx, c) }
		},
		Client: func(netip.Addr) (uint64, bool) { return 1, true },
		Now:    func() int64 { return time.Now().UnixNano() },
		Sender: s,
		Count:  none{},
	})
	t.Cleanup(func() {
		table.Close()
		table.Wait()
	})
	return table
}

func TestAnICMPErrorIsReadOnceAndHidesNothing(t *testing.T) {
	table := newTable(t, new(slow), nil)
	c, err := table.Dial(UDP, there, here)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 10)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	table.Fail(c.Key(), syscall.EHOSTUNREACH)
	table.Arrived(UDP, c.Key().Pair, []byte("answer"), packet.Manner{Whole: true})
	if n, err := c.Read(b); n != 6 || err != nil {
		t.Errorf("got %d bytes, %v, want the answer that came behind the error", n, err)
	}
	if _, err := c.Read(b); !errors.Is(err, syscall.EHOSTUNREACH) {
		t.Errorf("got %v, want the ICMP error", err)
	}
	table.Fail(c.Key(), syscall.ECONNREFUSED)
	c.Close()
	if _, err := c.Read(b); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want the second ICMP error", err)
	}
	for range 2 {
		if _, err := c.Read(b); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v from a flow that was closed, want net.ErrClosed", err)
		}
	}
}

func TestNothingIsWrittenToAClosedFlowThatFailed(t *testing.T) {
	table := newTable(t, new(slow), nil)
	c, err := table.Dial(UDP, there, here)
	if err != nil {
		t.Fatal(err)
	}
	table.Fail(c.Key(), syscall.ECONNREFUSED)
	if _, err := c.Write([]byte("x")); err != nil {
		t.Errorf("got %v, want the flow to go on after an ICMP error", err)
	}
	c.Close()
	if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want net.ErrClosed", err)
	}
}

// What a client's flows send when it is closed must not reach the next one that gets its address.
func TestCloseWaitsForWritesUnderWay(t *testing.T) {
	for _, row := range []struct {
		name  string
		close func(*Table)
	}{
		{"of a client", func(t *Table) { t.CloseClient(1) }},
		{"of an address", func(t *Table) { t.CloseLocal(there.Addr()) }},
		{"of all", (*Table).Close},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				link := &slow{lasts: 50 * time.Millisecond}
				table := newTable(t, link, func(_ context.Context, c *Conn) {
					c.Accept()
					c.Write([]byte("x"))
				})
				for i := range 5 {
					table.Arrived(UDP, Pair{Remote: netip.AddrPortFrom(here.Addr(), uint16(i+1)), Local: there}, []byte("x"), packet.Manner{Whole: true})
				}
				synctest.Wait()
				if got := link.sending.Load(); got != 5 {
					t.Fatalf("got %d writes under way, want 5", got)
				}
				row.close(table)
				if got := link.sending.Load(); got != 0 {
					t.Errorf("got %d writes under way after the close, want 0", got)
				}
			})
		})
	}
}

func TestCloseGivesUpOnWritesThatDoNotEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		table := newTable(t, &slow{lasts: time.Minute}, func(_ context.Context, c *Conn) {
			c.Accept()
			c.Write([]byte("x"))
		})
		for i := range 5 {
			table.Arrived(UDP, Pair{Remote: netip.AddrPortFrom(here.Addr(), uint16(i+1)), Local: there}, []byte("x"), packet.Manner{Whole: true})
		}
		synctest.Wait()
		begin := time.Now()
		table.CloseClient(1)
		if got := time.Since(begin); got < writePatience || got > writePatience+time.Millisecond {
			t.Errorf("it took %v, want %v for all flows together", got, writePatience)
		}
	})
}

// A handler that judges does not hear that its flow was pushed out, so the bound of flows does not bound handlers.
func TestAFloodOfFlowsDoesNotFillTheMemoryWithHandlers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun atomic.Int32
		judged := make(chan struct{})
		table := newTable(t, new(slow), func(_ context.Context, c *Conn) {
			begun.Add(1)
			<-judged
			c.Accept()
			for b := make([]byte, 10); ; {
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		})
		table.Client = func(a netip.Addr) (uint64, bool) { return uint64(a.As4()[3]), true }
		flood := func(client byte, n int) (handlers int32) {
			t.Helper()
			before := begun.Load()
			for port := range uint16(n) {
				from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, client}), 1000+port)
				table.Arrived(UDP, Pair{Remote: from, Local: there}, []byte("x"), packet.Manner{Whole: true})
			}
			synctest.Wait()
			return begun.Load() - before
		}
		// Of the ten that may begin, each takes as many as it leaves.
		for client, want := range []int32{5, 3, 1, 1, 0} {
			if got := flood(byte(client), 100); got != want {
				t.Errorf("client %d: got %d handlers, want %d", client, got, want)
			}
		}
		close(judged)
		synctest.Wait()
		// Those that wait for their client do not count.
		if got := flood(9, 1); got != 1 {
			t.Errorf("after all were judged: got %d handlers more, want 1", got)
		}
		table.Close()
	})
}

func TestTheEndOfAFlowIsToldOnce(t *testing.T) {
	table := newTable(t, new(slow), nil)
	c, err := table.Dial(UDP, there, here)
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	c.OnEnd(func() { t.Error("told who is not to be told any more") })
	c.OnEnd(func() { told++ })
	table.Close()
	c.Close()
	if told != 1 {
		t.Errorf("told %d times, want once", told)
	}
	if c.OnEnd(func() { told++ }); told != 2 {
		t.Error("not told of an end that was before")
	}
}
