package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
	"time"
)

const (
	tokenLife   = 5 * time.Minute // of a link that nobody has opened
	sessionIdle = 12 * time.Hour  // after the last request
	// Who may only read fills no place of who may change something, and the other way round.
	maxTokens   = 64 // of each
	maxSessions = 64 // of each
)

var (
	errManyLinks = errors.New("64 links wait to be opened already: open one of them, or wait five minutes")
	errNoToken   = errors.New(`this link has been opened before, or is older than five minutes: make another one with "penstock console"`)
	errNoSession = errors.New(`open the console with "penstock console"`)
)

// digest is what is kept of a secret.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// sessions is who may come in. The zero sessions is nobody.
type sessions struct {
	mu     sync.Mutex // guards below
	tokens map[digest]invitation
	open   map[digest]*session // by the digest of the cookie
}

type invitation struct {
	until    time.Time
	readOnly bool
}

type session struct {
	key      digest
	readOnly bool
	last     time.Time     // of a request
	over     chan struct{} // closed when it ends
}

// visit is what a request may do.
type visit struct {
	cookie   string
	readOnly bool
	over     <-chan struct{} // closed when the session ends
}

// invite makes a token that opens one session.
func (s *sessions) invite(readOnly bool, now time.Time) (token string, until time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := 0
	for d, i := range s.tokens {
		switch {
		case !now.Before(i.until):
			delete(s.tokens, d)
		case i.readOnly == readOnly:
			waiting++
		}
	}
	if waiting >= maxTokens {
		return "", time.Time{}, errManyLinks
	}
	if s.tokens == nil {
		s.tokens = make(map[digest]invitation)
	}
	token, until = rand.Text(), now.Add(tokenLife)
	s.tokens[digestOf(token)] = invitation{until, readOnly}
	return token, until, nil
}

// begin exchanges a token for a session.
func (s *sessions) begin(token string, now time.Time) (cookie, key string, readOnly bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digestOf(token)
	i, ok := s.tokens[d]
	delete(s.tokens, d)
	if !ok || !now.Before(i.until) {
		return "", "", false, errNoToken
	}
	s.makeRoom(i.readOnly, now)
	if s.open == nil {
		s.open = make(map[digest]*session)
	}
	cookie, key = rand.Text(), rand.Text()
	s.open[digestOf(cookie)] = &session{key: digestOf(key), readOnly: i.readOnly, last: now, over: make(chan struct{})}
	return cookie, key, i.readOnly, nil
}

// makeRoom ends the sessions that are over, and if there are too many with the same rights, the one of them that was used least recently.
func (s *sessions) makeRoom(readOnly bool, now time.Time) {
	var oldest digest
	same := 0
	for d, one := range s.open {
		if now.Sub(one.last) > sessionIdle {
			s.drop(d)
			continue
		}
		if one.readOnly != readOnly {
			continue
		}
		same++
		if o, ok := s.open[oldest]; !ok || one.last.Before(o.last) {
			oldest = d
		}
	}
	if same >= maxSessions {
		s.drop(oldest)
	}
}

// find returns what a session may do. Both its secrets are needed.
func (s *sessions) find(cookie, key string, now time.Time) (visit, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one, ok := s.open[digestOf(cookie)]
	if !ok || now.Sub(one.last) > sessionIdle {
		return visit{}, errNoSession
	}
	if got := digestOf(key); subtle.ConstantTimeCompare(got[:], one.key[:]) == 0 {
		return visit{}, errNoSession
	}
	one.last = now
	return visit{cookie, one.readOnly, one.over}, nil
}

// end ends a session.
func (s *sessions) end(cookie string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(digestOf(cookie))
}

// drop ends a session, and what goes on in it.
func (s *sessions) drop(d digest) {
	if one, ok := s.open[d]; ok {
		close(one.over)
		delete(s.open, d)
	}
}
