package openvpn

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"penstock/router/transport"
	"penstock/router/transport/openvpn/internal/reliable"
	"penstock/router/transport/openvpn/internal/wire"
)

const (
	defaultHandWindow  = 60 * time.Second
	defaultTransition  = time.Hour
	defaultPing        = 10 * time.Second
	defaultPingRestart = time.Minute

	inboxSize  = 128 // control packets: more are dropped and come again
	exitWait   = time.Second
	exitCopies = 2
)

// session is one connection with one server. The goroutine in run owns its control channel; data packets pass it by
// (data.go).
type session struct {
	client  *Client
	log     *slog.Logger
	network string
	sent    credentials
	tls     *tls.Config
	start   time.Time
	id      wire.SessionID

	link     atomic.Pointer[link]
	data     dataPath
	heard    instant     // the last packet that authenticated
	spoke    instant     // the last data packet sent
	refused  atomic.Bool // the server's host says that nobody listens
	answered atomic.Bool
	progress atomic.Pointer[string]

	inbox    chan []byte
	events   chan func() error // work for run, from other goroutines
	wake     chan struct{}
	linkDown chan error

	ready chan struct{} // closed when established
	done  chan struct{} // closed when every goroutine has ended
	err   error         // why; to be read after done

	wg sync.WaitGroup

	// Below is touched by the goroutine in run only.
	lifetime     context.Context // ends with the session
	peer         wire.SessionID
	base         wire.Wrap // protects key id 0
	dynamic      wire.Wrap // protects the others; nil: base does
	rtt          reliable.RTT
	negotiations [8]*negotiation // by key id
	current      *negotiation    // the newest that is done
	previous     *negotiation    // the one before, whose key is the lame duck
	pending      *negotiation    // the one under way
	options      optionList
	push         *pushed // nil until established
	askAt        time.Time
	authPending  bool
	liveness     liveness
	leaveBy      time.Time // zero: not leaving
}

// Reasons why a session ends on our own account.
var (
	errLeft    = errors.New("openvpn: the session was left")
	errGivenUp = errors.New("openvpn: the attempt was given up")
)

func newSession(c *Client, l link, network string, sent credentials) (*session, error) {
	s := &session{
		client: c, log: c.log, network: network, sent: sent,
		tls:      c.cfg.Profile.tlsConfig(),
		start:    time.Now(),
		inbox:    make(chan []byte, inboxSize),
		events:   make(chan func() error),
		wake:     make(chan struct{}, 1),
		linkDown: make(chan error, 1),
		ready:    make(chan struct{}),
		done:     make(chan struct{}),
	}
	for s.id == (wire.SessionID{}) {
		if _, err := rand.Read(s.id[:]); err != nil {
			return nil, err
		}
	}
	var err error
	if s.base, err = c.cfg.Profile.wrap.wrap(time.Now); err != nil {
		return nil, err
	}
	s.link.Store(&l)
	s.reach("waiting for the server's first packet")
	return s, nil
}

func (s *session) outer() link { return *s.link.Load() }

func (s *session) reach(stage string) { s.progress.Store(&stage) }

func (s *session) stage() string { return *s.progress.Load() }

// run carries the session from its first packet to its end, and closes done when nothing of it is left.
func (s *session) run(ctx context.Context) {
	defer s.client.ended(s)
	defer close(s.done)
	var cancel context.CancelFunc
	s.lifetime, cancel = context.WithCancel(ctx)
	s.startReader(s.outer())
	s.err = s.loop()
	cancel()
	for _, n := range s.negotiations {
		if n != nil {
			n.pipe.Fail(net.ErrClosed)
		}
	}
	_ = s.outer().close()
	drained := make(chan struct{})
	go func() { // whoever still reports is let go
		for {
			select {
			case <-s.events:
			case <-drained:
				return
			}
		}
	}()
	s.wg.Wait()
	close(drained)
}

