package dnsproxy

import (
	"sync"
	"time"
)

const (
	maxInFlight = 1024
	clientRate  = 1000 // queries per second that reach upstreams
	maxConns    = 256
	maxClients  = 4096 // whose use is remembered
)

// limits bounds what clients cost beyond a cached answer: queries with upstreams and TCP connections.
type limits struct {
	mu       sync.Mutex // guards below
	inFlight int
	conns    int
	clients  *lru[uint64, *use]
}

// use is what one client uses now.
type use struct {
	inFlight int
	conns    int
	tokens   float64 // queries that it may cause at once
	filled   time.Time
}

// admission says whether a query may go to upstreams.
type admission uint8

const (
	admitted admission = iota
	overRate           // the client asks too fast
	overLoad           // too many queries wait already
)

func newLimits() *limits { return &limits{clients: newLRU[uint64, *use]()} }

// admit lets a query of client go to upstreams. Done must be called when it is back.
func (l *limits) admit(client uint64, now time.Time, set *Settings) (done func(), a admission) {
	most := set.MaxInFlight
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.clientLocked(client)
	if l.inFlight >= most || u.inFlight >= max(most*2/3, 1) {
		return nil, overLoad
	}
	if !u.take(now, float64(set.ClientRate)) {
		return nil, overRate
	}
	l.inFlight++
	u.inFlight++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.inFlight--
		u.inFlight--
	}, admitted
}

// take takes a token from a bucket that holds two seconds' worth. A negative rate is no bound.
func (u *use) take(now time.Time, rate float64) bool {
	if rate < 0 {
		return true
	}
	u.tokens = min(u.tokens+rate*max(now.Sub(u.filled), 0).Seconds(), 2*rate)
	u.filled = now
	if u.tokens < 1 {
		return false
	}
	u.tokens--
	return true
}

// connect lets a client have one more TCP connection. Done must be called when it is closed.
func (l *limits) connect(client uint64, set *Settings) (done func(), ok bool) {
	most := set.MaxConns
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.clientLocked(client)
	if l.conns >= most || u.conns >= max(most/4, 1) {
		return nil, false
	}
	l.conns++
	u.conns++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.conns--
		u.conns--
	}, true
}

// clientLocked finds the use of a client. One that has not been seen for long is forgotten, which makes its bucket full.
func (l *limits) clientLocked(client uint64) *use {
	if n := l.clients.get(client); n != nil {
		l.clients.touch(n)
		return n.value
	}
	if l.clients.len() >= maxClients {
		l.clients.remove(l.clients.oldest())
	}
	return l.clients.add(client, &use{}).value
}
