// Package login knows what proves to a server who the user is: the profile's user name and password, tokens of the
// server, and answers to its challenges. It outlives sessions.
//
// It does not talk to the server or the user, and keeps nothing on disk.
package login

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/text"
	"penstock/router/transport/openvpn/profile"
)

// Kind says what a Challenge asks.
type Kind uint8

// Kinds of challenges.
const (
	Password Kind = iota // user name and password
	Static               // the profile's static-challenge: the answer goes in pass
	Dynamic              // the server asked in its refusal: the answer goes in pass
	Text                 // the server asked while the session is pending: the answer goes in pass
	Web                  // Challenge.Text is a URL to open; the answer is ignored
)

// Challenge is a question for the user.
type Challenge struct {
	Kind Kind
	Text string // what to show: a prompt, or the URL of a Web challenge
	User string // the user name, where it is known already
	Echo bool   // the answer may be shown while it is typed
	Why  string // why it is asked although it was answered before; empty: it was not
}

// Ask asks the user. It must return when ctx is done. An error that is a *transport.BlockedError keeps its reason.
type Ask func(ctx context.Context, c Challenge) (user, pass string, err error)

// Credentials are what one session sends.
type Credentials struct {
	User     string
	Password text.Secret
	token    bool // Password is a token
	asked    bool // a person was asked for some of it; a password may be the configuration's
	dynamic  bool // Password answers a challenge of the server's last refusal
}

// Asked returns c as credentials that the user was asked for.
func (c Credentials) Asked() Credentials {
	c.asked = true
	return c
}

// Login is the memory of one transport. It is not safe for concurrent use.
type Login struct {
	profile *profile.Profile
	ask     Ask

	user      string
	password  text.Secret
	token     text.Secret // from the server; stands in for the password until it is refused
	tokenUser string
	dynamic   *dynamicChallenge
	why       string // the last refusal, for the next question; empty: there was none since the last session
}

// dynamicChallenge is a question that came with a refusal: the answer goes into the next attempt.
type dynamicChallenge struct {
	flags, state, user, text string
}

// New returns a login that knows nothing but the profile. A nil ask blocks the transport where a server asks.
func New(p *profile.Profile, ask Ask) *Login { return &Login{profile: p, ask: ask} }

// Credentials returns what the next session sends. It asks the user for what is not known. Its errors are
// *transport.BlockedError.
func (l *Login) Credentials(ctx context.Context) (Credentials, error) {
	if d := l.dynamic; d != nil { // until it is answered: to ask the server again could make it send another code to the user
		_, answer, err := l.Ask(ctx, Challenge{Kind: Dynamic, Text: d.text, User: d.user, Echo: strings.Contains(d.flags, "E"), Why: l.why})
		if err != nil {
			return Credentials{}, err
		}
		l.dynamic = nil
		return Credentials{User: d.user, Password: text.Secret("CRV1::" + d.state + "::" + answer), asked: true, dynamic: true}, nil
	}
	if l.token != "" {
		user := l.user
		if l.tokenUser != "" {
			user = l.tokenUser
		}
		return Credentials{User: user, Password: l.token, token: true}, nil
	}
	if !l.profile.AuthUserPass {
		return Credentials{}, nil
	}
	return l.fromPassword(ctx)
}

func (l *Login) fromPassword(ctx context.Context) (Credentials, error) {
	p := l.profile
	if l.user == "" {
		l.user, l.password = p.User, p.Password
	}
	if l.user == "" || l.password == "" {
		user, password, err := l.Ask(ctx, Challenge{Kind: Password, User: l.user, Why: l.why})
		if err != nil {
			return Credentials{}, err
		}
		l.user, l.password = user, text.Secret(password)
	}
	out := Credentials{User: l.user, Password: l.password}
	if p.StaticChallenge != "" {
		_, answer, err := l.Ask(ctx, Challenge{Kind: Static, Text: p.StaticChallenge, User: out.User, Echo: p.StaticEcho, Why: l.why})
		if err != nil {
			return Credentials{}, err
		}
		out.asked = true
		encode := base64.StdEncoding.EncodeToString
		if p.StaticConcat {
			out.Password += text.Secret(answer)
		} else {
			out.Password = text.Secret("SCRV1:" + encode([]byte(out.Password)) + ":" + encode([]byte(answer)))
		}
	}
	if p.NoCache && p.Password == "" { // only now: until there is an answer, nothing is used
		l.password = ""
	}
	return out, nil
}