func (s *session) loop() error {
	first := wire.HardResetClient
	if len(s.client.cfg.Profile.wrap.wkc) > 0 {
		first = wire.HardResetClientV3
	}
	s.begin(0, first, time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if err := s.tick(now); err != nil {
			return err
		}
		if err := s.flush(now); err != nil {
			return err
		}
		timer.Reset(time.Until(s.deadline(now)))
		var err error
		select {
		case packet := <-s.inbox:
			err = s.control(packet)
		case event := <-s.events:
			err = event()
		case err = <-s.linkDown:
		case <-s.wake:
		case <-timer.C:
		}
		if err != nil {
			return err
		}
	}
}

// do runs f in the session's goroutine and returns what it returned.
func (s *session) do(f func() error) error {
	result := make(chan error, 1)
	select {
	case s.events <- func() error { result <- f(); return nil }:
	case <-s.done:
		return transport.ErrNotUp
	}
	select {
	case err := <-result:
		return err
	case <-s.done: // it was taken by a session that was ending
		return transport.ErrNotUp
	}
}

// post hands f to the session's goroutine, which ends the session if f returns an error.
func (s *session) post(f func() error) {
	select {
	case s.events <- f:
	case <-s.done:
	}
}

func (s *session) nudge() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// giveUp ends an attempt that is not established and returns err as the reason.
func (s *session) giveUp(err error) error {
	s.post(func() error { return errGivenUp })
	<-s.done
	if !errors.Is(s.err, errGivenUp) {
		return s.err // it had a better reason
	}
	return s.client.failed(transport.ReasonHandshakeFailed, err)
}

// leave tells the server that the session is over, waits up to exitWait for it to hear, and ends the session.
func (s *session) leave() {
	_ = s.do(func() error {
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
		if err := s.flush(time.Now()); err != nil {
			return err
		}
		return errLeft
	})
	<-s.done
}

func (s *session) sayExit() {
	if s.push != nil && s.push.controlExit && s.current != nil {
		_ = s.current.write("EXIT")
		return
	}
	for range exitCopies { // nobody acknowledges it
		s.sendSpecial(occExit)
	}
}

// tick does what time asks for.
func (s *session) tick(now time.Time) error {
	if !s.leaveBy.IsZero() && (now.After(s.leaveBy) || s.current == nil || s.current.flushed()) {
		return errLeft
	}
	if p := s.pending; p != nil && now.After(p.deadline) {
		return s.client.failed(transport.ReasonHandshakeFailed, fmt.Errorf("%s took longer than %s", s.stage(), p.window))
	}
	if s.push == nil {
		if s.asking() && now.After(s.askAt) {
			s.askAt = now.Add(askAgain)
			return s.pending.write("PUSH_REQUEST")
		}
		return nil
	}
	if err := s.checkAlive(now); err != nil {
		return err
	}
	if s.pending == nil && s.keyIsOld(now) {
		s.begin(s.nextKeyID(), wire.SoftReset, now)
	}
	s.data.tick(now)
	if s.previous != nil && now.After(s.data.duckUntil) {
		s.retire()
	}
	return nil
}

const (
	askFirst = time.Second // before asking for options that a server should push by itself
	askAgain = 5 * time.Second

	maxSleep = 5 * time.Second // key limits have no event of their own
)

// asking reports whether the server owes us its options.
func (s *session) asking() bool { return s.pending != nil && s.pending.exchanged && !s.authPending }

// deadline is when tick or flush have something to do, at the latest.
func (s *session) deadline(now time.Time) time.Time {
	next := now.Add(maxSleep)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	for _, n := range s.negotiations {
		if n != nil {
			sooner(n.stream.Due(now))
		}
	}
	if s.pending != nil {
		sooner(s.pending.deadline)
	}
	sooner(s.leaveBy)
	if s.push == nil {
		if s.asking() {
			sooner(s.askAt)
		}
		return next
	}
	sooner(s.liveness.next(s))
	sooner(s.renegotiateAt())
	sooner(s.data.switchAt)
	sooner(s.data.duckUntil)
	return next
}
