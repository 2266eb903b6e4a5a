package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn"
)

// answerLife is for how long an answer waits for a server that asks again. One-time codes are good for about that long.
const answerLife = 2 * time.Minute

// Question is what the server of a transport wants from its user.
type Question struct {
	ID       uint64 // another question of the transport has another; 0: none is open, see Again
	Again    bool   // somebody must sign in, and a new session makes the server ask; then only Why is set, too
	Why      string // why it is asked although it was answered before; may be empty
	URL      string // a page on which to sign in; then nothing below is set
	Text     string // a prompt for the answer
	Echo     bool   // the answer may be shown while it is typed
	User     string // the user name, if it is known
	NeedUser bool   // the user name is asked for, too
}

// Reply is what the user says to a question, or to whatever is asked if its ID is 0.
type Reply struct {
	ID         uint64
	User, Text string
}

// asking passes questions of a server on to whoever answers them.
//
// Before there is a session nobody can wait for a person: the attempt fails, and the answer waits for the next one. In a session the
// server itself has said how long it waits.
type asking struct {
	name  string
	waits func(bool) // told whether a session waits for the user
	log   *slog.Logger

	mu       sync.Mutex // guards below
	last     uint64     // ID of a question
	question *Question
	kind     openvpn.ChallengeKind // of question
	waiting  chan Reply            // of a session that waits for an answer; nil if none does
	ready    *Reply                // for the next attempt
	readyFor openvpn.ChallengeKind
	until    time.Time // of ready
}

// errAsked says that an attempt needs an answer that nobody has given yet.
func (a *asking) errAsked(q Question) error {
	return &transport.BlockedError{
		Reason: transport.ReasonSignIn,
		Err:    fmt.Errorf("the server asks for %q: answer with \"penstock login %s\"", q.Text, a.name),
	}
}

// ask returns the user's answer to a challenge.
func (a *asking) ask(ctx context.Context, c openvpn.Challenge) (Reply, error) {
	switch c.Kind {
	case openvpn.ChallengeWeb:
		defer a.wait(Question{URL: c.Text, Why: c.Why}, nil)()
		<-ctx.Done() // the server says when it is over
		return Reply{}, nil
	case openvpn.ChallengeText:
		answer := make(chan Reply, 1)
		defer a.wait(Question{Text: c.Text, Echo: c.Echo, User: c.User, Why: c.Why}, answer)()
		select {
		case <-ctx.Done():
			return Reply{}, ctx.Err()
		case got := <-answer:
			return got, nil
		}
	}
	if got, ok := a.take(c.Kind); ok {
		return got, nil
	}
	q := Question{Text: c.Text, Echo: c.Echo, User: c.User, Why: c.Why, NeedUser: c.Kind == openvpn.ChallengePassword && c.User == ""}
	if c.Kind == openvpn.ChallengePassword {
		q.Text = "Password"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.poseLocked(q, c.Kind, nil)
	return Reply{}, a.errAsked(q)
}

// poseLocked shows a question and returns its ID. One that is open already keeps its ID: whoever is about to answer it still can.
func (a *asking) poseLocked(q Question, kind openvpn.ChallengeKind, answer chan Reply) (id uint64) {
	if a.question != nil {
		q.ID = a.question.ID
	}
	if answer == nil && q.URL == "" && a.question != nil && *a.question == q && a.kind == kind {
		return q.ID
	}
	a.last++
	q.ID = a.last
	a.question, a.kind, a.waiting = &q, kind, answer
	a.log.Info("the transport's server waits for its user", "transport", a.name, "login", "penstock login "+a.name)
	return q.ID
}

// wait shows the question of a session that waits. The function that it returns says that the session waits no longer, unless there
// is another question by then.
func (a *asking) wait(q Question, answer chan Reply) (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := openvpn.ChallengeWeb
	if q.URL == "" {
		kind = openvpn.ChallengeText
	}
	id := a.poseLocked(q, kind, answer)
	a.waits(true)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.last == id {
			a.question, a.waiting = nil, nil
			a.waits(false)
		}
	}
}

// take returns an answer that was given for the next attempt.
func (a *asking) take(kind openvpn.ChallengeKind) (Reply, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.ready
	if got == nil || a.readyFor != kind {
		return Reply{}, false
	}
	a.ready = nil
	return *got, !time.Now().After(a.until)
}

// settle takes all questions away: the server is content.
func (a *asking) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.question, a.waiting, a.ready = nil, nil, nil
}

// pending returns the question that waits for an answer.
func (a *asking) pending() (Question, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.question == nil {
		return Question{}, false
	}
	return *a.question, true
}

// answer takes an answer. Again reports whether it is for another attempt, which somebody must start.
func (a *asking) answer(got Reply) (again bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.question == nil:
		return false, fmt.Errorf("the server of %s asks nothing at present: \"penstock status\" says what it waits for", a.name)
	case got.ID != 0 && got.ID != a.question.ID:
		return false, fmt.Errorf("the server of %s asks something else by now: \"penstock login %s\" shows it", a.name, a.name)
	case a.question.URL != "":
		return false, fmt.Errorf("the server of %s waits for its page %s, not for an answer", a.name, a.question.URL)
	case got.Text == "":
		return false, errors.New("the answer is empty")
	}
	waiting, kind := a.waiting, a.kind
	a.question, a.waiting = nil, nil
	if waiting != nil {
		waiting <- got
		return false, nil
	}
	a.ready, a.readyFor, a.until = &got, kind, time.Now().Add(answerLife)
	return true, nil
}
