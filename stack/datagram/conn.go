package datagram

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/stack/deadline"
	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/share"
)

var (
	// ErrEvicted is why a flow ended that made room for a newer one.
	ErrEvicted = errors.New("pushed out by newer flows")

	errIdle         = errors.New("idle for too long")
	errAddressGone  = errors.New("the stack's address is gone")
	errClientClosed = errors.New("the client was closed")
)

// ephemeralPort is a random local port: an off-path attacker has to guess it (RFC 6056).
func ephemeralPort() uint16 { return uint16(1024 + rand.IntN(64512)) }

// Conn is one datagram or echo flow. Each Read takes one datagram and each Write sends one; a Read into a
// buffer that is too short loses the rest of the datagram, as a socket does. For echo flows a datagram is the body of
// the ICMP message after its checksum: identifier (2 bytes), sequence number (2), payload.
type Conn struct {
	t        *Table
	key      Key
	owner    share.Owner
	idle     time.Duration
	place    share.Place              // in the table; place.Active is when the last packet passed, either way
	state    atomic.Uint32            // a flowState
	why      atomic.Uint32            // a packet.Why, in state flowRefused
	in, out  atomic.Uint64            // bytes of payload
	began    int64                    // as of Config.Now
	answers  answers                  // to a client; nobody asks for those of what we dialled
	over     atomic.Bool              // it was shut
	begins   atomic.Bool              // its handler has neither ended nor come to wait for the client
	writing  atomic.Int32             // packets to its other end under way: one of them may leave after shut
	crossing atomic.Pointer[Crossing] // nil unless its packets cross
	read     deadline.Deadline
	path     path
	ident    atomic.Uint32 // the caller's own echo identifier, for dialled echo flows

	inbox
}

var _ net.PacketConn = (*Conn)(nil)

func newConn(t *Table, k Key, o share.Owner) *Conn {
	c := &Conn{
		t:     t,
		key:   k,
		owner: o,
		idle:  t.Limits.idle(k.Kind, k.Local.Port()),
		inbox: inbox{signal: make(chan struct{}, 1)},
	}
	c.place.Flow, c.place.Yields = c, true
	c.touch()
	c.began = c.place.Active.Load()
	return c
}

// Network is "udp" or "icmp".
func (c *Conn) Network() string {
	if c.key.Kind == UDP {
		return "udp"
	}
	return "icmp"
}

// unanswered is how long a flow that nobody answers may be silent. Linux forgets such flows after as long
// (nf_conntrack_udp_timeout).
const unanswered = 30 * time.Second

// exchange is how long a question and its answer take, at most: a flow that goes on for longer is more than that.
const exchange = 2 * time.Second

// answers are what has come back to the client of a flow.
type answers struct {
	any     atomic.Bool // a datagram
	refused atomic.Bool // an ICMP error
}

// patience is how long a client's flow may be silent, at most. The two minutes of RFC 4787 are for conversations: a program that asks
// closed ports a hundred times a second would fill the table. A client that holds more flows than its share keeps those that carried
// nothing after the time of one exchange no longer than those without an answer: Linux does so with every client. lasted is the time from
// the first packet to the last.
func (a *answers) patience(l *Limits, crowds bool, lasted time.Duration) time.Duration {
	switch {
	case !a.any.Load() && a.refused.Load():
		return l.IdleShort
	case !a.any.Load(), crowds && lasted <= exchange:
		return unanswered
	}
	return math.MaxInt64
}

// touch notes that a packet passed.
func (c *Conn) touch() { c.place.Active.Store(c.t.Now()) }

// idleAt reports whether the flow is idle at now. crowds says that its client holds more flows than its share.
func (c *Conn) idleAt(now int64, crowds bool) bool {
	limit := c.idle
	switch flowState(c.state.Load()) {
	case flowRefused, flowDropped:
		limit = tombstone
	case flowAccepted:
		if !c.owner.Own { // what we dialled ends with the flow that it is for
			limit = min(limit, c.answers.patience(&c.t.Limits, crowds, time.Duration(c.place.Active.Load()-c.began)))
		}
	}
	return time.Duration(now-c.place.Active.Load()) > limit
}

