package signin

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
)

// Session is who has signed in with a peer.
type Session struct {
	Peer    string    `json:"peer"` // config.Peer.ID: the public key, if it has one
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

	saving sync.Mutex // held while the file is written
	mu     sync.Mutex // held while byPeer changes, and for no longer: a slow disk keeps no session alive
}

func newSessions(key string, m *Metrics) (*sessions, error) {
	store, err := newStore(key)
	s := &sessions{store: store, metrics: m, changed: make(chan struct{}, 1)}
	s.byPeer.Store(&map[string]*Session{})
	return s, err
}

// of returns the session of a peer, which may be over.
func (s *sessions) of(peer string) (Session, bool) {
	one, ok := (*s.byPeer.Load())[peer]
	if !ok {
		return Session{}, false
	}
	return *one, true
}

// until returns when a session ends. A configuration in which sessions are shorter than before shortens those that have begun.
func until(one *Session, settings *config.SignIn) time.Time {
	if end := one.Since.Add(settings.Session); end.Before(one.Until) {
		return end
	}
	return one.Until
}

// over returns why a session does not count under a configuration, or "" if it does. It does not look at the peer.
func over(one *Session, cfg *config.Config, now time.Time) string {
	switch settings := cfg.SignIn; {
	case settings == nil:
		return "nobody signs in any more"
	case one.Issuer != settings.OIDC.Issuer || one.Client != settings.OIDC.ClientID:
		return "the provider is another one now"
	case !now.Before(until(one, settings)):
		return "the session is over"
	}
	return ""
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
		timer.Reset(min(endLook, max(s.endOver(time.Now()), 0)))
	}
}

// endLook is how often sessions are looked at, because a reload or a change of the clock may end them.
const endLook = time.Second

// endOver ends the sessions that are over at a time, and those of peers that are disabled or not there any more: whoever comes under
// the name of such a peer later has not signed in. It returns how long the next one has.
func (s *Service) endOver(now time.Time) (next time.Duration) {
	next = endLook
	all := *s.sessions.byPeer.Load()
	if len(all) == 0 {
		return next
	}
	cfg, present, ended := s.Live.Config(), make(map[string]bool), make(map[string][]Session)
	for _, p := range cfg.Peers.All() {
		present[p.ID()] = !p.Disabled
	}
	for peer, one := range all {
		why := over(one, cfg, now)
		if why == "" && !present[peer] {
			why = "the peer is gone"
		}
		if why == "" {
			next = min(next, until(one, cfg.SignIn).Sub(now))
		} else if gone, ok := s.sessions.end(peer, one); ok {
			ended[why] = append(ended[why], gone)
		}
	}
	for why, list := range ended {
		s.ended(why, list...)
	}
	return next
}
