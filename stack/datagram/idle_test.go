package datagram

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"penstock/stack/packet"
)

// Flows of one question and one answer are kept for as long as others, unless their client holds more than its share.
func TestACrowdOfShortExchangesEndsEarly(t *testing.T) {
	for _, row := range []struct {
		name  string
		flows int           // of which one goes on for longer than an exchange; five are a client's share
		after time.Duration // the last packet
		left  int
	}{
		{"a share", 5, 59 * time.Second, 5},
		{"a share, idle", 5, 61 * time.Second, 0},
		{"more than a share, at first", 8, 29 * time.Second, 8},
		{"more than a share", 8, 31 * time.Second, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			table := newTable(t, new(slow), func(_ context.Context, c *Conn) {
				c.Accept()
				c.Each(c.WriteAll)
			})
			for port := range uint16(row.flows) {
				from := netip.AddrPortFrom(here.Addr(), 1000+port)
				say := func() {
					table.Arrived(UDP, Pair{Remote: from, Local: netip.AddrPortFrom(there.Addr(), 4000)}, []byte("x"), packet.Manner{})
				}
				say()
				if port == 0 {
					time.Sleep(3 * time.Second)
					say()
				}
				synctest.Wait() // only a few may begin at once
			}
			time.Sleep(row.after)
			if got := table.Sweep(time.Now().UnixNano()); got != row.left {
				t.Errorf("%s: got %d flows left, want %d", row.name, got, row.left)
			}
			table.Close()
		})
	}
}
