// Package jetstream keeps what the gateways of a fleet share in NATS JetStream: a key-value bucket for each bucket of a store, and an
// object store for blobs.
//
// The versions are the sequence numbers of a bucket's stream. Values of State and Sessions end after their time, and leases by a TTL
// of their own, by the clock of the servers. All buckets have the same number of replicas, also those in memory: with one, the
// heartbeats and sessions of a fleet are gone when the server that has them is, until the gateways write them again; with three, one
// server may fail. Get may be answered by a server that is a moment behind. After each lost connection a watch ends, and starts over.
//
// It does not show whether the servers put each value on the disk before they acknowledge it (sync_interval: always): servers tell
// that to the system account only, and a gateway has no business in it.
//
// Nothing that it returns is to be believed: who may read a bucket can also make the server send it anything, see deploy/nats.
package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/store"
)

const (
	// handshakeTime bounds an attempt to connect. A path with seconds of delay is worse than none, but it is one.
	handshakeTime = 20 * time.Second
	// A connection that does not answer is lost after pingInterval * (mostPings + 1).
	pingInterval = 5 * time.Second
	mostPings    = 3
	// Between attempts to connect there is a pause of firstPause, which doubles up to longestPause, more or less by half.
	firstPause   = 200 * time.Millisecond
	longestPause = 10 * time.Second
)

// Config is how to reach NATS.
type Config struct {
	// NATS has the servers, and what proves who we are.
	NATS config.NATS
	// Name is what the servers call this client in what they show to their operators.
	Name string
	// Dial opens connections. If nil, the system's network does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Log is told when the connection is lost and back. If nil, nobody is.
	Log *slog.Logger
}

// Store is a store.Store in NATS JetStream.
type Store struct {
	config Config
	log    *slog.Logger
	ctx    context.Context // the lifetime of the Store
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when run has returned

	mu      sync.Mutex // guards below
	link    *link      // nil without a connection
	changed chan struct{}
	fault   error // why there is no connection
}

var _ store.Store = (*Store)(nil)

// Open returns a Store that connects, and connects again for good, until ctx ends or the caller calls Close, which it must. It fails only for settings that cannot work, such as
// a file that is missing.
func Open(ctx context.Context, c Config) (*Store, error) {
	if len(c.NATS.Servers) == 0 {
		return nil, errors.New("nats: there are no servers")
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
	s := &Store{config: c, log: c.Log, done: make(chan struct{}), changed: make(chan struct{}), fault: errors.New("not connected yet")}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	if _, err := s.options(s.ctx); err != nil {
		s.cancel(nil)
		return nil, err
	}
	go s.run()
	return s, nil
}

// Close ends the connection and all calls, and waits until the connection is gone. It can be called twice.
func (s *Store) Close() error {
	s.cancel(errClosed)
	<-s.done
	return nil
}

// Connected tells whether there is a connection to a server, as far as it is known.
func (s *Store) Connected() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link != nil
}

// run holds a connection until the Store is closed. A new connection is made each time, so that certificates and credentials are read
// again, and so that nothing of the old one has to be told from the new.
func (s *Store) run() {
	defer close(s.done)
	lost, told := time.Now(), false
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		l, err := s.connect()
		if err == nil {
			s.set(l, nil)
			if told {
				s.log.Info("the connection to NATS is back", "server", l.server(), "after", time.Since(lost).Round(time.Millisecond))
			} else {
				s.log.Debug("connected to NATS", "server", l.server())
			}
			err = l.wait()
			lost, told, pause = time.Now(), false, firstPause
		}
		s.set(nil, err)
		if s.ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			s.log.Warn("no connection to NATS", "servers", strings.Join(redacted(s.config.NATS.Servers), ","), "err", err)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
}

// connect makes one attempt at each server.
func (s *Store) connect() (*link, error) {
	options, err := s.options(s.ctx)
	if err != nil {
		return nil, err
	}
	l := newLink(s.ctx)
	nc, err := nats.Connect(strings.Join(s.config.NATS.Servers, ","), append(options, l.options()...)...)
	if err != nil {
		l.lose(err) // nobody else will: there is no connection that could be closed
		return nil, err
	}
	return l, l.use(nc)
}

func (s *Store) set(l *link, fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.link, s.fault = l, fault
	close(s.changed)
	s.changed = make(chan struct{})
}

// connection returns the connection, and waits for one until ctx ends.
func (s *Store) connection(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		l, changed, fault := s.link, s.changed, s.fault
		s.mu.Unlock()
		if l != nil {
			return l, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no connection to NATS at %s: %w (%w)", strings.Join(redacted(s.config.NATS.Servers), ","), fault, context.Cause(ctx))
		case <-s.ctx.Done():
			return nil, errClosed
		case <-changed:
		}
	}
}

var errClosed = errors.New("the store is closed")
