package control

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"sync/atomic"
	"time"

	"penstock/router/transport/openvpn/internal/reliable"
	"penstock/router/transport/openvpn/internal/wire"
)

const (
	maxFragment   = 1150 // bytes of TLS in a control packet: the datagram stays below 1250
	firstFragment = 800  // with the wrapped key behind it

	maxMessage = 128 << 10 // bytes of one control message
)

// Negotiation is one key id: its reliable stream, its own TLS connection, and what became of them. Each renegotiation
// is a new one; the TLS connection of the old lives on for messages of the server.
type Negotiation struct {
	Window   time.Duration // the time it has, from its begin
	Deadline time.Time     // when it must be done; may be moved
	DoneAt   time.Time     // zero: it is under way

	keyID     uint8
	stream    reliable.Stream
	pipe      *reliable.Pipe
	conn      *tls.Conn
	started   bool // TLS is running
	sent      atomic.Bool
	exchanged bool // both sides have sent their key exchange message
	sendWKC   bool // the first TLS packet carries the wrapped key

	secrets wire.Secrets
	server  wire.KeyExchange
}

// KeyID is the negotiation's key id.
func (n *Negotiation) KeyID() uint8 { return n.keyID }

// Exchanged reports that both sides have sent what their keys are made of.
func (n *Negotiation) Exchanged() bool { return n.exchanged }

// Sent reports that our key exchange message, which tells who the user is, is on its way. A server may check that before it
// does anything else, for as long as the negotiation has.
func (n *Negotiation) Sent() bool { return n.sent.Load() }

// ServerOptions is the server's summary of its options; empty where it keeps that to itself.
func (n *Negotiation) ServerOptions() string { return n.server.Options }

// Write sends a control message. It does not block. Before Exchanged it does nothing.
func (n *Negotiation) Write(message string) error {
	if n.conn == nil {
		return nil
	}
	_, err := n.conn.Write(append([]byte(message), 0))
	return err
}

// fill moves TLS bytes into the stream, as long as they would be sent at once.
func (n *Negotiation) fill() {
	for n.stream.Room() > 0 {
		op, size := wire.Control, maxFragment
		if n.sendWKC {
			op, size = wire.ControlWKC, firstFragment
		}
		b := n.pipe.Take(size)
		if len(b) == 0 {
			return
		}
		n.sendWKC = false
		n.stream.Send(op, b)
	}
}

// flushed reports that everything written has been acknowledged.
func (n *Negotiation) flushed() bool {
	n.fill()
	return n.stream.Waiting() == 0
}

func (n *Negotiation) export(label string) (*wire.StaticKey, error) {
	state := n.conn.ConnectionState()
	b, err := state.ExportKeyingMaterial(label, nil, len(wire.StaticKey{}))
	if err != nil {
		return nil, fmt.Errorf("export keys from TLS: %w", err)
	}
	return (*wire.StaticKey)(b), nil
}

// Event is something that happened in the TLS connection of a negotiation: the key exchange is done, a message came, or
// the connection has ended.
type Event struct {
	Exchanged bool
	Message   string // if Exchanged is false and Err is nil; may be empty
	Err       error

	of     *Negotiation
	conn   *tls.Conn
	server wire.KeyExchange
}

// negotiate runs TLS and the key exchange as the client, then hands the server's messages over.
func (n *Negotiation) negotiate(ctx context.Context, cfg *tls.Config, hello wire.KeyExchange, events chan<- Event) {
	post := func(e Event) {
		e.of = n
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	conn := tls.Client(n.pipe, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		post(Event{Err: fmt.Errorf("TLS handshake: %w", err)})
		return
	}
	if _, err := conn.Write(hello.Append(nil, true)); err != nil {
		post(Event{Err: err})
		return
	}
	n.sent.Store(true)
	reader := bufio.NewReaderSize(conn, maxMessage)
	reply, err := wire.ReadKeyExchange(reader, false)
	if err != nil {
		post(Event{Err: err})
		return
	}
	post(Event{Exchanged: true, conn: conn, server: *reply})
	for {
		message, err := reader.ReadSlice(0)
		if err != nil {
			post(Event{Err: err})
			return
		}
		post(Event{Message: string(message[:len(message)-1])})
	}
}
