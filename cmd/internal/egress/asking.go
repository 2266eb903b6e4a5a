package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"penstock/router/transport/openvpn"
)

// answerLife is for how long an answer waits for a server that asks again. One-time codes are good for about that long.
const answerLife = 2 * time.Minute

// Question is what the server of a transport wants from its user.
type Question struct {
	URL      string // a page on which to sign in; then nothing else is set
	Text     string // a prompt for the answer
	Echo     bool   // the answer may be shown while it is typed
	User     string // the user name, if it is known
	NeedUser bool   // the user name is asked for, too
}

// Reply is what the user says.
type Reply struct{ User, Text string }

// asking passes questions of a server on to whoever answers them.
//
// Before there is a session nobody can wait for a person: the attempt fails, and the answer waits for the next one. In a session the
// server itself has said how long it waits.
type asking struct {
	name string
	log  *slog.Logger

	mu       sync.Mutex // guards below
	question *Question
	waiting  chan Reply // of a session that waits; nil if none does
	ready    *Reply     // for the next attempt
	until    time.Time  // of ready
}

// errAsked says that an attempt needs an answer that nobody has given yet.
func (a *asking) errAsked(q Question) error {
	return fmt.Errorf("the server asks for %q: answer with \"penstock login %s\"", q.Text, a.name)
}

// ask returns the user's answer to a challenge.
func (a *asking) ask(ctx context.Context, c openvpn.Challenge) (Reply, error) {
	switch c.Kind {
	case openvpn.ChallengeWeb:
		defer a.pose(Question{URL: c.Text}, nil)()
		<-ctx.Done() // the server says when it is over
		return Reply{}, nil
	case openvpn.ChallengeText:
		answer := make(chan Reply, 1)
		defer a.pose(Question{Text: c.Text, Echo: c.Echo, User: c.User}, answer)()
		select {
		case <-ctx.Done():
			return Reply{}, ctx.Err()
		case got := <-answer:
			return got, nil
		}
	}
	if got, ok := a.take(); ok {
		return got, nil
	}
	q := Question{Text: c.Text, Echo: c.Echo, User: c.User, NeedUser: c.Kind == openvpn.ChallengePassword && c.User == ""}
	if c.Kind == openvpn.ChallengePassword {
		q.Text = "Password"
	}
	a.pose(q, nil)
	return Reply{}, a.errAsked(q)
}

// pose shows a question. The function that it returns takes it away again, unless there is another by then.
func (a *asking) pose(q Question, answer chan Reply) (done func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.question, a.waiting = &q, answer
	a.log.Info("the transport's server waits for its user", "transport", a.name, "login", "penstock login "+a.name)
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.question == &q {
			a.question, a.waiting = nil, nil
		}
	}
}

// take returns an answer that was given for the next attempt.
func (a *asking) take() (Reply, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	got := a.ready
	a.ready = nil
	if got == nil || time.Now().After(a.until) {
		return Reply{}, false
	}
	return *got, true
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
		return false, fmt.Errorf("the server of %s asks nothing: \"penstock status\" says what it waits for", a.name)
	case a.question.URL != "":
		return false, fmt.Errorf("the server of %s waits for its page %s, not for an answer", a.name, a.question.URL)
	case got.Text == "":
		return false, errors.New("the answer is empty")
	}
	waiting := a.waiting
	a.question, a.waiting = nil, nil
	if waiting != nil {
		waiting <- got
		return false, nil
	}
	a.ready, a.until = &got, time.Now().Add(answerLife)
	return true, nil
}
