package privatedns

import (
	"net/netip"
	"sync"
	"time"

	"penstock/dnsproxy"
)

const (
	maxGuesses = 20   // unknown tokens from one address
	maxSources = 4096 // addresses that are counted
	window     = time.Minute
)

// guesses counts unknown tokens by the address that they come from, in a window of time.
type guesses struct {
	mu    sync.Mutex // guards below
	until time.Time
	count map[uint64]int
}

// tooMany counts an unknown token and reports whether there have been too many. If there are too many addresses, each has.
func (g *guesses) tooMany(src netip.Addr, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.count == nil || !now.Before(g.until) {
		g.count, g.until = make(map[uint64]int), now.Add(window)
	}
	key := dnsproxy.AddressKey(src)
	n, counted := g.count[key]
	if !counted && len(g.count) >= maxSources {
		return true
	}
	g.count[key] = min(n+1, maxGuesses+1)
	return n >= maxGuesses
}
