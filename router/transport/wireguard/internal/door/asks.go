package door

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// CookieRate bounds how many cookies are sent in a second. One takes about 10 µs, so it is a twentieth of a core.
	CookieRate = 5000
	// CookieBurst is how many may be sent at once, as after an outage.
	CookieBurst = 2000

	// Of one address few are sent a cookie beyond the first: it proves the address for whoever else is there.
	askEvery = 200 * time.Millisecond
	askBurst = 1000 // peers behind one address that come back at once

	askSlots = 1024 // of 8 bytes
)

// asks says who is sent a cookie. Addresses share slots, and nobody can know with whom: a flood from few addresses leaves those of others.
type asks struct {
	all  *rate.Limiter
	seed maphash.Seed
	made time.Time

	mu    sync.Mutex              // guards below
	slots [askSlots]time.Duration // when the last that was taken would have come without a burst, after made
}

func newAsks() *asks {
	return &asks{all: rate.NewLimiter(CookieRate, CookieBurst), seed: maphash.MakeSeed(), made: time.Now()}
}

// open reports whether an address may be sent a cookie.
func (a *asks) open(addr netip.Addr, now time.Time) bool {
	if a.all.TokensAt(now) < 1 {
		return false
	}
	slot := a.slot(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := next(*slot, now.Sub(a.made))
	return ok
}

// take is open, and counts the cookie.
func (a *asks) take(addr netip.Addr, now time.Time) bool {
	slot := a.slot(addr)
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := next(*slot, now.Sub(a.made))
	if !ok || !a.all.AllowN(now, 1) {
		return false
	}
	*slot = at
	return true
}

// slot returns the slot of an address. Who has one IPv6 address of a network has all.
func (a *asks) slot(addr netip.Addr) *time.Duration {
	if addr.Is6() {
		addr = netip.PrefixFrom(addr, 64).Masked().Addr()
	}
	return &a.slots[maphash.Comparable(a.seed, addr)%askSlots]
}

// next returns what a slot becomes with one more cookie, and whether it may have one.
func next(slot, now time.Duration) (at time.Duration, ok bool) {
	at = max(slot, now) + askEvery
	return at, at-now <= askBurst*askEvery
}
