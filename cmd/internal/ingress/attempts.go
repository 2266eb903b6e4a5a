package ingress

import (
	"net/netip"
	"sync"
	"time"

	"penstock/cmd/internal/door"
)

const (
	maxWrong    = 10          // wrong passwords that one source may try
	wrongWindow = time.Minute // within this time
	maxSources  = 8192        // that are remembered
)

// attempts counts wrong passwords by source.
type attempts struct {
	clock func() time.Time

	mu    sync.Mutex // guards below
	wrong map[source]tally
}

// source is who tries: an address, and on loopback, which everybody on the machine shares, the name that it gives.
type source struct {
	addr netip.Addr
	name string
}

type tally struct {
	n     int
	since time.Time
}

// sourceOf returns the source of an attempt. All addresses of an IPv6 /64 are one, because one host can use all of them.
func sourceOf(addr netip.Addr, name string) source {
	if addr.IsLoopback() {
		return source{addr, name}
	}
	return source{addr: door.Source(addr).Addr()}
}

// exhausted reports whether a source has tried too often.
func (a *attempts) exhausted(s source) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.wrong[s]
	return t.n >= maxWrong && a.clock().Sub(t.since) < wrongWindow
}

// failed notes a wrong password. If too many sources are remembered, one is forgotten: a source cannot choose which.
func (a *attempts) failed(s source) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	t, known := a.wrong[s]
	if now.Sub(t.since) >= wrongWindow {
		t = tally{since: now}
	}
	t.n++
	if !known && len(a.wrong) >= maxSources {
		a.makeRoomLocked(now)
	}
	a.wrong[s] = t
}

func (a *attempts) makeRoomLocked(now time.Time) {
	for s, t := range a.wrong {
		if now.Sub(t.since) >= wrongWindow {
			delete(a.wrong, s)
		}
	}
	for s := range a.wrong { // in no order
		if len(a.wrong) < maxSources {
			return
		}
		delete(a.wrong, s)
	}
}
