package openvpn

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/wire"
)

// control takes one control packet from the link. What is not the server's is dropped; an error ends the session.
func (s *session) control(packet []byte) error {
	op, keyID, from, err := wire.ParseOuter(packet)
	if err != nil {
		s.drop(dropMalformed)
		return nil
	}
	body, err := s.wrapOf(keyID).Open(packet)
	if err != nil {
		s.drop(dropControl)
		return nil
	}
	p, err := wire.ParsePacket(packet, body)
	if err != nil {
		s.drop(dropMalformed)
		return nil
	}
	if len(p.Acks) > 0 && p.Peer != s.id {
		s.drop(dropControl)
		return nil
	}
	now := time.Now()
	if s.answered.Load() && from != s.peer {
		// A server that answers our id with a new one of its own has forgotten this session.
		if op == wire.HardResetServer && len(p.Acks) > 0 && s.push != nil {
			return s.client.failed(transport.ReasonError, errors.New("the server has forgotten the session"))
		}
		s.drop(dropControl)
		return nil
	}
	if !s.answered.Load() {
		if op != wire.HardResetServer || p.ID != 0 || len(p.Acks) == 0 {
			s.drop(dropControl)
			return nil
		}
		s.peer = from
		s.answered.Store(true)
		s.reach("the TLS handshake")
	}
	n := s.negotiationFor(op, keyID, now)
	if n == nil {
		s.drop(dropUnknownKey)
		return nil
	}
	s.heard.set(s.start, now)
	s.client.counters.received(len(packet), now)
	return s.accept(n, p, now)
}

// negotiationFor finds the stream of a key id; a soft reset may open it.
func (s *session) negotiationFor(op wire.Opcode, keyID uint8, now time.Time) *negotiation {
	if n := s.negotiations[keyID]; n != nil {
		return n
	}
	if op != wire.SoftReset || s.push == nil || s.pending != nil || keyID != s.nextKeyID() {
		return nil
	}
	s.begin(keyID, wire.SoftReset, now)
	s.reach("the renegotiation")
	return s.pending
}

// accept takes a packet that belongs to n.
func (s *session) accept(n *negotiation, p wire.Packet, now time.Time) error {
	n.stream.Acked(p.Acks, now)
	if n.stream.HoldAcks && n.stream.Waiting() == 0 {
		n.stream.HoldAcks = false // the wrapped key has arrived
	}
	if p.Op == wire.Ack {
		return nil
	}
	for _, in := range n.stream.Receive(p.Op, p.ID, p.Payload) {
		switch in.Op {
		case wire.HardResetServer:
			if len(s.client.cfg.Profile.wrap.wkc) > 0 && wire.AsksForWKC(in.Payload) {
				n.sendWKC, n.stream.HoldAcks = true, true
			}
		case wire.SoftReset:
			s.data.trust() // the server would not renegotiate on top of a key that it does not have
		default:
			if err := n.pipe.Deliver(in.Payload); err != nil {
				return s.client.failed(transport.ReasonError, err)
			}
		}
	}
	if !n.started {
		return s.startTLS(n)
	}
	return nil
}

// message takes one text from the server.
func (s *session) message(n *negotiation, text string) error {
	if s.negotiations[n.keyID] != n {
		return nil
	}
	name, rest, _ := strings.Cut(text, ",")
	switch name {
	case "PUSH_REPLY":
		return s.pushReply(n, rest)
	case "PUSH_UPDATE":
		return s.pushUpdate(rest)
	case "AUTH_FAILED":
		return s.client.refused(s.sent, text)
	case "AUTH_PENDING":
		s.waitForUser(rest)
	case "INFO_PRE":
		s.askUser(n, rest)
	case "RESTART":
		return s.restart(rest)
	case "HALT":
		return s.client.blocked(transport.ReasonError, fmt.Errorf("the server ends the session for good: %q", printable(rest)))
	case "EXIT":
		return s.client.failed(transport.ReasonError, errors.New("the server ends the session"))
	case "":
	default:
		s.log.Debug("message from the server left out", "name", printable(name))
	}
	return nil
}

// restart has [FLAGS] in front of the reason: P keeps credentials, N wants the next remote.
func (s *session) restart(rest string) error {
	flags := ""
	if strings.HasPrefix(rest, "[") {
		flags, rest, _ = strings.Cut(rest[1:], "]")
	}
	c := s.client
	if strings.Contains(flags, "N") && len(c.cfg.Profile.Remotes) > 1 {
		c.next++
	} else {
		c.notBefore = time.Now().Add(restartPause + rand.N(2*restartPause))
	}
	return c.failed(transport.ReasonError, fmt.Errorf("the server restarts: %q", printable(strings.TrimPrefix(rest, ","))))
}

// waitForUser gives the server the time it asks for while a person proves who they are.
func (s *session) waitForUser(rest string) {
	if s.pending == nil {
		return
	}
	wait := s.pending.window
	for option := range strings.SplitSeq(rest, ",") {
		if value, ok := strings.CutPrefix(option, "timeout "); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
				wait = time.Duration(n) * time.Second
			}
		}
	}
	every := s.client.cfg.Profile.renegotiate
	if every == 0 {
		every = time.Hour
	}
	wait = min(wait, max(every/2, s.pending.window))
	s.authPending = true
	s.pending.deadline = time.Now().Add(wait)
	s.reach("waiting for the user to prove who they are")
}

// askUser passes a question on: WEB_AUTH:FLAGS:URL or CR_TEXT:FLAGS:TEXT.
func (s *session) askUser(n *negotiation, rest string) {
	kind, rest, _ := strings.Cut(rest, ":")
	flags, text, _ := strings.Cut(rest, ":")
	q := Challenge{Text: printable(text), User: s.sent.user}
	switch kind {
	case "WEB_AUTH":
		q.Kind = ChallengeWeb
	case "OPEN_URL":
		q.Kind, q.Text = ChallengeWeb, printable(rest)
	case "CR_TEXT":
		q.Kind, q.Echo = ChallengeText, slices.Contains(strings.Split(flags, ","), "E")
	default:
		return
	}
	if s.client.cfg.Credentials == nil || s.push != nil {
		return
	}
	s.wg.Go(func() {
		_, answer, err := s.client.ask(s.lifetime, q)
		s.post(func() error {
			if err != nil || q.Kind == ChallengeWeb {
				return err
			}
			return n.write("CR_RESPONSE," + base64.StdEncoding.EncodeToString([]byte(answer)))
		})
	})
}
