package stack

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"penstock/stack/link"
)

var (
	errEvicted      = errors.New("pushed out by newer flows")
	errIdle         = errors.New("idle for too long")
	errAddressGone  = errors.New("the stack's address is gone")
	errClientClosed = errors.New("the client was closed")
)

// ephemeralPort is a random local port: an off-path attacker has to guess it (RFC 6056).
func ephemeralPort() uint16 { return uint16(1024 + rand.IntN(64512)) }

// datagramConn is one datagram or echo flow. Each Read takes one datagram and each Write sends one; a Read into a
// buffer that is too short loses the rest of the datagram, as a socket does. For echo flows a datagram is the body of
// the ICMP message after its checksum: identifier (2 bytes), sequence number (2), payload.
type datagramConn struct {
	t       *flowTable
	key     flowKey
	client  uint64
	dialled bool
	idle    time.Duration
	start   time.Time
	active  atomic.Int64 // nanoseconds since start of the last packet either way
	state   atomic.Uint32
	in, out atomic.Uint64 // bytes of payload
	read    deadline
	ident   atomic.Uint32 // the caller's own echo identifier, for dialled echo flows

	mu     sync.Mutex // guards below
	queue  []*[]byte
	head   int // first of queue that was not taken
	bytes  int
	err    error // why reads end
	signal chan struct{}
}

var datagramPool = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

var _ net.PacketConn = (*datagramConn)(nil)

func newDatagramConn(t *flowTable, k flowKey) *datagramConn {
	port := k.local.Port()
	return &datagramConn{
		t:      t,
		key:    k,
		idle:   t.s.limits.udpIdle(k.kind, port),
		start:  time.Now(),
		signal: make(chan struct{}, 1),
	}
}

func (c *datagramConn) network() string {
	if c.key.kind == kindUDP {
		return "udp"
	}
	return "icmp"
}

func (c *datagramConn) touch() { c.active.Store(int64(time.Since(c.start))) }

func (c *datagramConn) idleAt(now time.Time) bool {
	limit := c.idle
	if s := flowState(c.state.Load()); s == flowRefused || s == flowDropped {
		limit = tombstone
	}
	return now.Sub(c.start)-time.Duration(c.active.Load()) > limit
}

