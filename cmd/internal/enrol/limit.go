package enrol

import (
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// What attempts to join are bounded by. Nobody guesses a token: this bounds the work and the log.
const (
	sourceBurst = 20 // attempts of a source at once, for an office behind one address
	sourceEvery = 6 * time.Second
	allBurst    = 200 // failures of all sources at once
	allEvery    = 100 * time.Millisecond
	mostSources = 4096 // that are remembered
)

// How many connections are open at once.
const (
	mostConns          = 512
	mostConnsPerSource = 16
)

// limit bounds attempts. A source that has never failed is always heard once, so that a flood from elsewhere keeps nobody out.
type limit struct {
	mu      sync.Mutex // guards below
	sources *simplelru.LRU[netip.Prefix, *rate.Limiter]
	all     *rate.Limiter
}

func newLimit() *limit {
	sources, err := simplelru.NewLRU[netip.Prefix, *rate.Limiter](mostSources, nil)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return &limit{sources: sources, all: rate.NewLimiter(rate.Every(allEvery), allBurst)}
}

// begin reports whether an attempt of a source may be looked at.
func (l *limit) begin(from netip.Prefix, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, known := l.sources.Get(from)
	if !known {
		own = rate.NewLimiter(rate.Every(sourceEvery), sourceBurst)
		l.sources.Add(from, own)
	}
	return own.AllowN(now, 1) && (!known || l.all.TokensAt(now) >= 1)
}

// failed notes that an attempt failed, and reports whether there are few enough for each to be told.
func (l *limit) failed(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.AllowN(now, 1)
}

// succeeded forgets what a source did before: others may join from the same address.
func (l *limit) succeeded(from netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sources.Remove(from)
}