// deliver queues one datagram that came in.
func (c *Conn) deliver(data []byte, as packet.Manner) {
	switch flowState(c.state.Load()) {
	case flowRefused:
		c.t.Sender.Unreachable(c.key, packet.Why(c.why.Load()))
		return
	case flowDropped:
		return
	}
	c.touch()
	c.in.Add(uint64(len(data)))
	c.mu.Lock()
	if x := c.crossing.Load(); x != nil { // since whoever brought it looked
		c.mu.Unlock()
		(*x).Take(c, data, as)
		return
	}
	if c.err != nil || c.bytes+len(data) > c.t.Limits.Queue {
		full := c.err == nil
		c.mu.Unlock()
		if full {
			c.t.Count.Drop(dropQueue)
		}
		return
	}
	if c.head > 0 && len(c.queue) == cap(c.queue) { // move up instead of growing
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.head = c.queue[:n], 0
	}
	b := datagramPool.Get().(*[]byte)
	*b = append((*b)[:0], data...)
	c.queue = append(c.queue, queued{b, as})
	c.bytes += len(data)
	then := c.thenLocked()
	c.mu.Unlock()
	c.notify(then)
}

// WhenReadable calls f once, in a goroutine of its own, when there is a datagram or an error to take. Nobody may read meanwhile.
func (c *Conn) WhenReadable(f func()) (ok bool) {
	c.mu.Lock()
	if c.head < len(c.queue) || c.err != nil || c.failed != nil {
		c.mu.Unlock()
		go f()
		return true
	}
	c.then = f
	c.mu.Unlock()
	c.t.begun(c)
	return true
}

// Keep lets the flow outlive its handler: it is over when somebody calls over, once. Keep is called by the handler.
func (c *Conn) Keep() (over func()) {
	c.t.wg.Add(1)
	return func() {
		c.Close()
		c.t.wg.Done()
	}
}

// Accept lets the flow's handler read and write. The first datagram is still to be read.
func (c *Conn) Accept() { c.answer(flowAccepted) }

// Refuse answers the sender that nobody is there, for as long as it goes on, and ends the flow. It stays in the table for
// a moment, so that a sender that goes on costs no new judgement. A ping that nobody listens to is prohibited.
func (c *Conn) Refuse(why packet.Why) {
	if why == packet.WhyPort && c.key.Kind != UDP {
		why = packet.WhyProhibited
	}
	c.why.Store(uint32(why))
	c.answer(flowRefused)
	c.t.Sender.Unreachable(c.key, why)
	c.touch()
	c.shut(net.ErrClosed)
}

// Drop ends the flow in silence. It stays in the table for a moment, as after Refuse.
func (c *Conn) Drop() {
	c.answer(flowDropped)
	c.touch()
	c.shut(net.ErrClosed)
}

// answer moves a flow that is pending to another state.
func (c *Conn) answer(s flowState) {
	c.state.Store(uint32(s))
	c.mu.Lock()
	c.onEnd = nil
	c.mu.Unlock()
}

// Key names the flow.
func (c *Conn) Key() Key { return c.key }

// Client is the key of the client that began the flow.
func (c *Conn) Client() uint64 { return c.owner.Client }

// shut ends the flow's reads and writes with err.
func (c *Conn) shut(err error) {
	c.mu.Lock()
	if c.onEnd != nil {
		c.onEnd()
		c.onEnd = nil
	}
	if c.err == nil {
		c.over.Store(true)
		c.err = &net.OpError{Op: "read", Net: c.Network(), Addr: c.RemoteAddr(), Err: errors.Join(net.ErrClosed, err)}
		if x := c.crossing.Load(); x != nil {
			go (*x).Ended() // the other flow's table may be locked, by somebody who waits for this one's
		}
	}
	for _, q := range c.queue[c.head:] {
		datagramPool.Put(q.b)
	}
	c.queue, c.head, c.bytes = nil, 0, 0
	then := c.thenLocked()
	c.mu.Unlock()
	c.notify(then)
}

// fail makes the next Read return an ICMP error; the flow goes on.
func (c *Conn) fail(err syscall.Errno) {
	c.mu.Lock()
	if c.err == nil && c.failed == nil {
		c.failed = &net.OpError{Op: "read", Net: c.Network(), Addr: c.RemoteAddr(), Err: err}
	}
	then := c.thenLocked()
	c.mu.Unlock()
	c.notify(then)
}

