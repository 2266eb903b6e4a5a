package door

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// provedLasts is how long a cookie is good for.
	provedLasts = 120 * time.Second
	// sessionLasts is more than there may be between two handshakes of a session: 180 s, and 90 s for those that are lost.
	sessionLasts = 300 * time.Second

	mostProved   = 4096
	mostSessions = 1 << 16 // as many peers as a device has
)

// proved is the addresses at which somebody is. Those where peers have sessions have a place of their own, which nobody else can fill.
type proved struct {
	made time.Time

	mu       sync.RWMutex // guards below
	cookies  map[netip.Addr]time.Duration
	sessions map[netip.Addr]time.Duration // until when, after made
}

func newProved() *proved {
	return &proved{made: time.Now(), cookies: make(map[netip.Addr]time.Duration), sessions: make(map[netip.Addr]time.Duration)}
}

// has reports whether an address is proved.
func (p *proved) has(addr netip.Addr, now time.Time) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	at := now.Sub(p.made)
	return at < p.sessions[addr] || at < p.cookies[addr]
}

// cookie remembers an address from which somebody came with a good cookie.
func (p *proved) cookie(addr netip.Addr, now time.Time) {
	p.remember(p.cookies, mostProved, addr, now, provedLasts)
}

// session remembers an address where a peer's handshake is answered.
func (p *proved) session(addr netip.Addr, now time.Time) {
	p.remember(p.sessions, mostSessions, addr, now, sessionLasts)
}

// remember forgets what is out of date when there is no room. Without any it does nothing: an address can be proved each time.
func (p *proved) remember(in map[netip.Addr]time.Duration, most int, addr netip.Addr, now time.Time, lasts time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := in[addr]; !known && len(in) >= most {
		for other, until := range in {
			if now.Sub(p.made) >= until {
				delete(in, other)
			}
		}
		if len(in) >= most {
			return
		}
	}
	in[addr] = now.Sub(p.made) + lasts
}
