package door

import (
	"sync"
	"time"
)

const (
	// mostGiven is how many initiations the device has at a time: half of what it takes for load, at which it demands cookies.
	mostGiven = 64
	// givenLasts is after what time an initiation that was not answered does not count any more: the device has dropped it.
	givenLasts = 250 * time.Millisecond
)

// given counts the initiations that the device has and has not answered.
type given struct {
	freed chan struct{} // capacity 1: there may be room

	mu    sync.Mutex  // guards below
	until []time.Time // the oldest first
}

func newGiven() *given { return &given{freed: make(chan struct{}, 1)} }

// take returns for how many initiations there is room, at most n, and counts them. If there is none, it returns how long until there is
// some if nothing is answered.
func (g *given) take(n int, now time.Time) (taken int, wait time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.until) > 0 && !now.Before(g.until[0]) {
		g.until = g.until[1:]
	}
	taken = min(n, mostGiven-len(g.until))
	if taken == 0 && n > 0 {
		return 0, g.until[0].Sub(now)
	}
	for range taken {
		g.until = append(g.until, now.Add(givenLasts))
	}
	return taken, 0
}

// answered counts an answer.
func (g *given) answered() {
	g.mu.Lock()
	if len(g.until) > 0 {
		g.until = g.until[1:]
	}
	g.mu.Unlock()
	select {
	case g.freed <- struct{}{}:
	default:
	}
}
