package laptop

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"penstock/cmd/internal/edition"
)

func TestServersOfTheLANAreThoseOnANetworkOfTheHost(t *testing.T) {
	networks := map[string][]netip.Prefix{
		"eth0":    {netip.MustParsePrefix("192.168.1.0/24"), netip.MustParsePrefix("fd00:1::/64"), netip.MustParsePrefix("fe80::/64")},
		"docker0": {netip.MustParsePrefix("172.17.0.0/16")},
	}
	for servers, want := range map[string]string{
		"192.168.1.1":    "[192.168.1.1] on [192.168.1.0/24 fd00:1::/64]",
		"fe80::53%eth0":  "[fe80::53%eth0] on [192.168.1.0/24 fd00:1::/64]",
		"203.0.113.53":   "[] on []",
		"10.20.0.53":     "[] on []",
		"fe80::53%wlan0": "[] on []",
	} {
		lan := lanOf(networks, []netip.Addr{netip.MustParseAddr(servers)})
		if got := fmt.Sprint(lan.Servers, " on ", lan.Networks); got != want {
			t.Errorf("%s: got %s, want %s", servers, got, want)
		}
	}
}

func TestTheLANIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lan atomic.Pointer[edition.LAN]
		set := func(domains ...string) { lan.Store(&edition.LAN{Search: domains}) }
		set()
		fresh := 0
		n := &lanNames{look: func(context.Context) edition.LAN { return *lan.Load() }, fresh: func() { fresh++ }, changed: make(chan struct{}, 1)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- n.run(ctx) }()
		after := func(d time.Duration, domain string, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := n.now().Search; fmt.Sprint(got) != domain || fresh != want {
				t.Errorf("after %s: got %v, put in force %d times; want %s, %d", d, got, fresh, domain, want)
			}
		}
		after(0, "[]", 0)
		set("home.example")
		n.again()
		after(0, "[home.example]", 1)
		set("corp.example") // DHCP is later than the route
		after(lanAfterChange, "[corp.example]", 2)
		after(lanWithout, "[corp.example]", 2)
		set()
		after(lanWithout, "[]", 3)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
