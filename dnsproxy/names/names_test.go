package names

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"penstock/policy"
)

// client is the key of the client of most tests.
const client = 7

var (
	site  = netip.MustParseAddr("203.0.113.1")
	other = netip.MustParseAddr("203.0.113.2")
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func newClock() *clock               { return &clock{time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)} }
func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }

func hosts(names []policy.Name) string {
	var hosts []string
	for _, n := range names {
		hosts = append(hosts, n.Host)
	}
	return strings.Join(hosts, " ")
}

func TestNames(t *testing.T) {
	clock := newClock()
	newTable := func() *Table { return New(0, clock.now) }
	add := func(n *Table, client uint64, addr netip.Addr, host string, ttl time.Duration) {
		n.Add(client, []netip.Addr{addr}, host, ttl, clock.now())
	}
	lookup := func(n *Table) string { return hosts(n.Lookup(client, site)) }
	tests := []struct {
		says string
		do   func(n *Table)
		want string
	}{
		{"nobody asked", func(n *Table) {}, ""},
		{"the name that was asked for", func(n *Table) { add(n, client, site, "a.example", 0) }, "a.example"},
		{"two clients do not mix", func(n *Table) { add(n, client+1, site, "a.example", 0) }, ""},
		{"two addresses do not mix", func(n *Table) { add(n, client, other, "a.example", 0) }, ""},
		{"a mapped address is the address", func(n *Table) { add(n, client, netip.MustParseAddr("::ffff:203.0.113.1"), "a.example", 0) }, "a.example"},
		{"the most recent comes first", func(n *Table) {
			add(n, client, site, "a.example", 0)
			add(n, client, site, "b.example", 0)
			add(n, client, site, "c.example", 0)
			add(n, client, site, "a.example", 0)
		}, "a.example c.example b.example"},
		{"the least recent of too many goes", func(n *Table) {
			for i := range perPair + 1 {
				add(n, client, site, fmt.Sprint(i), 0)
			}
		}, "8 7 6 5 4 3 2 1"},
		{"a short TTL is a minute, and ten more", func(n *Table) {
			add(n, client, site, "a.example", time.Second)
			clock.add(11*time.Minute - time.Second)
		}, "a.example"},
		{"then it is over", func(n *Table) {
			add(n, client, site, "a.example", time.Second)
			clock.add(11 * time.Minute)
		}, ""},
		{"a long TTL counts", func(n *Table) {
			add(n, client, site, "a.example", time.Hour)
			add(n, client, site, "b.example", 0)
			clock.add(69 * time.Minute)
		}, "a.example"},
		{"asking again renews", func(n *Table) {
			add(n, client, site, "a.example", 0)
			clock.add(10 * time.Minute)
			add(n, client, site, "a.example", 0)
			clock.add(10 * time.Minute)
			n.Expire()
		}, "a.example"},
		{"expiry removes", func(n *Table) {
			add(n, client, site, "a.example", 0)
			clock.add(time.Hour)
			n.Expire()
			clock.add(-time.Hour)
		}, ""},
		{"a pinned name stays", func(n *Table) {
			add(n, client, site, "a.example", 0)
			n.Pin(client, site)
			clock.add(24 * time.Hour)
			n.Expire()
		}, "a.example"},
		{"the last release lets go", func(n *Table) {
			add(n, client, site, "a.example", 0)
			first, second := n.Pin(client, site), n.Pin(client, site)
			clock.add(24 * time.Hour)
			first()
			first()
			if got := lookup(n); got != "a.example" {
				t.Errorf("after one of two releases: got %q", got)
			}
			second()
		}, ""},
		{"nothing can be pinned for a flow without a name", func(n *Table) { n.Pin(client, site)() }, ""},
		{"an invalid address has no names", func(n *Table) { n.Lookup(client, netip.Addr{}); n.Pin(client, netip.Addr{})() }, ""},
	}
	for _, tt := range tests {
		t.Run(tt.says, func(t *testing.T) {
			n := newTable()
			tt.do(n)
			if got := lookup(n); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNamesBound: the least recently used pairs go, those that flows hold stay.
func TestNamesBound(t *testing.T) {
	clock := newClock()
	n := New(100, clock.now)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}) }
	n.Add(client, []netip.Addr{addr(0), addr(1)}, "first.example", 0, clock.now())
	release := n.Pin(client, addr(0))
	for i := range 1000 {
		n.Add(client, []netip.Addr{addr(2 + i)}, "more.example", 0, clock.now())
	}
	if got := n.Len(); got != 100 {
		t.Errorf("pairs: got %d, want 100", got)
	}
	if got := hosts(n.Lookup(client, addr(0))); got != "first.example" {
		t.Errorf("pinned pair: got %q", got)
	}
	if got := hosts(n.Lookup(client, addr(1))); got != "" {
		t.Errorf("oldest pair: got %q, want none", got)
	}
	release()
	if got := n.Len(); got != 100 {
		t.Errorf("pairs after the release: got %d, want 100", got)
	}
}

// TestNamesAllocate: a flow without a name and a name that is renewed cost no memory.
func TestNamesAllocate(t *testing.T) {
	clock := newClock()
	n := New(0, clock.now)
	addrs := []netip.Addr{site}
	n.Add(client, addrs, "a.example", 0, clock.now())
	if got := testing.AllocsPerRun(100, func() { n.Lookup(client, other) }); got != 0 {
		t.Errorf("lookup without a name: got %v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(100, func() { n.Add(client, addrs, "a.example", 0, clock.now()) }); got != 0 {
		t.Errorf("renewal: got %v allocations, want 0", got)
	}
}

// address returns one of 2^24 addresses.
func address(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{203, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestTheClientThatHoldsMostLosesItsOldest: one client that asks for everything costs the others nothing.
func TestTheClientThatHoldsMostLosesItsOldest(t *testing.T) {
	clock := newClock()
	n := New(1000, clock.now)
	const greedy, honest = 1, 2
	for i := range 20 {
		n.Add(honest, []netip.Addr{address(i)}, "honest.example", 0, clock.now())
	}
	for i := range 65536 {
		n.Add(greedy, []netip.Addr{address(i)}, "greedy.example", 0, clock.now())
	}
	if got := n.Len(); got != 1000 {
		t.Fatalf("pairs: got %d, want 1000", got)
	}
	for i := range 20 {
		if got := hosts(n.Lookup(honest, address(i))); got != "honest.example" {
			t.Fatalf("the honest client's address %d: got %q, want honest.example", i, got)
		}
	}
	for i, want := range map[int]string{65536 - 981: "", 65536 - 980: "greedy.example", 65535: "greedy.example"} {
		if got := hosts(n.Lookup(greedy, address(i))); got != want {
			t.Errorf("the greedy client's address %d: got %q, want %q", i, got, want)
		}
	}
	// The honest client may still grow: the other one makes room.
	n.Add(honest, []netip.Addr{address(20)}, "honest.example", 0, clock.now())
	if got := hosts(n.Lookup(greedy, address(65536-979))); got != "" { // the look-up above made 980 the newest
		t.Errorf("the greedy client's oldest address: got %q, want none", got)
	}
	if got := hosts(n.Lookup(honest, address(0))); got != "honest.example" {
		t.Errorf("the honest client's oldest address: got %q, want honest.example", got)
	}
}

// TestPinnedPairsCountForWhoHoldsMost: a client cannot hide behind the pairs that its flows keep.
func TestPinnedPairsCountForWhoHoldsMost(t *testing.T) {
	clock := newClock()
	n := New(10, clock.now)
	const pinner, honest = 1, 2
	for i := range 7 {
		n.Add(pinner, []netip.Addr{address(i)}, "a.example", 0, clock.now())
		if i > 0 {
			n.Pin(pinner, address(i))
		}
	}
	for i := range 4 {
		n.Add(honest, []netip.Addr{address(i)}, "b.example", 0, clock.now())
	}
	if got := hosts(n.Lookup(pinner, address(0))); got != "" {
		t.Errorf("the free pair of the client that holds most: got %q, want none", got)
	}
	if got := hosts(n.Lookup(honest, address(0))); got != "b.example" {
		t.Errorf("the oldest pair of the other client: got %q, want b.example", got)
	}
}

// TestForget: a client that is gone has no names, whatever its flows still hold, and a release that comes late does no harm.
func TestForget(t *testing.T) {
	clock := newClock()
	n := New(0, clock.now)
	n.Add(client, []netip.Addr{site, other}, "a.example", 0, clock.now())
	n.Add(client+1, []netip.Addr{site}, "b.example", 0, clock.now())
	release := n.Pin(client, site)
	n.Forget(client)
	if got := hosts(n.Lookup(client, site)) + hosts(n.Lookup(client, other)); got != "" {
		t.Errorf("names of a client that is gone: got %q", got)
	}
	n.Add(client, []netip.Addr{site}, "new.example", 0, clock.now())
	release()
	if got, want := fmt.Sprint(hosts(n.Lookup(client, site)), " ", hosts(n.Lookup(client+1, site)), " ", n.Len()), "new.example b.example 2"; got != want {
		t.Errorf("after a late release: got %q, want %q", got, want)
	}
	n.Forget(client)
	n.Forget(client + 1)
	n.Forget(client + 2)
	if n.Len() != 0 || len(n.clients) != 0 || len(n.order) != 0 {
		t.Errorf("left: %d pairs, %d clients, %d in the heap", n.Len(), len(n.clients), len(n.order))
	}
}

// TestClientsWithoutNamesTakeNoRoom: what expires takes its client along.
func TestClientsWithoutNamesTakeNoRoom(t *testing.T) {
	clock := newClock()
	n := New(0, clock.now)
	for i := range uint64(100) {
		n.Add(i, []netip.Addr{site}, "a.example", 0, clock.now())
	}
	clock.add(time.Hour)
	n.Expire()
	if n.Len() != 0 || len(n.clients) != 0 || len(n.order) != 0 {
		t.Errorf("left: %d pairs, %d clients, %d in the heap", n.Len(), len(n.clients), len(n.order))
	}
}

func BenchmarkLookup(b *testing.B) {
	clock := newClock()
	n := New(0, clock.now)
	for i := range 50000 {
		n.Add(uint64(i%100), []netip.Addr{address(i)}, "www.example", 0, clock.now())
	}
	for name, client := range map[string]uint64{"hit": 1, "miss": 200} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			i := 1
			for b.Loop() {
				n.Lookup(client, address(i))
				if i += 100; i >= 50000 {
					i = 1
				}
			}
		})
	}
}

// BenchmarkAdd adds pairs to a full table.
func BenchmarkAdd(b *testing.B) {
	clock := newClock()
	n := New(0, clock.now)
	addrs := make([]netip.Addr, 1)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		addrs[0] = address(i)
		n.Add(uint64(i%100), addrs, "www.example", 0, clock.now())
		i++
	}
}
