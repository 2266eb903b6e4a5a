package signin

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Session is who has signed in with a peer.
type Session struct {
	Peer    string    `json:"peer"` // public key
	User    string    `json:"user"`
	Subject string    `json:"subject"` // what the provider calls the user
	Groups  []string  `json:"groups"`
	Since   time.Time `json:"since"`
	Until   time.Time `json:"until"`

	Issuer  string    `json:"issuer"` // and the client there that the user signed in to
	Client  string    `json:"client"`
	Checked time.Time `json:"checked"` // when the provider last knew the account
	Refresh string    `json:"refresh"` // token to ask it again; empty: it has given none

	tried time.Time // when it was last asked
}

// sessions holds one session for each peer at most.
type sessions struct {
	store   store
	metrics *Metrics
	byPeer  atomic.Pointer[map[string]*Session] // neither the map nor a session is changed
	changed chan struct{}                       // capacity 1: another session may end first now

	mu sync.Mutex // held while byPeer changes
}

func newSessions(key string, m *Metrics) (*sessions, error) {
	store, err := newStore(key)
	s := &sessions{store: store, metrics: m, changed: make(chan struct{}, 1)}
	s.byPeer.Store(&map[string]*Session{})
	return s, err
}

// of returns the session of a peer.
func (s *sessions) of(peer string, now time.Time) (Session, bool) {
	one, ok := (*s.byPeer.Load())[peer]
	if !ok || !now.Before(one.Until) {
		return Session{}, false
	}
	return *one, true
}

// change changes a copy of the sessions and puts it in force.
func (s *sessions) change(change func(map[string]*Session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := maps.Clone(*s.byPeer.Load())
	change(next)
	s.byPeer.Store(&next)
	s.metrics.count(len(next))
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// begin puts a session in the place of the peer's former one.
func (s *sessions) begin(one Session) { s.change(func(m map[string]*Session) { m[one.Peer] = &one }) }

// replace puts next in the place of a session, unless that is over or another has begun.
func (s *sessions) replace(was *Session, next Session) (ok bool) {
	s.change(func(m map[string]*Session) {
		if ok = m[was.Peer] == was; ok {
			m[was.Peer] = &next
		}
	})
	return ok
}

// end ends the session of a peer, if it is still was. Nil is any.
func (s *sessions) end(peer string, was *Session) (one Session, ok bool) {
	s.change(func(m map[string]*Session) {
		now, has := m[peer]
		if ok = has && (was == nil || now == was); ok {
			one = *now
			delete(m, peer)
		}
	})
	return one, ok
}

// over ends the sessions that are over at a time, and returns them and when the next one is; zero if there is none.
func (s *sessions) over(now time.Time) (ended []Session, next time.Time) {
	for peer, one := range *s.byPeer.Load() {
		if !now.Before(one.Until) {
			if gone, ok := s.end(peer, one); ok {
				ended = append(ended, gone)
			}
		} else if next.IsZero() || one.Until.Before(next) {
			next = one.Until
		}
	}
	return ended, next
}

// endSessions ends sessions when they are over, until ctx ends.
func (s *Service) endSessions(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.sessions.changed:
		case <-timer.C:
		}
		ended, next := s.sessions.over(time.Now())
		s.ended("the session is over", ended...)
		wait := 30 * time.Second // so that a change of the clock is noticed
		if !next.IsZero() {
			wait = min(wait, max(time.Until(next), 0))
		}
		timer.Reset(wait)
	}
}
