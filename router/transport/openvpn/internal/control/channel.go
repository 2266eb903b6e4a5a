// Package control is the control channel of one session: it takes and makes control packets, runs a negotiation for
// each key id, and hands the server's messages over.
//
//	          Receive             pipe            TLS goroutine
//	packets ----------> stream ----------> pipe ---------------> Events ---> the session
//	        <---------- stream <---------- pipe <--------------- Write  <---
//	          Flush
//
// A Channel is a state machine that the session's goroutine owns; only TLS runs in goroutines of its own, one for each
// negotiation.
//
// The package does not know sockets, does not decide when to renegotiate or to give up, and does not read messages.
package control

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/router/transport/openvpn/internal/link"
	"penstock/router/transport/openvpn/internal/reliable"
	"penstock/router/transport/openvpn/internal/wire"
)

// Reasons why Receive leaves a packet aside. None of them ends a session.
var (
	ErrMalformed = errors.New("malformed control packet")
	ErrForeign   = errors.New("the control packet is not the server's")
	ErrKeyID     = errors.New("the control packet is for a key id that is not in use")
)

// ErrForgotten says that the server has started anew and does not know the session any more.
var ErrForgotten = errors.New("the server has forgotten the session")

// Config is what a Channel needs. All fields are required.
type Config struct {
	Protection *wire.Protection
	TLS        *tls.Config
	Window     time.Duration // for one negotiation
	// Hello is what each negotiation tells the server, without the secrets.
	Hello func() wire.KeyExchange
	// Send sends a packet, which starts link.Head bytes into buffer, and keeps buffer. again says that the packet was
	// sent before. An error ends Flush.
	Send func(buffer []byte, again bool) error
}

// Channel is the control channel of one session. Its methods belong to one goroutine.
type Channel struct {
	cfg    Config
	events chan Event
	wake   chan struct{}
	wg     sync.WaitGroup

	lifetime context.Context // of what Start starts
	id, peer wire.SessionID
	answered bool
	wraps    wraps
	rtt      reliable.RTT

	table
}

// New returns a channel with a session id of its own.
func New(cfg Config) (*Channel, error) {
	c := &Channel{cfg: cfg, events: make(chan Event), wake: make(chan struct{}, 1)}
	for c.id == (wire.SessionID{}) {
		if _, err := rand.Read(c.id[:]); err != nil {
			return nil, err
		}
	}
	var err error
	c.wraps.base, err = cfg.Protection.New(time.Now)
	return c, err
}

// Start begins the first negotiation. TLS ends with lifetime.
func (c *Channel) Start(lifetime context.Context, now time.Time) {
	c.lifetime = lifetime
	first := wire.HardResetClient
	if len(c.cfg.Protection.WKC) > 0 {
		first = wire.HardResetClientV3
	}
	c.begin(0, first, now)
}

// Close ends TLS and waits for its goroutines. lifetime must have ended.
func (c *Channel) Close() {
	for _, n := range c.negotiations {
		if n != nil {
			n.pipe.Fail(net.ErrClosed)
		}
	}
	c.wg.Wait()
}

// Renegotiate begins a negotiation for the next key id. There must be none under way.
func (c *Channel) Renegotiate(now time.Time) { c.begin(c.next(), wire.SoftReset, now) }

// begin opens a negotiation with its reset packet.
func (c *Channel) begin(keyID uint8, reset wire.Opcode, now time.Time) {
	n := &Negotiation{keyID: keyID, Window: c.cfg.Window, Deadline: now.Add(c.cfg.Window), pipe: reliable.NewPipe(c.nudge)}
	n.stream.RTT = &c.rtt
	n.stream.Send(reset, nil)
	c.add(n)
}

func (c *Channel) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Wake says that Flush has something to send.
func (c *Channel) Wake() <-chan struct{} { return c.wake }

// Answered reports that the server has sent its first packet.
func (c *Channel) Answered() bool { return c.answered }

// Receive takes one control packet from the link. fresh says that the server has begun a negotiation or answered ours,
// which it does only once it has the current key. ErrMalformed, ErrForeign and ErrKeyID concern the packet alone; any
// other error ends the session.
func (c *Channel) Receive(packet []byte, now time.Time) (fresh bool, err error) {
	op, keyID, from, err := wire.ParseOuter(packet)
	if err != nil {
		return false, ErrMalformed
	}
	body, err := c.wraps.of(keyID).Open(packet)
	if err != nil {
		return false, ErrForeign
	}
	p, err := wire.ParsePacket(packet, body)
	switch {
	case err != nil:
		return false, ErrMalformed
	case len(p.Acks) > 0 && p.Peer != c.id:
		return false, ErrForeign
	case c.answered && from != c.peer:
		if op == wire.HardResetServer && len(p.Acks) > 0 && c.current != nil { // it answers our id with a new one of its own
			return false, ErrForgotten
		}
		return false, ErrForeign
	case !c.answered:
		if op != wire.HardResetServer || p.ID != 0 || len(p.Acks) == 0 {
			return false, ErrForeign
		}
		c.peer, c.answered = from, true
	}
	n := c.negotiationFor(op, keyID, now)
	if n == nil {
		return false, ErrKeyID
	}
	return c.accept(n, p, now)
}

// negotiationFor finds the negotiation of a key id; a soft reset may open it.
func (c *Channel) negotiationFor(op wire.Opcode, keyID uint8, now time.Time) *Negotiation {
	if n := c.negotiations[keyID]; n != nil {
		return n
	}
	if op != wire.SoftReset || c.current == nil || c.pending != nil || keyID != c.next() {
		return nil
	}
	c.begin(keyID, wire.SoftReset, now)
	return c.pending
}

