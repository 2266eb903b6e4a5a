package openvpn

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/control"
	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/internal/text"
)

// event takes what happened in the TLS connection of a negotiation.
func (s *session) event(e control.Event) error {
	n := s.control.Note(e)
	switch {
	case n == nil:
		return nil
	case e.Err != nil:
		return failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s: %w", s.stage(), e.Err))
	case e.Exchanged && s.options == nil:
		s.askAt = time.Now().Add(askFirst)
		return nil
	case e.Exchanged:
		return s.install(n, time.Now())
	}
	return s.message(n, e.Message)
}

// message takes one text from the server.
func (s *session) message(n *control.Negotiation, message string) error {
	name, rest, _ := strings.Cut(message, ",")
	switch name {
	case "PUSH_REPLY":
		return s.pushReply(n, rest)
	case "PUSH_UPDATE":
		return s.pushUpdate(rest)
	case "AUTH_FAILED":
		return s.client.login.Refused(s.sent, message)
	case "AUTH_PENDING":
		s.waitForUser(rest, time.Now())
	case "INFO_PRE":
		return s.askUser(n, rest)
	case "RESTART":
		return s.client.restart(rest)
	case "HALT":
		return blocked(fmt.Errorf("the server ends the session for good: %q", text.Printable(rest)))
	case "EXIT":
		return failed(transport.ReasonError, errors.New("the server ends the session"))
	case "":
	default:
		s.log.Debug("message from the server ignored", "name", text.Printable(name))
	}
	return nil
}

// restart has [FLAGS] in front of the reason: P keeps credentials, N wants the next remote.
func (c *Client) restart(rest string) error {
	flags := ""
	if strings.HasPrefix(rest, "[") {
		flags, rest, _ = strings.Cut(rest[1:], "]")
	}
	if strings.Contains(flags, "N") && len(c.cfg.Profile.Remotes) > 1 {
		c.next++
	} else {
		c.notBefore = time.Now().Add(restartPause + rand.N(2*restartPause))
	}
	return failed(transport.ReasonError, fmt.Errorf("the server restarts: %q", text.Printable(strings.TrimPrefix(rest, ","))))
}

// waitForUser gives the server the time it asks for while the user signs in. However often it asks, all of that together ends with
// half of reneg-sec, as in openvpn(8), from its first message on.
func (s *session) waitForUser(rest string, now time.Time) {
	pending := s.control.Pending()
	if pending == nil {
		return
	}
	wait := pending.Window
	for option := range strings.SplitSeq(rest, ",") {
		if value, ok := strings.CutPrefix(option, "timeout "); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
				wait = time.Duration(n) * time.Second
			}
		}
	}
	every := s.client.cfg.Profile.Timers.Renegotiate
	if every == 0 {
		every = time.Hour
	}
	if s.waits != pending {
		s.waits, s.sent = pending, s.sent.Asked()
		s.pendingEnd = now.Add(max(every/2, pending.Window))
	}
	s.authPending = true
	pending.Window = wait
	pending.Deadline = now.Add(wait)
	if pending.Deadline.After(s.pendingEnd) {
		pending.Window, pending.Deadline = s.pendingEnd.Sub(now).Round(time.Second), s.pendingEnd
	}
}

// askUser passes a question on: WEB_AUTH:FLAGS:URL, OPEN_URL:URL or CR_TEXT:FLAGS:TEXT. It takes the place of the last one.
func (s *session) askUser(n *control.Negotiation, rest string) error {
	kind, rest, _ := strings.Cut(rest, ":")
	flags, prompt, _ := strings.Cut(rest, ":")
	q := Challenge{Text: prompt, User: s.sent.User, Why: s.client.login.Why()}
	switch kind {
	case "WEB_AUTH":
		q.Kind = ChallengeWeb
	case "OPEN_URL":
		q.Kind, q.Text = ChallengeWeb, rest
	case "CR_TEXT":
		q.Kind, q.Text, q.Echo = ChallengeText, text.Printable(prompt), slices.Contains(strings.Split(flags, ","), "E")
	default:
		return nil
	}
	if s.client.cfg.Credentials == nil || s.options != nil {
		return nil
	}
	if q.Kind == ChallengeWeb {
		if err := login.CheckPage(q.Text); err != nil {
			return blocked(fmt.Errorf("the server sends its user to %q: this is %w", text.Printable(q.Text), err))
		}
	}
	if s.asked++; s.asked > maxQuestions {
		return blocked(fmt.Errorf("the server has asked its user more than %d times in one session", maxQuestions))
	}
	s.retract()
	s.sent = s.sent.Asked()
	asking, retract := context.WithCancel(s.lifetime)
	s.retract = retract
	s.wg.Go(func() {
		defer retract()
		_, answer, err := s.client.login.Ask(asking, q)
		if asking.Err() != nil || err == nil && q.Kind == ChallengeWeb {
			return
		}
		s.post(func() error {
			if err != nil {
				return err
			}
			return n.Write("CR_RESPONSE," + base64.StdEncoding.EncodeToString([]byte(answer)))
		})
	})
	return nil
}

// maxQuestions bounds how often a server may ask in one session: a wrong code is asked for again, a flood is none of ours.
const maxQuestions = 16
