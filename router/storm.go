package router

import (
	"net/netip"
	"sync"
	"time"

	"penstock/policy"
)

// maxStorms bounds the (client, destination) pairs whose refusals are counted.
const maxStorms = 4096

// storms turns refusals into silence for a client that goes on and on at the same destination: answering each would cost
// more than it tells. The zero storms never does.
type storms struct {
	limit  int
	window time.Duration

	mu    *sync.Mutex // guards below
	pairs map[stormKey]storm
}

type stormKey struct {
	client uint64
	dst    netip.AddrPort
	proto  policy.Network
}

type storm struct {
	began time.Time
	count int
}

func newStorms(limit int, window time.Duration) storms {
	return storms{limit: limit, window: window, mu: new(sync.Mutex), pairs: make(map[stormKey]storm)}
}

// refused counts a refusal and reports whether it is one too many.
func (s *storms) refused(f *policy.Flow, now time.Time) bool {
	if s.limit <= 0 {
		return false
	}
	k := stormKey{f.Client, f.Dst, f.Network}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pairs[k]
	if now.Sub(p.began) >= s.window {
		p = storm{began: now}
	}
	p.count++
	if _, known := s.pairs[k]; !known && len(s.pairs) >= maxStorms {
		for old, p := range s.pairs { // what is over goes first; in a flood, anything
			delete(s.pairs, old)
			if now.Sub(p.began) < s.window {
				break
			}
		}
	}
	s.pairs[k] = p
	return p.count > s.limit
}
