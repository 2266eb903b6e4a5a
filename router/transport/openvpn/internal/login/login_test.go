package login

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/profile"
)

// user answers every challenge and remembers them.
type user struct {
	asked []Challenge
	err   error
}

func (u *user) ask(_ context.Context, c Challenge) (string, string, error) {
	u.asked = append(u.asked, c)
	return "ana", "answer", u.err
}

func (u *user) expect(t *testing.T, l *Login, name, password string) Credentials {
	t.Helper()
	got, err := l.Credentials(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got.User != name || got.Password != text.Secret(password) {
		t.Errorf("got %s with %q, want %s with %q", got.User, string(got.Password), name, password)
	}
	return got
}

func encode(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestPasswords(t *testing.T) {
	tests := []struct {
		name           string
		profile        profile.Profile
		user, password string
		again          int // questions of two sessions
	}{
		{"none is wanted", profile.Profile{}, "", "", 0},
		{"the profile has both", profile.Profile{AuthUserPass: true, User: "bo", Password: "pw"}, "bo", "pw", 0},
		{"the user is asked once", profile.Profile{AuthUserPass: true}, "ana", "answer", 1},
		{"and each time if nothing may be kept", profile.Profile{AuthUserPass: true, NoCache: true}, "ana", "answer", 2},
		{"what the profile has is kept anyway", profile.Profile{AuthUserPass: true, NoCache: true, User: "bo", Password: "pw"}, "bo", "pw", 0},
		{
			"a static challenge is asked each time", profile.Profile{AuthUserPass: true, User: "bo", Password: "pw", StaticChallenge: "Code?"},
			"bo", "SCRV1:" + encode("pw") + ":" + encode("answer"), 2,
		},
		{
			"its answer follows the password", profile.Profile{AuthUserPass: true, User: "bo", Password: "pw", StaticChallenge: "Code?", StaticConcat: true},
			"bo", "pwanswer", 2,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var u user
			l := New(&tt.profile, u.ask)
			u.expect(t, l, tt.user, tt.password)
			u.expect(t, l, tt.user, tt.password)
			if len(u.asked) != tt.again {
				t.Errorf("questions: got %v, want %d", u.asked, tt.again)
			}
		})
	}
}

func TestNobodyToAskBlocks(t *testing.T) {
	_, err := New(&profile.Profile{AuthUserPass: true}, nil).Credentials(t.Context())
	if b, ok := errors.AsType[*transport.BlockedError](err); !ok || b.Reason != transport.ReasonAuthFailed {
		t.Errorf("got %v, want a BlockedError", err)
	}
	u := user{err: errors.New("cancelled")}
	if _, err = New(&profile.Profile{AuthUserPass: true}, u.ask).Credentials(t.Context()); err == nil || !strings.Contains(err.Error(), "cancelled") {
		t.Errorf("got %v, want the user's error", err)
	}
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name, message, want string
		blocked, again      bool
	}{
		{"no reason", "AUTH_FAILED", `the server refuses: "no reason given"`, true, false},
		{"a reason", "AUTH_FAILED,closed\n", `the server refuses: "closed "`, true, false},
		{"for now", "AUTH_FAILED,TEMP[backoff 3]:busy", `the server refuses for now: "busy"`, false, false},
		{"a challenge", "AUTH_FAILED,CRV1:R:st:" + encode("ana") + ":Code?", "there are others to try", false, true},
		{"a challenge that is cut off", "AUTH_FAILED,CRV1:R:st", "malformed", false, false},
		{"a challenge that is not base64", "AUTH_FAILED,CRV1:R:st:!:x", "malformed", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := New(&profile.Profile{}, nil).Refused(Credentials{User: "ana", Password: "x"}, tt.message)
			if !strings.Contains(err.Error(), tt.want) || errors.Is(err, ErrTryAgain) != tt.again {
				t.Errorf("got %v, want %q, to try again %v", err, tt.want, tt.again)
			}
			if _, blocked := errors.AsType[*transport.BlockedError](err); blocked != tt.blocked {
				t.Errorf("got %T, want blocked %v", err, tt.blocked)
			}
		})
	}
}

func TestAQuestionWaitsForItsAnswer(t *testing.T) {
	asks := &transport.BlockedError{Reason: transport.ReasonSignIn, Err: errors.New("the server asks")}
	unanswered := func(t *testing.T, l *Login) {
		t.Helper()
		_, err := l.Credentials(t.Context())
		if b, ok := errors.AsType[*transport.BlockedError](err); !ok || b.Reason != transport.ReasonSignIn {
			t.Errorf("got %v, want the reason that the user is asked", err)
		}
	}
	t.Run("a dynamic challenge keeps its state", func(t *testing.T) {
		u := user{err: asks}
		l := New(&profile.Profile{AuthUserPass: true, User: "bo", Password: "pw"}, u.ask)
		_ = l.Refused(Credentials{User: "bo", Password: "pw"}, "AUTH_FAILED,CRV1:R:st8:"+encode("bo")+":PIN")
		unanswered(t, l)
		unanswered(t, l)
		u.err = nil
		u.expect(t, l, "bo", "CRV1::st8::answer")
	})
	t.Run("a password that may not be kept is not forgotten before it is used", func(t *testing.T) {
		var u user
		static := false
		l := New(&profile.Profile{AuthUserPass: true, NoCache: true, StaticChallenge: "Code?"}, func(ctx context.Context, c Challenge) (string, string, error) {
			if u.err = nil; c.Kind == Static && !static {
				u.err = asks
			}
			return u.ask(ctx, c)
		})
		unanswered(t, l)
		static = true
		u.expect(t, l, "ana", "SCRV1:"+encode("answer")+":"+encode("answer"))
		if kinds := len(u.asked); kinds != 3 {
			t.Errorf("got %d questions, want the password once and the code twice: %+v", kinds, u.asked)
		}
	})
}

