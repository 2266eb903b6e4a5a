package openvpn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"penstock/router/transport"
)

// login is what the client knows about proving who the user is. It outlives sessions.
type login struct {
	user      string
	password  secret
	token     secret // from the server; stands in for the password until it is refused
	tokenUser string
	dynamic   *dynamicChallenge
}

// dynamicChallenge is a question that came with a refusal: the answer goes into the next attempt.
type dynamicChallenge struct {
	flags, state, user, text string
}

// credentials are what one session sends.
type credentials struct {
	user     string
	password secret
	token    bool // password is a token
}

// credentials collects what the next session sends, asking the user where nothing is known.
func (c *Client) credentials(ctx context.Context) (credentials, error) {
	l, p := &c.login, c.cfg.Profile
	if d := l.dynamic; d != nil {
		l.dynamic = nil
		_, answer, err := c.ask(ctx, Challenge{Kind: ChallengeDynamic, Text: d.text, User: d.user, Echo: strings.Contains(d.flags, "E")})
		return credentials{user: d.user, password: secret("CRV1::" + d.state + "::" + answer)}, err
	}
	if l.token != "" {
		user := l.user
		if l.tokenUser != "" {
			user = l.tokenUser
		}
		return credentials{user: user, password: l.token, token: true}, nil
	}
	if !p.AuthUserPass {
		return credentials{}, nil
	}
	if l.user == "" {
		l.user, l.password = p.user, p.password
	}
	if l.user == "" || l.password == "" {
		user, password, err := c.ask(ctx, Challenge{Kind: ChallengePassword, User: l.user})
		if err != nil {
			return credentials{}, err
		}
		l.user, l.password = user, secret(password)
	}
	out := credentials{user: l.user, password: l.password}
	if p.noCache && p.password == "" {
		l.password = ""
	}
	if p.StaticChallenge != "" {
		_, answer, err := c.ask(ctx, Challenge{Kind: ChallengeStatic, Text: p.StaticChallenge, User: out.user, Echo: p.staticEcho})
		if err != nil {
			return credentials{}, err
		}
		encode := base64.StdEncoding.EncodeToString
		out.password = secret("SCRV1:" + encode([]byte(out.password)) + ":" + encode([]byte(answer)))
	}
	return out, nil
}

func (c *Client) ask(ctx context.Context, q Challenge) (user, pass string, err error) {
	if c.cfg.Credentials == nil {
		return "", "", c.blocked(transport.ReasonAuthFailed, errors.New("the server wants credentials and nobody is there to ask"))
	}
	user, pass, err = c.cfg.Credentials(ctx, q)
	if err != nil {
		return "", "", c.blocked(transport.ReasonAuthFailed, fmt.Errorf("ask for credentials: %w", err))
	}
	return user, pass, nil
}

// errTryAgain says that a refused attempt is to be repeated at once with other credentials.
var errTryAgain = errors.New("credentials were refused, there are others to try")

// refused takes the server's AUTH_FAILED message for what was sent, and says what follows from it.
func (c *Client) refused(sent credentials, message string) error {
	_, reason, _ := strings.Cut(message, ",")
	l := &c.login
	switch {
	case strings.HasPrefix(reason, "CRV1:"):
		d, err := parseDynamic(reason)
		if err != nil {
			return c.failed(transport.ReasonAuthFailed, err)
		}
		l.dynamic = d
		return c.failed(transport.ReasonAuthFailed, errTryAgain)
	case strings.HasPrefix(reason, "TEMP"):
		_, text, _ := strings.Cut(reason, ":")
		return c.failed(transport.ReasonAuthFailed, fmt.Errorf("the server refuses for now: %q", printable(text)))
	case sent.token:
		l.token, l.tokenUser = "", ""
		return c.failed(transport.ReasonAuthFailed, fmt.Errorf("the session token has expired: %w", errTryAgain))
	}
	l.password = ""
	if reason == "" {
		reason = "no reason given"
	}
	return c.blocked(transport.ReasonAuthFailed, fmt.Errorf("the server refuses: %q", printable(reason)))
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
	return &dynamicChallenge{flags: f[1], state: f[2], user: string(user), text: printable(f[4])}, nil
}

const maxReason = 256 // bytes of a server's text that are shown

// printable makes a server's text safe to show.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return s[:min(len(s), maxReason)]
}
