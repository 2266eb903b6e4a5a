package dnsproxy

import (
	"math"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

const (
	maxInFlight = 1024
	clientRate  = 1000 // queries per second that reach upstreams
	maxConns    = 256
	maxClients  = 4096 // whose usage is remembered
)

// limits bounds what clients cost beyond a cached answer: queries in flight to upstreams, and TCP connections.
type limits struct {
	mu       sync.Mutex // guards below
	inFlight int
	conns    int
	clients  *simplelru.LRU[uint64, *use] // by client key
}

// use is what one client uses now.
type use struct {
	inFlight int
	conns    int
	pace     *rate.Limiter
}

// admission says whether a query may go to upstreams.
type admission uint8

const (
	admitted admission = iota
	overRate           // the client asks too fast
	overLoad           // too many queries wait already
	overAll            // the server is closing
)

func newLimits() *limits {
	clients, _ := simplelru.NewLRU[uint64, *use](math.MaxInt, nil) // bounded by clientLocked
	return &limits{clients: clients}
}

// admit lets a query of client go to upstreams. Done must be called when it is back.
func (l *limits) admit(client uint64, now time.Time, set *Settings) (done func(), a admission) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.clientLocked(client)
	if l.inFlight >= set.MaxInFlight || u.inFlight >= max(set.MaxInFlight*2/3, 1) {
		return nil, overLoad
	}
	if !u.takes(now, set.ClientRate) {
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

// takes reports whether the client's rate allows another query. A burst is two seconds' worth. A negative rate is no bound.
func (u *use) takes(now time.Time, perSecond int) bool {
	limit := rate.Limit(perSecond)
	switch {
	case perSecond < 0:
		return true
	case u.pace == nil:
		u.pace = rate.NewLimiter(limit, 2*perSecond)
	case u.pace.Limit() != limit:
		u.pace.SetLimitAt(now, limit)
		u.pace.SetBurstAt(now, 2*perSecond)
	}
	return u.pace.AllowN(now, 1)
}

// connect lets a client have one more TCP connection. Done must be called when it is closed.
func (l *limits) connect(client uint64, set *Settings) (done func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.clientLocked(client)
	if l.conns >= set.MaxConns || u.conns >= max(set.MaxConns/4, 1) {
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

// clientLocked returns the usage of a client. The client that was idle for longest is forgotten when there are too many, and its
// rate starts afresh. One with queries in flight or connections is never forgotten, or it could take its share twice.
func (l *limits) clientLocked(client uint64) *use {
	if u, ok := l.clients.Get(client); ok {
		return u
	}
	for range l.clients.Len() {
		if l.clients.Len() < maxClients {
			break
		}
		key, oldest, _ := l.clients.GetOldest()
		if oldest.inFlight == 0 && oldest.conns == 0 {
			l.clients.Remove(key)
		} else {
			l.clients.Get(key) // makes it the newest
		}
	}
	u := &use{}
	l.clients.Add(client, u)
	return u
}