// accept takes a packet that belongs to n.
func (c *Channel) accept(n *Negotiation, p wire.Packet, now time.Time) (fresh bool, err error) {
	n.stream.Acked(p.Acks, now)
	if n.stream.HoldAcks && n.stream.Waiting() == 0 {
		n.stream.HoldAcks = false // the wrapped key has arrived
	}
	if p.Op == wire.Ack {
		return false, nil
	}
	for _, in := range n.stream.Receive(p.Op, p.ID, p.Payload) {
		switch in.Op {
		case wire.HardResetServer:
			if len(c.cfg.Protection.WKC) > 0 && wire.AsksForWKC(in.Payload) {
				n.sendWKC, n.stream.HoldAcks = true, true
			}
		case wire.SoftReset:
			fresh = true
		default:
			if err := n.pipe.Deliver(in.Payload); err != nil {
				return fresh, err
			}
		}
	}
	if n.started {
		return fresh, nil
	}
	return fresh, c.startTLS(n)
}

// startTLS begins the TLS handshake of n, as the client, whoever asked for it.
func (c *Channel) startTLS(n *Negotiation) error {
	n.started = true
	hello := c.cfg.Hello()
	for _, b := range [][]byte{hello.PreMaster[:], hello.Random1[:], hello.Random2[:]} {
		if _, err := rand.Read(b); err != nil {
			return err
		}
	}
	n.secrets = hello.Secrets
	c.wg.Go(func() { n.negotiate(c.lifetime, c.cfg.TLS, hello, c.events) })
	return nil
}

// Flush sends every packet that is due.
func (c *Channel) Flush(now time.Time) error {
	for _, n := range c.negotiations {
		if n == nil {
			continue
		}
		n.fill()
		for {
			out, ok := n.stream.Next(now)
			if !ok {
				break
			}
			if err := c.transmit(n, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// Due is when Flush has something to send; the zero time: not before something happens.
func (c *Channel) Due(now time.Time) (due time.Time) {
	for _, n := range c.negotiations {
		if n == nil {
			continue
		}
		if t := n.stream.Due(now); !t.IsZero() && (due.IsZero() || t.Before(due)) {
			due = t
		}
	}
	return due
}

func (c *Channel) transmit(n *Negotiation, out reliable.Outgoing) error {
	packet := wire.Packet{Op: out.Op, KeyID: n.keyID, Session: c.id, Acks: out.Acks, Peer: c.peer, ID: out.ID, Payload: out.Payload}
	sealed := c.wraps.of(n.keyID).Seal(&packet)
	buffer := append(make([]byte, link.Head, link.Head+len(sealed)), sealed...)
	if out.Op == wire.HardResetClientV3 || out.Op == wire.ControlWKC {
		buffer = append(buffer, c.cfg.Protection.WKC...)
	}
	return c.cfg.Send(buffer, out.Again)
}

// Probe sends a packet again that the server has acknowledged: a living server does so once more.
func (c *Channel) Probe() error {
	if c.current == nil {
		return nil
	}
	out, ok := c.current.stream.Repeat()
	if !ok {
		return nil
	}
	return c.transmit(c.current, out)
}

// Flushed reports that the server has acknowledged everything that was written to the current negotiation.
func (c *Channel) Flushed() bool { return c.current == nil || c.current.flushed() }

// Key derives n's data key. exporter says where its material comes from; the key id of p is filled in.
func (c *Channel) Key(n *Negotiation, exporter bool, p datakey.Params) (datakey.Key, error) {
	p.KeyID = n.keyID
	if !exporter {
		material := datakey.FromPRF(&n.secrets, &n.server.Secrets, c.id, c.peer)
		return datakey.New(&material, p)
	}
	material, err := n.export(datakey.ExporterLabel)
	if err != nil {
		return nil, err
	}
	return datakey.New(material, p)
}

const dynamicLabel = "EXPORTER-OpenVPN-dynamic-tls-crypt"

// ProtectAnew protects later key ids with a key that only the two sides of this session know, derived from n.
func (c *Channel) ProtectAnew(n *Negotiation) error {
	key, err := n.export(dynamicLabel)
	if err != nil {
		return err
	}
	if static := c.cfg.Protection.Key; static != nil {
		for i := range key {
			key[i] ^= static[i]
		}
	}
	c.wraps.dynamic, err = wire.NewTLSCrypt(key, wire.Inverse, time.Now)
	return err
}

// wraps protect control packets.
type wraps struct {
	base    wire.Wrap // of key id 0
	dynamic wire.Wrap // of the others; nil: base is
}

func (w *wraps) of(keyID uint8) wire.Wrap {
	if keyID > 0 && w.dynamic != nil {
		return w.dynamic
	}
	return w.base
}

// Events gives what happens in TLS. Each one is to be given to Note.
func (c *Channel) Events() <-chan Event { return c.events }

// Note takes an event to the negotiation it is of. It returns nil if that is gone or the event has no consequence.
func (c *Channel) Note(e Event) *Negotiation {
	n := e.of
	switch {
	case e.Exchanged:
		n.conn, n.exchanged, n.server = e.conn, true, e.server
	case c.negotiations[n.keyID] != n, e.Err != nil && n == c.previous:
		return nil
	}
	return n
}
