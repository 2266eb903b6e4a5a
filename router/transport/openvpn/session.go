package openvpn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/control"
	"penstock/router/transport/openvpn/internal/data"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/login"
	"penstock/router/transport/openvpn/internal/push"
	"penstock/router/transport/openvpn/profile"
)

const (
	defaultHandWindow = 60 * time.Second
	defaultTransition = time.Hour

	exitWait   = 900 * time.Millisecond // for the server to hear that we leave
	exitCopies = 2

	// askFirst is before asking for options that a server should push by itself, and askAgain between two questions, also while the
	// server waits for its user: the reference client asks as well (send_push_request in push.c), openvpn 2.6.14 may notice only with
	// the next one that somebody has signed in, and a NAT forgets a session that is silent.
	askFirst = time.Second
	askAgain = 5 * time.Second

	// handshakeSilence ends a TLS handshake in which nothing comes any more, long before hand-window: both sides repeat what
	// is not acknowledged every few seconds. After the handshake a server may be silent while it checks who the user is: one
	// that asks a script does not even acknowledge before the script ends.
	handshakeSilence = 15 * time.Second

	// pendingSilence ends a session whose server waits for its user and acknowledges no question any more.
	pendingSilence = 4 * askAgain

	maxSleep = 5 * time.Second // key limits have no event of their own
)

// session is one connection with one server. The goroutine in run owns it; data packets pass it by (package data).
type session struct {
	client *Client
	log    *slog.Logger
	remote profile.Remote
	data   *data.Channel
	mailbox
	cancel   context.CancelFunc // ends the mailbox
	answered atomic.Bool

	ready chan struct{} // closed when established
	done  chan struct{} // closed when every goroutine has ended
	err   error         // why; to be read after done
	wg    sync.WaitGroup

	// Below is touched by the goroutine in run only.
	control     *control.Channel
	sent        login.Credentials
	pushed      push.List
	options     *push.Options // nil until established
	askAt       time.Time
	authPending bool
	waits       *control.Negotiation // of the last AUTH_PENDING
	pendingEnd  time.Time            // of all the waiting for the user in it
	asked       int                  // questions for the user
	retract     func()               // takes the last of them back
	liveness    liveness
	leaveBy     time.Time // zero: not leaving
}

// errLeft says that the session ended because we wanted it to.
var errLeft = errors.New("the session was left")

// newSession makes a session that owns l. lifetime has no end of its own.
func newSession(lifetime context.Context, c *Client, l link.Link, r profile.Remote, sent login.Credentials) (*session, error) {
	s := &session{
		client: c, log: c.log, remote: r, sent: sent,
		data:  data.New(data.Config{Link: l, TCP: link.IsTCP(r.Network), Device: c.cfg.Device, Meter: &c.meter}),
		ready: make(chan struct{}), done: make(chan struct{}), retract: func() {},
	}
	p := c.cfg.Profile
	tls, err := p.TLSConfig()
	if err != nil {
		s.log.Warn("revocation lists are those of the last time", "err", err)
	}
	window := defaultHandWindow
	if w := p.Timers.HandWindow; w > 0 {
		window = w
	}
	s.control, err = control.New(control.Config{Protection: p.ProtectionFor(r), TLS: tls, Window: window, Hello: s.hello, Send: s.sendControl})
	if err != nil {
		return nil, err
	}
	s.events = make(chan func() error)
	s.lifetime, s.cancel = context.WithCancel(lifetime)
	return s, nil
}

func (s *session) sendControl(buffer []byte, again bool) error {
	if again {
		s.client.cfg.Metrics.retransmit(s.client.cfg.Name)
	}
	if err := s.data.SendControl(buffer); err != nil {
		return failed(transport.ReasonError, err)
	}
	return nil
}

// run carries the session from its first packet to its end, and closes done when nothing of it is left.
func (s *session) run() {
	defer s.client.ended(s)
	defer close(s.done)
	s.data.Start(s.lifetime)
	s.err = s.loop()
	s.cancel()
	s.control.Close()
	_ = s.data.Close()
	s.wg.Wait()
}

func (s *session) loop() error {
	s.control.Start(s.lifetime, time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		next, err := s.tick(now)
		if err == nil {
			err = s.control.Flush(now)
		}
		if err != nil {
			return err
		}
		timer.Reset(time.Until(soonest(next, s.control.Due(now))))
		select {
		case packet := <-s.data.Control():
			err = s.packet(packet)
		case event := <-s.control.Events():
			err = s.event(event)
		case event := <-s.events:
			err = event()
		case err = <-s.data.Down():
			err = failed(transport.ReasonError, fmt.Errorf("the connection ended: %w", err))
		case <-s.control.Wake():
		case <-s.data.Wake():
		case <-timer.C:
		}
		if err != nil {
			return err
		}
	}
}

// soonest is the first of times; zero ones do not count.
func soonest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// giveUp ends an attempt that is not established. The reason is asked for in the session's goroutine, and returned
// unless the session had a better one.
func (s *session) giveUp(reason func() error) error {
	s.post(func() error { return failed(transport.ReasonHandshakeFailed, reason()) })
	<-s.done
	return s.err
}

// leave tells the server that the session is over, waits up to exitWait for it to hear, and ends the session.
func (s *session) leave() {
	s.post(func() error {
		s.sayExit()
		s.leaveBy = time.Now().Add(exitWait)
		return nil
	})
	<-s.done
}