// Ask passes a challenge on to the user. Its errors are *transport.BlockedError. Unlike the other methods it may be
// called at any time.
func (l *Login) Ask(ctx context.Context, c Challenge) (user, pass string, err error) {
	if l.ask == nil {
		return "", "", blocked(errors.New("the server wants credentials, and there is nobody to ask for them"))
	}
	user, pass, err = l.ask(ctx, c)
	if err != nil {
		reason := transport.ReasonAuthFailed
		if b, ok := errors.AsType[*transport.BlockedError](err); ok {
			reason = b.Reason
		}
		return "", "", &transport.BlockedError{Reason: reason, Err: err}
	}
	return user, pass, nil
}

// Why is why the next question is asked, for Challenge.Why.
func (l *Login) Why() string { return l.why }

// Accepted forgets former refusals: the server has let the user in.
func (l *Login) Accepted() { l.why = "" }

// ErrTryAgain says that an attempt was refused and that the next may be sent at once, with other credentials.
var ErrTryAgain = errors.New("credentials were refused, there are others to try")

// Refused takes the server's AUTH_FAILED message for what was sent. It returns what follows: a *transport.ReasonedError
// that may wrap ErrTryAgain, or a *transport.BlockedError.
func (l *Login) Refused(sent Credentials, message string) error {
	_, reason, _ := strings.Cut(message, ",")
	switch {
	case strings.HasPrefix(reason, "CRV1:"):
		d, err := parseDynamic(reason)
		if err != nil {
			return failed(err)
		}
		l.dynamic = d
		if sent.dynamic {
			l.why = "the server did not take the last answer"
		}
		return failed(ErrTryAgain)
	case strings.HasPrefix(reason, "TEMP"):
		_, why, _ := strings.Cut(reason, ":")
		return failed(fmt.Errorf("the server refuses for now: %q", text.Printable(why)))
	case sent.token:
		l.token, l.tokenUser = "", ""
		l.why = "the session token has expired"
		return failed(fmt.Errorf("%s: %w", l.why, ErrTryAgain))
	}
	l.password = ""
	if reason == "" {
		reason = "no reason given"
	}
	l.why = fmt.Sprintf("the server refuses: %q", text.Printable(reason))
	if sent.asked {
		return &transport.BlockedError{Reason: transport.ReasonSignIn, Err: errors.New(l.why)}
	}
	return blocked(errors.New(l.why))
}

// Token stores what stands in for the password from now on, in the renegotiations of the session that sent sent and in
// the next session. It returns what that session sends from now on.
func (l *Login) Token(sent Credentials, token text.Secret, user string) Credentials {
	if token == "" {
		return sent
	}
	l.token = token
	if user != "" {
		l.tokenUser = user
	}
	if l.user == "" {
		l.user = sent.User
	}
	sent.Password, sent.token = token, true
	if l.tokenUser != "" {
		sent.User = l.tokenUser
	}
	return sent
}

// parseDynamic reads CRV1:FLAGS:STATE:BASE64(USER):TEXT.
func parseDynamic(s string) (*dynamicChallenge, error) {
	f := strings.SplitN(s, ":", 5)
	if len(f) != 5 {
		return nil, errors.New("the server's challenge is malformed")
	}
	user, err := base64.StdEncoding.DecodeString(f[3])
	if err != nil {
		return nil, errors.New("the server's challenge is malformed")
	}
	return &dynamicChallenge{flags: f[1], state: f[2], user: string(user), text: text.Printable(f[4])}, nil
}

func failed(err error) error {
	return &transport.ReasonedError{Reason: transport.ReasonAuthFailed, Err: err}
}

func blocked(err error) error {
	return &transport.BlockedError{Reason: transport.ReasonAuthFailed, Err: err}
}
