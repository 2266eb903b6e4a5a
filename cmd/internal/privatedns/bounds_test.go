package privatedns

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestGuesses: an address may err for a while, and no other pays for it.
func TestGuesses(t *testing.T) {
	var g guesses
	now := time.Now()
	eve, ana := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range 100 {
		if got := g.tooMany(eve, now); got != (i >= maxGuesses) {
			t.Fatalf("guess %d: got %t", i, got)
		}
	}
	if g.tooMany(ana, now) {
		t.Error("another address is limited")
	}
	if !g.tooMany(eve, now.Add(window-1)) || g.tooMany(eve, now.Add(window)) {
		t.Error("the window does not end when it should")
	}
	one, two := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	for range maxGuesses {
		g.tooMany(one, now)
	}
	if !g.tooMany(two, now) {
		t.Error("a host with a network of its own may guess with each of its addresses")
	}
}

// TestManyGuessers: what is remembered is bounded, and fails closed.
func TestManyGuessers(t *testing.T) {
	var g guesses
	now := time.Now()
	limited := 0
	for i := range 2 * maxSources {
		if g.tooMany(netip.MustParseAddr(fmt.Sprintf("10.%d.%d.1", i>>8, i&255)), now) {
			limited++
		}
	}
	if limited != maxSources || len(g.count) != maxSources {
		t.Errorf("got %d limited and %d remembered, want %d each", limited, len(g.count), maxSources)
	}
}
