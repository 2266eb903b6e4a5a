package router

import (
	"net/netip"
	"sync"
	"time"

	"penstock/policy"
)

// maxStorms is how many pairs of client and destination are counted.
const maxStorms = 4096

// storms counts refusals, so that a client that keeps trying the same destination gets no more answers: they would cost more
// than they help. With limit 0 every flow is answered.
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

// refused counts a refusal and reports whether it exceeds the limit.
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
		for old, p := range s.pairs { // expired pairs go first; in a flood, any pair
			delete(s.pairs, old)
			if now.Sub(p.began) < s.window {
				break
			}
		}
	}
	s.pairs[k] = p
	return p.count > s.limit
}