// Read takes one datagram, and waits for it. What does not fit into b is lost.
func (c *Conn) Read(b []byte) (int, error) {
	for {
		if n, ok, err := c.next(b); ok {
			return n, err
		}
		c.t.begun(c)
		select {
		case <-c.signal:
		case <-c.read.Passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// next copies a queued datagram to b, or returns an error as take does.
func (c *Conn) next(b []byte) (n int, ok bool, err error) {
	var one [1]queued
	list, err := c.take(one[:0], 1)
	if len(list) == 0 {
		return 0, err != nil, err
	}
	n = copy(b, *list[0].b)
	datagramPool.Put(list[0].b)
	return n, true, nil
}

// Each hands every datagram to f, those together that wait, until f or the flow returns an error. It replaces a loop over Read and needs
// no buffer of the caller's. f must not keep the bytes.
func (c *Conn) Each(f func([][]byte) error) error {
	for {
		some, err := c.some(f)
		if err != nil {
			return err
		}
		if some {
			continue
		}
		c.t.begun(c)
		select {
		case <-c.signal:
		case <-c.read.Passed():
			return os.ErrDeadlineExceeded
		}
	}
}

var packetPool = sync.Pool{New: func() any { b := make([]byte, 2048); return &b }}

// Write sends one datagram to the other end: to the client, from the address that it had sent to, or to whom we dialled.
func (c *Conn) Write(b []byte) (int, error) { return c.Send(b, packet.Manner{}) }

// Send is Write for a datagram that came in some manner.
func (c *Conn) Send(b []byte, as packet.Manner) (int, error) {
	c.writing.Add(1)
	defer c.writing.Add(-1)
	if c.over.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		return 0, c.err
	}
	src, dst := c.key.Local, c.key.Remote
	hdr := packet.HeaderLen(src.Addr())
	if c.key.headerLen()+len(b) > packet.MaxBody(src.Addr()) || c.key.Kind != UDP && len(b) < 4 {
		return 0, &net.OpError{Op: "write", Net: c.Network(), Addr: c.RemoteAddr(), Err: syscall.EMSGSIZE}
	}
	buf := packetPool.Get().(*[]byte)
	defer packetPool.Put(buf)
	proto, n := c.encode(buf, hdr, b)
	c.touch()
	c.answers.any.Store(true)
	if err := c.t.Sender.Send(proto, src.Addr(), dst.Addr(), (*buf)[:hdr+n], as, c.t.sendMTU(c)); err != nil {
		return 0, &net.OpError{Op: "write", Net: c.Network(), Addr: c.RemoteAddr(), Err: err}
	}
	c.out.Add(uint64(len(b)))
	return len(b), nil
}

// encode writes the transport header and b behind hdr free bytes of buf, and returns their protocol and length.
func (c *Conn) encode(buf *[]byte, hdr int, b []byte) (proto uint8, n int) {
	n = c.key.headerLen() + len(b)
	if len(*buf) < hdr+n {
		*buf = make([]byte, hdr+n)
	}
	t := (*buf)[hdr : hdr+n]
	src, dst := c.key.Local, c.key.Remote
	if c.key.Kind == UDP {
		packet.PutPorts(t, src, dst)
		binary.BigEndian.PutUint16(t[4:], uint16(n))
		t[6], t[7] = 0, 0
		copy(t[8:], b)
		sum := link.Checksum(t, packet.PseudoHeader(packet.ProtoUDP, src.Addr(), dst.Addr(), n))
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(t[6:], sum)
		return packet.ProtoUDP, n
	}
	copy(t[4:], b)
	ident := dst.Port() // an answer carries the identifier of the request
	if c.key.Kind == Reply {
		c.ident.Store(uint32(binary.BigEndian.Uint16(b)))
		ident = src.Port()
	}
	binary.BigEndian.PutUint16(t[4:], ident)
	packet.PutEcho(t, c.key.Kind == Reply, src.Addr(), dst.Addr())
	return packet.ICMPProto(src.Addr()), n
}

// ReadFrom is Read that also names the peer. The connection is a net.PacketConn because resolvers tell datagrams from
// streams by that.
func (c *Conn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, c.RemoteAddr(), err
}

// WriteTo is Write: the flow has one peer.
func (c *Conn) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

// Bytes returns the bytes of payload that were read from and written to the flow so far.
func (c *Conn) Bytes() (in, out uint64) { return c.in.Load(), c.out.Load() }

// Unreachable sends the client the ICMP error that stands for err, as packet.WhyOf reads it. The flow goes on.
func (c *Conn) Unreachable(err error) {
	c.answers.refused.Store(true)
	c.t.Sender.Unreachable(c.key, packet.WhyOf(err))
}

// Close ends the flow.
func (c *Conn) Close() error {
	c.t.remove(c)
	c.shut(net.ErrClosed)
	return nil
}

// LocalAddr is the stack's end.
func (c *Conn) LocalAddr() net.Addr { return c.addr(c.key.Local) }

// RemoteAddr is the peer's end.
func (c *Conn) RemoteAddr() net.Addr { return c.addr(c.key.Remote) }

func (c *Conn) addr(a netip.AddrPort) net.Addr {
	if c.key.Kind == UDP {
		return net.UDPAddrFromAddrPort(a)
	}
	return &net.IPAddr{IP: a.Addr().AsSlice()}
}

// SetDeadline is SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline ends a Read that waits at t; the zero time never.
func (c *Conn) SetReadDeadline(t time.Time) error { c.read.Set(t); return nil }

// SetWriteDeadline does nothing: a Write never waits.
func (c *Conn) SetWriteDeadline(time.Time) error { return nil }
