package dnsproxy

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

func hosts(names []policy.Name) string {
	var hosts []string
	for _, n := range names {
		hosts = append(hosts, n.Host)
	}
	return strings.Join(hosts, " ")
}

func TestNames(t *testing.T) {
	clock := newClock()
	newTable := func() *Names { return newNames(0, clock.now) }
	add := func(n *Names, client uint64, addr netip.Addr, host string, ttl time.Duration) {
		n.add(client, []netip.Addr{addr}, host, ttl, clock.now())
	}
	lookup := func(n *Names) string { return hosts(n.Lookup(client, site)) }
	tests := []struct {
		says string
		do   func(n *Names)
		want string
	}{
		{"nobody asked", func(n *Names) {}, ""},
		{"the name that was asked for", func(n *Names) { add(n, client, site, "a.example", 0) }, "a.example"},
		{"two clients do not mix", func(n *Names) { add(n, client+1, site, "a.example", 0) }, ""},
		{"two addresses do not mix", func(n *Names) { add(n, client, other, "a.example", 0) }, ""},
		{"a mapped address is the address", func(n *Names) { add(n, client, netip.MustParseAddr("::ffff:203.0.113.1"), "a.example", 0) }, "a.example"},
		{"the most recent comes first", func(n *Names) {
			add(n, client, site, "a.example", 0)
			add(n, client, site, "b.example", 0)
			add(n, client, site, "c.example", 0)
			add(n, client, site, "a.example", 0)
		}, "a.example c.example b.example"},
		{"the least recent of too many goes", func(n *Names) {
			for i := range namesPerKey + 1 {
				add(n, client, site, fmt.Sprint(i), 0)
			}
		}, "8 7 6 5 4 3 2 1"},
		{"a short TTL is a minute, and ten more", func(n *Names) {
			add(n, client, site, "a.example", time.Second)
			clock.add(11*time.Minute - time.Second)
		}, "a.example"},
		{"then it is over", func(n *Names) {
			add(n, client, site, "a.example", time.Second)
			clock.add(11 * time.Minute)
		}, ""},
		{"a long TTL counts", func(n *Names) {
			add(n, client, site, "a.example", time.Hour)
			add(n, client, site, "b.example", 0)
			clock.add(69 * time.Minute)
		}, "a.example"},
		{"asking again renews", func(n *Names) {
			add(n, client, site, "a.example", 0)
			clock.add(10 * time.Minute)
			add(n, client, site, "a.example", 0)
			clock.add(10 * time.Minute)
			n.expire()
		}, "a.example"},
		{"expiry removes", func(n *Names) {
			add(n, client, site, "a.example", 0)
			clock.add(time.Hour)
			n.expire()
			clock.add(-time.Hour)
		}, ""},
		{"a pinned name stays", func(n *Names) {
			add(n, client, site, "a.example", 0)
			n.Pin(client, site)
			clock.add(24 * time.Hour)
			n.expire()
		}, "a.example"},
		{"the last release lets go", func(n *Names) {
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
		{"nothing can be pinned for a flow without a name", func(n *Names) { n.Pin(client, site)() }, ""},
		{"an invalid address has no names", func(n *Names) { n.Lookup(client, netip.Addr{}); n.Pin(client, netip.Addr{})() }, ""},
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
	n := newNames(100, clock.now)
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{203, 0, byte(i >> 8), byte(i)}) }
	n.add(client, []netip.Addr{addr(0), addr(1)}, "first.example", 0, clock.now())
	release := n.Pin(client, addr(0))
	for i := range 1000 {
		n.add(client, []netip.Addr{addr(2 + i)}, "more.example", 0, clock.now())
	}
	if got := n.len(); got != 100 {
		t.Errorf("pairs: got %d, want 100", got)
	}
	if got := hosts(n.Lookup(client, addr(0))); got != "first.example" {
		t.Errorf("pinned pair: got %q", got)
	}
	if got := hosts(n.Lookup(client, addr(1))); got != "" {
		t.Errorf("oldest pair: got %q, want none", got)
	}
	release()
	if got := n.len(); got != 100 {
		t.Errorf("pairs after the release: got %d, want 100", got)
	}
}

// TestNamesAllocate: a flow without a name and a name that is renewed cost no memory.
func TestNamesAllocate(t *testing.T) {
	clock := newClock()
	n := newNames(0, clock.now)
	addrs := []netip.Addr{site}
	n.add(client, addrs, "a.example", 0, clock.now())
	if got := testing.AllocsPerRun(100, func() { n.Lookup(client, other) }); got != 0 {
		t.Errorf("lookup without a name: got %v allocations, want 0", got)
	}
	if got := testing.AllocsPerRun(100, func() { n.add(client, addrs, "a.example", 0, clock.now()) }); got != 0 {
		t.Errorf("renewal: got %v allocations, want 0", got)
	}
}
