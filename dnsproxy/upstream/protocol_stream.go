package upstream

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"time"

	"penstock/dnsproxy/wire"
)

const (
	streamIdle    = 10 * time.Second // connections to upstreams are closed after that
	streamPending = 1024             // queries that wait on one connection
	// streamTries is on how many connections a query is sent. A server may close one at any time, and many do after a
	// number of queries (RFC 7766 6.2.3 and 6.2.4). In a burst the next one may end too before the query's turn comes.
	streamTries = 16
)

// streamProtocol asks over TCP or TLS. All queries share one connection, which is made when needed and pipelined (RFC 7766 6.2.1.1).
type streamProtocol struct {
	*reach
	tls *tls.Config // nil for TCP

	dialing chan struct{} // of one: held while dialling, so that a burst makes one connection

	mu         sync.Mutex // guards below
	now        *pipeline
	generation int // of connections: reset begins another
	retired    bool
}

func newStreamProtocol(r *reach, tls *tls.Config) *streamProtocol {
	return &streamProtocol{reach: r, tls: tls, dialing: make(chan struct{}, 1)}
}

func (s *streamProtocol) exchange(ctx context.Context, query []byte) ([]byte, error) {
	if s.tls != nil {
		query = wire.Padded(query)
	}
	for try := 1; ; try++ {
		p, err := s.connection(ctx)
		if err != nil {
			return nil, err
		}
		answer, err := p.exchange(ctx, query)
		if err == nil || ctx.Err() != nil || try == streamTries || !p.ended() {
			return answer, err
		}
	}
}

func (s *streamProtocol) tidy() {
	if p := s.current(); p != nil && p.idle() {
		p.conn.Close()
	}
}

func (s *streamProtocol) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	if s.now != nil {
		s.now.retire()
	}
}

func (s *streamProtocol) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.retire()
		s.now = nil
	}
	s.generation++
}

func (s *streamProtocol) current() *pipeline {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.now == nil || s.now.broken():
		return nil
	case s.now.stalled():
		s.now.retire()
		return nil
	}
	return s.now
}

func (s *streamProtocol) connection(ctx context.Context) (*pipeline, error) {
	if p := s.current(); p != nil {
		return p, nil
	}
	select {
	case s.dialing <- struct{}{}:
		defer func() { <-s.dialing }()
	case <-ctx.Done():
		return nil, errNoAnswer
	}
	if p := s.current(); p != nil {
		return p, nil
	}
	s.mu.Lock()
	generation := s.generation
	s.mu.Unlock()
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, cause(ctx, err)
	}
	p := &pipeline{conn: conn, waiting: map[uint16]*pending{}, used: time.Now()}
	s.cfg.Go(p.read)
	s.mu.Lock()
	defer s.mu.Unlock()
	p.retired = s.retired || s.generation != generation
	if s.generation == generation {
		s.now = p
	}
	return p, nil
}

func (s *streamProtocol) connect(ctx context.Context) (net.Conn, error) {
	conn, err := s.dial(ctx, "tcp")
	if err != nil || s.tls == nil {
		return conn, err
	}
	secure := tls.Client(conn, s.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, fmt.Errorf("tls to %s: %w", s.host, err)
	}
	return secure, nil
}

// pipeline is one connection and the queries that wait for their answers on it, which may come in any order.
type pipeline struct {
	conn net.Conn

	writing sync.Mutex // a frame is written whole

	mu      sync.Mutex // guards below
	waiting map[uint16]*pending
	err     error // why the connection is over
	answers bool  // there was one
	used    time.Time
	retired bool      // it closes when nobody waits
	waits   time.Time // since when the server has been silent with answers outstanding; zero if there are none
}

type pending struct {
	query  []byte
	answer chan []byte // of one; closed when the connection ends
}

// exchange sends query under an id that is free on this connection.
func (p *pipeline) exchange(ctx context.Context, query []byte) ([]byte, error) {
	frame := make([]byte, 2+len(query))
	binary.BigEndian.PutUint16(frame, uint16(len(query)))
	copy(frame[2:], query)
	wait := &pending{query: frame[2:], answer: make(chan []byte, 1)}
	id, err := p.enter(wait)
	if err != nil {
		return nil, err
	}
	defer p.leave(id)
	if err := p.write(ctx, frame); err != nil {
		p.conn.Close() // half a frame may have been sent
		if err = cause(ctx, err); ctx.Err() == nil {
			p.end(err) // now, not when the reader notices: the next query needs another connection
		}
		return nil, err
	}
	select {
	case answer, ok := <-wait.answer:
		if !ok {
			return nil, p.failure()
		}
		copy(answer, query[:2])
		return answer, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNoAnswer, ctx.Err())
	}
}

func (p *pipeline) enter(wait *pending) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return 0, p.err
	}
	if len(p.waiting) >= streamPending {
		return 0, fmt.Errorf("%d queries wait on the connection", streamPending)
	}
	for {
		id := binary.BigEndian.Uint16(wait.query)
		if p.waiting[id] == nil {
			p.waiting[id] = wait
			p.used = time.Now()
			if p.waits.IsZero() {
				p.waits = p.used
			}
			return id, nil
		}
		rand.Read(wait.query[:2])
	}
}

func (p *pipeline) leave(id uint16) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, id) // without an answer, waits stays, so that the next query does not wait on a dead path
	p.leaveLocked()
}

func (p *pipeline) retire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.retired = true
	p.leaveLocked()
}

func (p *pipeline) leaveLocked() {
	if p.retired && len(p.waiting) == 0 {
		p.conn.Close()
	}
}

func (p *pipeline) write(ctx context.Context, frame []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if deadline, ok := ctx.Deadline(); ok {
		p.conn.SetWriteDeadline(deadline)
	}
	_, err := p.conn.Write(frame)
	return err
}

// read hands out answers until the connection ends.
func (p *pipeline) read() {
	defer p.conn.Close()
	buf := make([]byte, 0, 2048)
	for {
		p.conn.SetReadDeadline(time.Now().Add(streamIdle))
		msg, err := wire.ReadFrame(p.conn, buf)
		if err != nil {
			p.end(fmt.Errorf("connection to the upstream ended: %w", err))
			return
		}
		p.deliver(msg)
	}
}

func (p *pipeline) deliver(msg []byte) {
	if len(msg) < wire.HeaderLen {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.used = time.Now()
	p.waits = p.used
	p.answers = true
	id := binary.BigEndian.Uint16(msg)
	if wait := p.waiting[id]; wait != nil && wire.Matches(wait.query, msg) {
		delete(p.waiting, id)
		wait.answer <- append([]byte(nil), msg...)
	}
	if len(p.waiting) == 0 {
		p.waits = time.Time{}
	}
}

func (p *pipeline) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	for id, wait := range p.waiting {
		delete(p.waiting, id)
		close(wait.answer)
	}
}

func (p *pipeline) failure() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// ended reports whether the connection is over for a reason that leaves hope for another: the server has answered on it
// before, or we closed it ourselves.
func (p *pipeline) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err != nil && (p.answers || p.retired)
}

// stalled reports whether the server has been silent for so long that a new connection is more likely to work. The path of this
// one may be gone, which TCP alone takes minutes to notice.
func (p *pipeline) stalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.waits.IsZero() && time.Since(p.waits) >= firstTimeout
}

func (p *pipeline) broken() bool { return p.failure() != nil }

// idle reports whether no query has waited for a while.
func (p *pipeline) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.waiting) == 0 && time.Since(p.used) > streamIdle
}
