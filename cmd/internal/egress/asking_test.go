package egress

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn"
)

// waits remembers what a tunnel was told.
type waits struct {
	mu  sync.Mutex // guards below
	all []bool
}

func (w *waits) add(yes bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, yes)
}

func (w *waits) check(t *testing.T, want ...bool) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.all, want) {
		t.Errorf("the tunnel was told that its session waits: got %v, want %v", w.all, want)
	}
}

func newAsking(w *waits) *asking {
	return &asking{name: "corp", waits: w.add, log: slog.New(slog.DiscardHandler)}
}

// pose asks in a goroutine, and returns how to take the question back and how to get what came of it.
func pose(t *testing.T, a *asking, c openvpn.Challenge) (retract func(), got func() (Reply, error)) {
	ctx, cancel := context.WithCancel(t.Context())
	type outcome struct {
		reply Reply
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := a.ask(ctx, c)
		done <- outcome{r, err}
	}()
	synctest.Wait()
	return cancel, func() (Reply, error) { o := <-done; return o.reply, o.err }
}

func TestASessionWaitsForItsUser(t *testing.T) {
	code := openvpn.Challenge{Kind: openvpn.ChallengeText, Text: "Code", Why: "the session token has expired"}
	page := openvpn.Challenge{Kind: openvpn.ChallengeWeb, Text: "https://sso.example/"}
	t.Run("until there is an answer, of which there is one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var w waits
			a := newAsking(&w)
			_, got := pose(t, a, code)
			q, ok := a.pending()
			if want := (Question{ID: 1, Text: "Code", Why: "the session token has expired"}); !ok || q != want {
				t.Errorf("got %+v, want %+v", q, want)
			}
			if _, err := a.answer(Reply{ID: q.ID}); err == nil || !strings.Contains(err.Error(), "empty") {
				t.Errorf("nothing: got %v", err)
			}
			if again, err := a.answer(Reply{ID: q.ID, Text: "42"}); again || err != nil {
				t.Errorf("got %v, %v", again, err)
			}
			if _, err := a.answer(Reply{ID: q.ID, Text: "43"}); err == nil || !strings.Contains(err.Error(), "asks nothing at present") {
				t.Errorf("somebody else's answer: got %v", err)
			}
			if r, err := got(); r.Text != "42" || err != nil {
				t.Errorf("the session got %+v, %v", r, err)
			}
			w.check(t, true, false)
		})
	})
	t.Run("an answer to an earlier question is none to the next", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var w waits
			a := newAsking(&w)
			retract, first := pose(t, a, code)
			late, _ := a.pending()
			retractSecond, second := pose(t, a, code) // the server asks again before the first is taken back
			retract()
			if _, err := first(); !errors.Is(err, context.Canceled) {
				t.Errorf("the first: got %v", err)
			}
			if _, err := a.answer(Reply{ID: late.ID, Text: "42"}); err == nil || !strings.Contains(err.Error(), "asks something else by now") {
				t.Errorf("got %v", err)
			}
			w.check(t, true, true)
			retractSecond()
			second()
			if q, ok := a.pending(); ok {
				t.Errorf("a session that is over still asks %+v", q)
			}
			w.check(t, true, true, false)
		})
	})
	t.Run("a page is not answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var w waits
			a := newAsking(&w)
			retract, got := pose(t, a, page)
			if q, _ := a.pending(); q != (Question{ID: 1, URL: "https://sso.example/"}) {
				t.Errorf("got %+v", q)
			}
			if _, err := a.answer(Reply{Text: "42"}); err == nil || !strings.Contains(err.Error(), "waits for its page") {
				t.Errorf("got %v", err)
			}
			retract()
			if _, err := got(); err != nil {
				t.Errorf("got %v", err)
			}
			w.check(t, true, false)
		})
	})
}

func TestAnAttemptLeavesAQuestionBehind(t *testing.T) {
	pin := openvpn.Challenge{Kind: openvpn.ChallengeDynamic, Text: "PIN", User: "ana"}
	static := openvpn.Challenge{Kind: openvpn.ChallengeStatic, Text: "PIN"}
	synctest.Test(t, func(t *testing.T) {
		var w waits
		a := newAsking(&w)
		_, err := a.ask(t.Context(), pin)
		if b, ok := errors.AsType[*transport.BlockedError](err); !ok || b.Reason != transport.ReasonSignIn || !strings.Contains(err.Error(), "penstock login corp") {
			t.Errorf("got %v, want it blocked until somebody signs in", err)
		}
		first, _ := a.pending()
		if _, err = a.ask(t.Context(), pin); err == nil {
			t.Error("the next attempt got an answer")
		}
		if q, _ := a.pending(); q != first {
			t.Errorf("the same question of the next attempt: got %+v, want %+v", q, first)
		}
		if again, err := a.answer(Reply{ID: first.ID, Text: "0815"}); !again || err != nil {
			t.Errorf("got %v, %v, want another attempt", again, err)
		}
		if _, err = a.ask(t.Context(), static); err == nil {
			t.Error("the answer to one question was given to another")
		}
		if r, err := a.ask(t.Context(), pin); err != nil || r.Text != "0815" {
			t.Errorf("got %+v, %v", r, err)
		}
		if _, err = a.ask(t.Context(), pin); err == nil {
			t.Error("an answer was used twice")
		}
		if q, _ := a.pending(); q.ID <= first.ID {
			t.Errorf("asked again, it is another question: got %+v", q)
		}
		if _, err := a.answer(Reply{Text: "0815"}); err != nil {
			t.Error(err)
		}
		time.Sleep(answerLife + time.Second)
		if _, err = a.ask(t.Context(), pin); err == nil {
			t.Error("an answer was used after two minutes")
		}
		a.settle()
		if q, ok := a.pending(); ok {
			t.Errorf("a server that is content still asks %+v", q)
		}
		w.check(t) // no session waits
	})
}