// deliver queues one datagram that came in.
func (c *datagramConn) deliver(data []byte) {
	switch flowState(c.state.Load()) {
	case flowRefused:
		c.t.s.unreachable(c.key, c.refusal())
		return
	case flowDropped:
		return
	}
	c.touch()
	c.in.Add(uint64(len(data)))
	c.mu.Lock()
	if c.err != nil || c.bytes+len(data) > c.t.s.limits.UDPQueue {
		full := c.err == nil
		c.mu.Unlock()
		if full {
			c.t.s.metrics.drop(dropQueue)
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
	c.queue = append(c.queue, b)
	c.bytes += len(data)
	c.mu.Unlock()
	c.notify()
}

func (c *datagramConn) notify() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

// shut ends the flow's reads and writes with err.
func (c *datagramConn) shut(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = &net.OpError{Op: "read", Net: c.network(), Addr: c.RemoteAddr(), Err: errors.Join(net.ErrClosed, err)}
	}
	for _, b := range c.queue[c.head:] {
		datagramPool.Put(b)
	}
	c.queue, c.head, c.bytes = nil, 0, 0
	c.mu.Unlock()
	c.notify()
}

// fail makes the next Read return an ICMP error; the flow goes on.
func (c *datagramConn) fail(err syscall.Errno) {
	c.mu.Lock()
	if c.err == nil {
		c.err = &net.OpError{Op: "read", Net: c.network(), Addr: c.RemoteAddr(), Err: err}
	}
	c.mu.Unlock()
	c.notify()
}

func (c *datagramConn) Read(b []byte) (int, error) {
	for {
		if n, ok, err := c.next(b); ok {
			return n, err
		}
		select {
		case <-c.signal:
		case <-c.read.expired():
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// next copies a queued datagram to b, or tells a standing error.
func (c *datagramConn) next(b []byte) (n int, ok bool, err error) {
	head, err := c.take()
	if head == nil {
		return 0, err != nil, err
	}
	n = copy(b, *head)
	datagramPool.Put(head)
	return n, true, nil
}

// Each hands every datagram to f, without a buffer of the caller's, until f or the flow returns an error: the read
// deadline does not end it. f must not keep the bytes. It takes the place of a Read loop.
func (c *datagramConn) Each(f func([]byte) error) error {
	for {
		head, err := c.take()
		if err != nil {
			return err
		}
		if head == nil {
			<-c.signal
			continue
		}
		err = f(*head)
		datagramPool.Put(head)
		if err != nil {
			return err
		}
	}
}

// take takes a queued datagram from the queue, or a standing error, or neither.
func (c *datagramConn) take() (*[]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.head == len(c.queue) {
		err := c.err
		if err != nil && !errors.Is(err, net.ErrClosed) {
			c.err = nil // an ICMP error is told once
		} else if err != nil {
			c.notify() // for other readers
		}
		return nil, err
	}
	head := c.queue[c.head]
	c.queue[c.head] = nil
	c.head++
	c.bytes -= len(*head)
	if c.head < len(c.queue) {
		c.notify()
		return head, nil
	}
	c.queue, c.head = c.queue[:0], 0
	if cap(c.queue) > 64 { // a burst is over
		c.queue = nil
	}
	return head, nil
}

var packetPool = sync.Pool{New: func() any { b := make([]byte, 2048); return &b }}

// Write sends one datagram: from the address that the client had sent to, back to the client; or, dialled, to the peer.
func (c *datagramConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	err := c.err
	c.mu.Unlock()
	if errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	src, dst := c.key.local, c.key.remote
	hdr := ipHeaderLen(src.Addr())
	if hdr+8+len(b) > link.MaxPacket || c.key.kind != kindUDP && len(b) < 4 {
		return 0, &net.OpError{Op: "write", Net: c.network(), Addr: c.RemoteAddr(), Err: syscall.EMSGSIZE}
	}
	buf := packetPool.Get().(*[]byte)
	defer packetPool.Put(buf)
	proto, n := c.encode(buf, hdr, b)
	c.touch()
	if err := c.t.s.sendIP(proto, src.Addr(), dst.Addr(), (*buf)[:hdr+n]); err != nil {
		return 0, &net.OpError{Op: "write", Net: c.network(), Addr: c.RemoteAddr(), Err: err}
	}
	c.out.Add(uint64(len(b)))
	return len(b), nil
}

// encode writes the transport header and b behind hdr free bytes of buf, and returns their protocol and length.
func (c *datagramConn) encode(buf *[]byte, hdr int, b []byte) (proto uint8, n int) {
	n = 8 + len(b)
	if c.key.kind != kindUDP {
		n = 4 + len(b)
	}
	if len(*buf) < hdr+n {
		*buf = make([]byte, hdr+n)
	}
	t := (*buf)[hdr : hdr+n]
	src, dst := c.key.local, c.key.remote
	if c.key.kind == kindUDP {
		binary.BigEndian.PutUint16(t, src.Port())
		binary.BigEndian.PutUint16(t[2:], dst.Port())
		binary.BigEndian.PutUint16(t[4:], uint16(n))
		t[6], t[7] = 0, 0
		copy(t[8:], b)
		sum := link.Checksum(t, pseudoHeader(protoUDP, src.Addr(), dst.Addr(), n))
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(t[6:], sum)
		return protoUDP, n
	}
	copy(t[4:], b)
	ident := dst.Port() // an answer carries the identifier of the request
	if c.key.kind == kindReply {
		c.ident.Store(uint32(binary.BigEndian.Uint16(b)))
		ident = src.Port()
	}
	binary.BigEndian.PutUint16(t[4:], ident)
	putEcho(t, c.key.kind == kindReply, src.Addr(), dst.Addr())
	return icmpProto(src.Addr()), n
}

// ReadFrom is Read, and names the peer: a datagram connection is a net.PacketConn too, by which resolvers tell it from a
// stream.
func (c *datagramConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := c.Read(b)
	return n, c.RemoteAddr(), err
}

// WriteTo is Write: the flow has one peer.
func (c *datagramConn) WriteTo(b []byte, _ net.Addr) (int, error) { return c.Write(b) }

// Bytes returns the bytes of payload that were read from and written to the flow so far.
func (c *datagramConn) Bytes() (in, out uint64) { return c.in.Load(), c.out.Load() }

// Unreachable tells the sender that its port is unreachable, and ends the flow: what a host does without a listener.
func (c *datagramConn) Unreachable() {
	c.t.s.unreachable(c.key, codePort)
}

// refusal is the ICMP code that refuses this kind of flow.
func (c *datagramConn) refusal() icmpCode {
	if c.key.kind == kindUDP {
		return codePort
	}
	return codeProhibited
}

func (c *datagramConn) Close() error {
	c.t.remove(c)
	c.shut(net.ErrClosed)
	return nil
}

func (c *datagramConn) LocalAddr() net.Addr  { return c.addr(c.key.local) }
func (c *datagramConn) RemoteAddr() net.Addr { return c.addr(c.key.remote) }

func (c *datagramConn) addr(a netip.AddrPort) net.Addr {
	if c.key.kind == kindUDP {
		return net.UDPAddrFromAddrPort(a)
	}
	return &net.IPAddr{IP: a.Addr().AsSlice()}
}

func (c *datagramConn) SetDeadline(t time.Time) error      { return c.SetReadDeadline(t) }
func (c *datagramConn) SetReadDeadline(t time.Time) error  { c.read.set(t); return nil }
func (c *datagramConn) SetWriteDeadline(t time.Time) error { return nil } // a Write never waits