// leaveNow tells the server without waiting.
func (s *session) leaveNow() {
	s.post(func() error {
		s.sayExit()
		if err := s.control.Flush(time.Now()); err != nil {
			return err
		}
		return errLeft
	})
	<-s.done
}

func (s *session) sayExit() {
	if n := s.control.Current(); n != nil && s.options != nil && s.options.ControlExit {
		_ = n.Write("EXIT")
		return
	}
	for range exitCopies { // nobody acknowledges it
		s.data.SendSpecial(data.Exit)
	}
}

// tick does what time asks for, and says when it is to be called again, at the latest.
func (s *session) tick(now time.Time) (next time.Time, err error) {
	pending := s.control.Pending()
	switch {
	case !s.leaveBy.IsZero() && (now.After(s.leaveBy) || s.control.Flushed() || s.data.Stalled()):
		return next, errLeft
	case pending != nil && s.options == nil && (s.authPending || s.asked > 0) && now.After(pending.Deadline):
		return next, &transport.BlockedError{Reason: transport.ReasonSignIn, Err: fmt.Errorf("nobody has signed in within the server's %s", pending.Window)}
	case pending != nil && now.After(pending.Deadline):
		return next, failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s took longer than %s", s.stage(), pending.Window))
	}
	next = soonest(now.Add(maxSleep), s.leaveBy)
	if pending != nil {
		next = soonest(next, pending.Deadline)
	}
	if s.options == nil {
		asked, err := s.tickHandshake(pending, now)
		return soonest(next, asked), err
	}
	alive, err := s.checkAlive(now)
	if err != nil {
		return next, err
	}
	expired, keys := s.data.Keys.Tick(now)
	if expired {
		if id, ok := s.control.Retire(); ok {
			s.data.Keys.Remove(id)
		}
	}
	return soonest(next, alive, keys, s.renew(now)), nil
}

// tickHandshake is tick before the session is established.
func (s *session) tickHandshake(pending *control.Negotiation, now time.Time) (next time.Time, err error) {
	switch {
	case pending == nil || !s.control.Answered(), pending.Sent() && !pending.Exchanged():
		return next, nil
	case !pending.Exchanged():
		if next = s.data.Signs.Heard().Add(handshakeSilence); now.After(next) {
			err = failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s: nothing came from the server for %s", s.stage(), handshakeSilence))
		}
		return next, err
	case s.authPending && now.After(s.data.Signs.Heard().Add(pendingSilence)):
		return next, failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s: nothing came from the server for %s", s.stage(), pendingSilence))
	case now.After(s.askAt):
		s.askAt = now.Add(askAgain)
		err = pending.Write("PUSH_REQUEST")
	}
	return s.askAt, err
}

// renew begins a renegotiation where one is due, and says when the next one is. Time is left to the server unless the
// profile has its own.
func (s *session) renew(now time.Time) (next time.Time) {
	current := s.control.Current()
	if s.control.Pending() != nil || current == nil {
		return next
	}
	if every := s.client.cfg.Profile.Timers.Renegotiate; every > 0 {
		next = current.DoneAt.Add(every)
	}
	if s.data.Keys.Spent() || !next.IsZero() && !now.Before(next) {
		s.control.Renegotiate(now)
		s.data.Keys.Await(int(s.control.Pending().KeyID()))
		return time.Time{}
	}
	return next
}

// stage says what the session is doing.
func (s *session) stage() string {
	pending := s.control.Pending()
	switch {
	case !s.control.Answered():
		return "waiting for the server's first packet"
	case s.options != nil && pending != nil:
		return "the renegotiation"
	case s.options != nil:
		return "carrying data"
	case s.authPending:
		return "waiting for the user to sign in"
	case pending != nil && pending.Exchanged():
		return "waiting for the server's options"
	case pending != nil && pending.Sent():
		return "waiting for the server to let the user in"
	}
	return "the TLS handshake"
}

// packet takes one control packet from the link. What is not the server's is dropped; an error ends the session.
func (s *session) packet(packet []byte) error {
	now := time.Now()
	fresh, err := s.control.Receive(packet, now)
	switch {
	case errors.Is(err, control.ErrMalformed):
		s.client.meter.Drop(data.DropMalformed, 1)
		return nil
	case errors.Is(err, control.ErrForeign):
		s.client.meter.Drop(data.DropControl, 1)
		return nil
	case errors.Is(err, control.ErrKeyID):
		s.client.meter.Drop(data.DropUnknownKey, 1)
		return nil
	case err != nil:
		return failed(transport.ReasonError, err)
	}
	s.answered.Store(true)
	s.data.Signs.Hear(now)
	s.client.meter.Received(len(packet), now)
	if fresh {
		s.data.Keys.Trust()
	}
	if n := s.control.Pending(); n != nil {
		s.data.Keys.Await(int(n.KeyID()))
	}
	return nil
}

// rebind replaces the socket of a UDP session.
func (s *session) rebind() error {
	if link.IsTCP(s.remote.Network) {
		return failed(transport.ReasonPathChange, errors.New("a session over TCP cannot move to a new socket"))
	}
	return s.do(func() error {
		fresh, err := link.Dial(s.lifetime, s.client.cfg.Dialer, s.remote.Network, s.data.Remote())
		if err != nil {
			return err
		}
		s.data.Rebind(s.lifetime, fresh)
		s.probe()
		return nil
	})
}

// probe sends what a living server answers: a request on the data channel, which also tells it of a new address of
// ours, and a control packet it has acknowledged before.
func (s *session) probe() {
	s.data.SendSpecial(data.Request)
	_ = s.control.Probe()
}
