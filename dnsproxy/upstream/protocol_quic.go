package upstream

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

const (
	quicIdle      = 3 * streamIdle
	quicPacket    = 1200                         // octets at first: what every path carries, a tunnel of 1280 bytes included
	quicNoError   = quic.ApplicationErrorCode(0) // RFC 9250 4.3
	quicCancelled = quic.StreamErrorCode(3)
	http3NoError  = quic.ApplicationErrorCode(0x100) // RFC 9114 8.1
)

// quicProtocol asks over QUIC: each query is a stream of one connection, which is made when needed. What is said on a stream is
// the matter of ask. There is no 0-RTT: who listens could send such a query again.
type quicProtocol struct {
	*reach
	tls    *tls.Config
	opened func(*quicConn) // for what ask needs beside the connection; may be nil
	ask    func(ctx context.Context, c *quicConn, query []byte) ([]byte, error)
	code   quic.ApplicationErrorCode // with which connections are closed

	dialing chan struct{} // of one: held while dialling, so that a burst makes one connection

	mu         sync.Mutex // guards below
	now        *quicConn
	generation int // of connections: reset begins another
	retired    bool
}

// newDoQProtocol asks over DNS over dedicated QUIC connections (RFC 9250).
func newDoQProtocol(r *reach, config *tls.Config) *quicProtocol {
	config.NextProtos = []string{"doq"}
	return &quicProtocol{reach: r, tls: config, ask: askDoQ, code: quicNoError, dialing: make(chan struct{}, 1)}
}

func (p *quicProtocol) exchange(ctx context.Context, query []byte) ([]byte, error) {
	sent := wire.Padded(query)
	sent[0], sent[1] = 0, 0 // RFC 9250 4.2.1, RFC 8484 4.1: the stream tells answers apart
	answer, reused, err := p.once(ctx, sent)
	if err != nil && reused && ctx.Err() == nil && p.current() == nil { // the server had closed the connection, as it may at any time
		answer, _, err = p.once(ctx, sent)
	}
	if err != nil {
		return nil, cause(ctx, err)
	}
	if !wire.Matches(sent, answer) {
		return nil, fmt.Errorf("%s: the answer is not to the question", p.host)
	}
	copy(answer, query[:2])
	return answer, nil
}

func (p *quicProtocol) once(ctx context.Context, query []byte) (answer []byte, reused bool, err error) {
	c, reused, err := p.connection(ctx)
	if err != nil {
		return nil, false, err
	}
	c.enter()
	answer, err = p.ask(ctx, c, query)
	c.leave(err == nil)
	return answer, reused, err
}

// tidy does nothing: a connection has a time of its own for being idle.
func (p *quicProtocol) tidy() {}

func (p *quicProtocol) retire() {
	p.mu.Lock()
	c := p.now
	p.retired = true
	p.mu.Unlock()
	if c != nil {
		c.retire()
	}
}

func (p *quicProtocol) reset() {
	p.mu.Lock()
	c := p.now
	p.now = nil
	p.generation++
	p.mu.Unlock()
	if c != nil {
		c.retire()
	}
}

// current is the connection for the next query, or nil if a new one is to be made.
func (p *quicProtocol) current() *quicConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now == nil || !p.now.takes() {
		return nil
	}
	return p.now
}

func (p *quicProtocol) connection(ctx context.Context) (c *quicConn, reused bool, err error) {
	if c := p.current(); c != nil {
		return c, true, nil
	}
	select {
	case p.dialing <- struct{}{}:
		defer func() { <-p.dialing }()
	case <-ctx.Done():
		return nil, false, errNoAnswer
	}
	if c := p.current(); c != nil {
		return c, true, nil
	}
	p.mu.Lock()
	generation := p.generation
	p.mu.Unlock()
	err = p.each(ctx, func(ctx context.Context, to netip.AddrPort) (err error) {
		c, err = p.connect(ctx, to)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.retired || p.generation != generation {
		c.gone = true // nobody else has it yet: it closes after the query that it was made for
		return c, false, nil
	}
	if p.now != nil {
		p.now.retire()
	}
	p.now = c
	return c, false, nil
}

// connect makes a connection and sees to it that its socket goes when it does.
func (p *quicProtocol) connect(ctx context.Context, to netip.AddrPort) (*quicConn, error) {
	conn, err := p.open(ctx, "udp", to)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: datagrams{conn}}
	qc, err := transport.Dial(ctx, conn.RemoteAddr(), p.tls, &quic.Config{
		MaxIdleTimeout: quicIdle, InitialPacketSize: quicPacket, DisablePathMTUDiscovery: true, MaxIncomingStreams: -1,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("quic to %s: %w", p.host, err), transport.Close(), conn.Close())
	}
	p.cfg.Go(func() {
		<-qc.Context().Done()
		transport.Close()
		conn.Close()
	})
	c := &quicConn{Conn: qc, code: p.code}
	if p.opened != nil {
		p.opened(c)
	}
	return c, nil
}

// askDoQ sends one query on a stream of its own and reads the answer (RFC 9250 4.2).
func askDoQ(ctx context.Context, c *quicConn, query []byte) (answer []byte, err error) {
	stream, err := c.OpenStreamSync(ctx)
	if err != nil {
		return nil, c.broke(ctx, err)
	}
	defer stream.CancelRead(quicCancelled) // nothing if the answer was read whole
	defer interruptStream(ctx, stream)()
	frame := append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
	if _, err := stream.Write(frame); err != nil {
		return nil, c.broke(ctx, err)
	}
	if err := stream.Close(); err != nil { // there is no further query, and servers wait for this
		return nil, c.broke(ctx, err)
	}
	answer, err = wire.ReadFrame(io.LimitReader(stream, 2+dns.MaxMsgSize), nil)
	if err != nil {
		return nil, c.broke(ctx, err)
	}
	return answer, nil
}

// interruptStream makes reads and writes fail when ctx is done. The func it returns ends that.
func interruptStream(ctx context.Context, s *quic.Stream) (stop func()) {
	end := context.AfterFunc(ctx, func() {
		s.CancelWrite(quicCancelled)
		s.CancelRead(quicCancelled)
	})
	return func() { end() }
}
