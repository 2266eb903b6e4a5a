package signin

import (
	"crypto/sha256"
	"crypto/subtle"
	"sync"
	"time"
)

// Bounds of what has begun.
const (
	pendingLife   = 10 * time.Minute
	maxPending    = 1000 // in all
	clientPending = 8    // of one peer
)

// pending is a sign-in that has begun and waits for the browser to come back from the provider.
type pending struct {
	client   uint64   // who began it
	peer     string   // the public key of that
	browser  [32]byte // digest of the cookie
	nonce    string
	verifier string // of PKCE
	until    time.Time
}

// pendings holds what has begun, by state. When there is no room, the oldest makes it.
type pendings struct {
	mu      sync.Mutex // guards below
	byState map[string]pending
	order   []string // oldest first; a state that is gone may still be in it
}

// maxAttempts is how often a peer may begin to sign in, or come back, in a minute: the provider limits all of the gateway's questions
// together, so one peer must not use them up.
const maxAttempts = 60

// attempts counts what each client tries in a minute.
type attempts struct {
	mu    sync.Mutex // guards below
	since time.Time
	tried map[uint64]int // by client
}

// allow counts an attempt of a client, and reports whether it may be made.
func (a *attempts) allow(client uint64, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if passed := now.Sub(a.since); a.tried == nil || passed >= time.Minute || passed < 0 {
		a.since, a.tried = now, make(map[uint64]int)
	}
	if a.tried[client] >= maxAttempts {
		return false
	}
	a.tried[client]++
	return true
}

func digest(cookie string) [32]byte { return sha256.Sum256([]byte(cookie)) }

// begin notes what begins, and returns its state.
func (p *pendings) begin(one pending, now time.Time) (state string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byState == nil {
		p.byState = make(map[string]pending)
	}
	of, oldest := 0, ""
	kept := p.order[:0]
	for _, state := range p.order {
		was, there := p.byState[state]
		switch {
		case !there:
			continue
		case !now.Before(was.until):
			delete(p.byState, state)
			continue
		case was.client == one.client:
			if of++; oldest == "" {
				oldest = state
			}
		}
		kept = append(kept, state)
	}
	p.order = kept
	switch {
	case of >= clientPending:
		delete(p.byState, oldest)
	case len(p.byState) >= maxPending:
		delete(p.byState, p.order[0])
	}
	state = secret()
	one.until = now.Add(pendingLife)
	p.byState[state] = one
	p.order = append(p.order, state)
	return state
}

// take returns what has begun with a state, once, if the same client and the same browser began it.
func (p *pendings) take(state string, client uint64, cookie string, now time.Time) (pending, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one, ok := p.byState[state]
	if !ok || one.client != client { // that of another client stays as it is
		return pending{}, false
	}
	delete(p.byState, state)
	browser := digest(cookie)
	ok = now.Before(one.until) && subtle.ConstantTimeCompare(one.browser[:], browser[:]) == 1
	return one, ok
}