func TestANewQuestionSaysWhyItIsAsked(t *testing.T) {
	for _, row := range []struct {
		name   string
		refuse func(l *Login, sent Credentials) error
		want   string
		reason transport.Reason
	}{
		{"a wrong code", func(l *Login, sent Credentials) error { return l.Refused(sent, "AUTH_FAILED,wrong code") }, `the server refuses: "wrong code"`, transport.ReasonSignIn},
		{"an expired token", func(l *Login, sent Credentials) error {
			return l.Refused(l.Token(sent, "T", ""), "AUTH_FAILED,SESSION:old")
		}, "the session token has expired", ""},
		{"a session since", func(l *Login, sent Credentials) error {
			err := l.Refused(sent, "AUTH_FAILED,wrong code")
			l.Accepted()
			return err
		}, "", transport.ReasonSignIn},
	} {
		t.Run(row.name, func(t *testing.T) {
			var u user
			l := New(&profile.Profile{AuthUserPass: true, StaticChallenge: "Code?"}, u.ask)
			sent, err := l.Credentials(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			err = row.refuse(l, sent)
			if b, ok := errors.AsType[*transport.BlockedError](err); ok != (row.reason != "") || ok && b.Reason != row.reason {
				t.Errorf("got %v, want blocked by %q", err, row.reason)
			}
			if _, err = l.Credentials(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := u.asked[len(u.asked)-1].Why; got != row.want {
				t.Errorf("why: got %q, want %q", got, row.want)
			}
		})
	}
	var u user
	l := New(&profile.Profile{AuthUserPass: true}, u.ask)
	err := l.Refused(u.expect(t, l, "ana", "answer"), "AUTH_FAILED")
	if b, ok := errors.AsType[*transport.BlockedError](err); !ok || b.Reason != transport.ReasonAuthFailed {
		t.Errorf("a password, which may be the configuration's: got %v, want blocked by %s", err, transport.ReasonAuthFailed)
	}
	u = user{}
	l = New(&profile.Profile{AuthUserPass: true, User: "bo", Password: "pw"}, u.ask)
	sent := u.expect(t, l, "bo", "pw")
	for range 2 {
		_ = l.Refused(sent, "AUTH_FAILED,CRV1:R:st:"+encode("bo")+":PIN")
		sent = u.expect(t, l, "bo", "CRV1::st::answer")
	}
	if u.asked[0].Why != "" || u.asked[1].Why != "the server did not take the last answer" {
		t.Errorf("a wrong answer to a refusal: got %+v", u.asked)
	}
}

func TestADynamicChallengeIsAnsweredOnce(t *testing.T) {
	var u user
	l := New(&profile.Profile{AuthUserPass: true, User: "bo", Password: "pw"}, u.ask)
	sent := u.expect(t, l, "bo", "pw")
	_ = l.Refused(sent, "AUTH_FAILED,CRV1:R,E:state7:"+encode("bob")+":Code: now?")
	u.expect(t, l, "bob", "CRV1::state7::answer")
	if want := (Challenge{Kind: Dynamic, Text: "Code: now?", User: "bob", Echo: true}); len(u.asked) != 1 || u.asked[0] != want {
		t.Errorf("asked: got %+v, want %+v", u.asked, want)
	}
	u.expect(t, l, "bo", "pw")
}

func TestATokenStandsInForThePassword(t *testing.T) {
	var u user
	l := New(&profile.Profile{AuthUserPass: true, User: "bo", Password: "pw"}, u.ask)
	sent := u.expect(t, l, "bo", "pw")
	if got := l.Token(sent, "", "x"); got != sent {
		t.Errorf("no token: got %v, want what was sent", got)
	}
	if got := l.Token(sent, "T1", ""); got.User != "bo" || got.Password != "T1" {
		t.Errorf("renegotiations: got %s with %q", got.User, string(got.Password))
	}
	sent = u.expect(t, l, "bo", "T1")
	l.Token(sent, "T2", "bobby")
	sent = u.expect(t, l, "bobby", "T2")
	if err := l.Refused(sent, "AUTH_FAILED,SESSION:expired"); !errors.Is(err, ErrTryAgain) {
		t.Errorf("an expired token: got %v, want %v", err, ErrTryAgain)
	}
	u.expect(t, l, "bo", "pw")
}
