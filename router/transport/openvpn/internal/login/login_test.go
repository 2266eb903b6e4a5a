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
