package direct

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

func openTestRoutes(t testing.TB) *routes {
	t.Helper()
	r, err := openRoutes()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if r.changes < 0 {
		t.Skip("the kernel does not tell of changes here")
	}
	return r
}

func TestARouteIsAskedForOnceInAWhile(t *testing.T) {
	r := openTestRoutes(t)
	now := time.Now()
	r.now = func() time.Time { return now }
	local := netip.MustParseAddr("127.0.0.1")
	ask := func() (asked bool) {
		t.Helper()
		before := r.query.seq
		if found, err := r.lookup(local, 0, 0); err != nil || found.kind != unix.RTN_LOCAL {
			t.Fatalf("got %+v, %v; want the host's own", found, err)
		}
		return r.query.seq != before
	}
	ask()
	repeated := false
	for range 100 { // something on the machine may change meanwhile, but not each time
		repeated = repeated || !ask()
	}
	if !repeated {
		t.Error("an answer was never used again")
	}
	now = now.Add(routeAge)
	if !ask() {
		t.Error("an answer was used that was too old")
	}
	for i := range 3 * mostRoutes {
		r.lookup(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 0, 0)
		if len(r.known) > mostRoutes {
			t.Fatalf("%d answers are remembered, want %d at most", len(r.known), mostRoutes)
		}
	}
}

// What a change makes of an address is known when the call that makes it returns.
func TestNoAnswerIsOlderThanAChange(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	hosttest.New(t)
	r := openTestRoutes(t)
	lo, err := netlink.LinkByName("lo")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.LinkSetUp(lo))
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(up, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("203.0.113.130/25"))}))
	isLocal := func(r foundRoute) bool { return r.kind == unix.RTN_LOCAL }
	for _, row := range []struct {
		what     string
		at       netip.Addr
		do, undo func() error
		is       func(foundRoute) bool // while it is done
	}{
		{"an address", netip.MustParseAddr("203.0.113.5"),
			func() error {
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("203.0.113.5/32"))})
			},
			func() error {
				return netlink.AddrDel(lo, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("203.0.113.5/32"))})
			}, isLocal},
		{"an IPv6 address", netip.MustParseAddr("2001:db8:99::5"),
			func() error {
				return netlink.AddrAdd(lo, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("2001:db8:99::5/128")), Flags: unix.IFA_F_NODAD})
			},
			func() error {
				return netlink.AddrDel(lo, &netlink.Addr{IPNet: rtnl.IPNet(netip.MustParsePrefix("2001:db8:99::5/128"))})
			}, isLocal},
		{"a route", netip.MustParseAddr("203.0.113.6"),
			func() error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
					Dst: rtnl.IPNet(netip.MustParsePrefix("203.0.113.6/32"))})
			},
			func() error {
				return netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST,
					Dst: rtnl.IPNet(netip.MustParsePrefix("203.0.113.6/32"))})
			}, isLocal},
		{"a link that is up", netip.MustParseAddr("203.0.113.200"),
			func() error { return netlink.LinkSetUp(up) }, func() error { return netlink.LinkSetDown(up) },
			func(r foundRoute) bool { return r.index == up.Attrs().Index }},
	} {
		t.Run(row.what, func(t *testing.T) {
			for range 50 {
				hosttest.Must(t, row.do())
				same(t, r, row.at, row.is, true)
				hosttest.Must(t, row.undo())
				same(t, r, row.at, row.is, false)
			}
		})
	}
}

// same waits until the kernel says whether the route to an address is as said, and wants it remembered so.
func same(t *testing.T, r *routes, at netip.Addr, as func(foundRoute) bool, want bool) {
	t.Helper()
	is := func(ask func(netip.Addr, uint32, int) (foundRoute, error)) bool {
		found, err := ask(at, 0, 0)
		return err == nil && as(found)
	}
	is(r.lookup) // it may be remembered as it was
	for limit := time.Now().Add(10 * time.Second); is(r.query.lookup) != want; {
		if time.Now().After(limit) {
			t.Fatalf("the kernel says of the route to %s: %t, want %t", at, !want, want)
		}
	}
	// The kernel tells of an IPv6 address when it has already begun to answer by it.
	for limit := time.Now().Add(routeAge / 2); at.Is6() && is(r.lookup) != want && time.Now().Before(limit); {
		time.Sleep(time.Millisecond)
	}
	if got := is(r.lookup); got != want {
		t.Fatalf("the route to %s: remembered %t, want %t", at, got, want)
	}
}

func BenchmarkRoute(b *testing.B) {
	r := openTestRoutes(b)
	local := netip.MustParseAddr("127.0.0.1")
	for _, row := range []struct {
		name string
		ask  func(netip.Addr, uint32, int) (foundRoute, error)
	}{{"asked", r.query.lookup}, {"remembered", r.lookup}} {
		b.Run(row.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := row.ask(local, 0, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
