// Package datagram keeps the UDP and echo flows of a stack in a table of their own.
//
// A flow is a few hundred bytes and a queue; an endpoint of a TCP/IP library for each would cost fifty times the memory.
// The table bounds the flows of each client, pushes out the longest silent, and ends those that are idle.
//
// It does not parse packets, decide which flows may be, or know how what it sends gets out.
package datagram

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"penstock/stack/packet"
	"penstock/stack/share"
	"penstock/stack/shrink"
)

// Kind is what a flow carries.
type Kind uint8

// Kinds of flows.
const (
	UDP   Kind = iota
	Echo       // echo requests that came in; the remote port is their identifier
	Reply      // echo replies to our own requests; the local port is their identifier
)

// Pair names a flow as the stack sees it. Remote sent its first packet, or is the address we dialled.
type Pair struct{ Remote, Local netip.AddrPort }

// Key names a flow in the table.
type Key struct {
	Kind Kind
	Pair
}

// Size is that of a packet of the flow with n bytes of payload, IP header included.
func (k Key) Size(n int) int { return packet.HeaderLen(k.Local.Addr()) + k.headerLen() + n }

// headerLen is how many bytes stand before what a Write is given: a UDP header, or type, code and checksum of ICMP.
func (k Key) headerLen() int {
	if k.Kind == UDP {
		return 8
	}
	return 4
}

// flowState is where a datagram flow stands.
type flowState uint8

const (
	flowPending  flowState = iota // its handler has not answered yet
	flowAccepted                  // also: dialled by us
	flowRefused                   // each packet is answered with an ICMP error until the flow expires
	flowDropped                   // each packet is dropped until the flow expires
)

// tombstone is how long a refused or dropped flow stays in the table, so that its packets are not judged again.
const tombstone = time.Second

// sweepEvery is how often the table is searched for idle flows, and so how late one may end.
const sweepEvery = 2 * time.Second

// Limits bound what flows cost. Every field must be set.
type Limits struct {
	Flows     int           // at once
	PerClient int           // of them for one client, while others want them
	Begins    int           // flows at once whose handlers do not wait for their client yet: see share.Begins
	Queue     int           // bytes that wait for one flow's reader
	Idle      time.Duration // a flow without packets either way ends, sooner if nobody has answered the client
	IdleShort time.Duration // the same for echoes, for ports of one question and one answer, and for flows answered only by ICMP errors
	IdleQUIC  time.Duration // the same for port 443
}

// idle is how long a flow to a port may be silent.
func (l *Limits) idle(kind Kind, port uint16) time.Duration {
	switch {
	case kind != UDP, port == 53, port == 123, port == 3478:
		return l.IdleShort
	case port == 443:
		return l.IdleQUIC
	}
	return l.Idle
}

// Sender sends what flows write.
type Sender interface {
	// Send sends the IP body that stands in b behind room for its header, in packets of at most mtu bytes. It does not keep b.
	Send(proto uint8, src, dst netip.Addr, b []byte, as packet.Manner, mtu int) error
	// SendSegments sends datagrams of size bytes, the last of which may be shorter, as one super-packet. Behind room for the IP header b
	// has a UDP header and all payloads. Its checksum field has the sum of the pseudo header.
	SendSegments(src, dst netip.Addr, b []byte, size int) error
	// MTU is that of the link, IP header included.
	MTU() int
	// TooBig tells the sender of a flow that a packet of size bytes did not fit through mtu.
	TooBig(k Key, size, mtu int)
	// Unreachable tells the sender of a flow why nobody answers.
	Unreachable(k Key, why packet.Why)
}

// Counter counts what is lost, by a reason of the closed set of package stack.
type Counter interface {
	Drop(reason string)
	Evicted()
}

// Reasons why a datagram was lost.
const (
	dropSource = "source"
	dropCap    = "cap"
	dropQueue  = "queue"
)

// Config is what New needs. All but Serve must be set.
type Config struct {
	Limits Limits
	// Serve takes each flow that a client begins, where its first datagram came, which is in the flow by then. It must not block.
	// What is left to do and may wait, if anything is, it returns: rest is called in a goroutine of its own, and the flow is over when
	// it returns, unless it was kept. The context of rest ends then, with the life of the table, or when the flow ends before it was
	// answered. Nil refuses every flow.
	Serve  func(life context.Context, c *Conn) (rest func(ctx context.Context))
	Client func(src netip.Addr) (key uint64, ok bool) // called with the table's lock held; see stack.Config
	Now    func() int64                               // nanoseconds
	Sender Sender
	Count  Counter
}

// Table holds the flows of a stack. Its methods may be called by several goroutines at once.
type Table struct {
	Config
	life context.Context // of the stack
	wg   sync.WaitGroup  // of handlers

	begins share.Begins

	mu     sync.Mutex // guards below
	flows  shrink.Map[Key, *Conn]
	shares share.Table
	ended  bool
	wake   chan struct{} // capacity 1: there may be something to sweep
}

// New makes a table that lives as long as life, or until Close.
func New(life context.Context, c Config) *Table {
	return &Table{
		Config: c,
		life:   life,
		begins: share.Begins{Limit: c.Limits.Begins},
		shares: share.NewTable(c.Limits.Flows, c.Limits.PerClient),
		wake:   make(chan struct{}, 1),
	}
}

// Arrived hands a datagram to its flow. The first datagram makes the flow. If the packets of the flow cross, Arrived returns it, and
// the datagram is left to the caller.
func (t *Table) Arrived(kind Kind, a Pair, data []byte, as packet.Manner) (crosses *Conn) {
	k := Key{kind, a}
	t.mu.Lock()
	c := t.flows.Get(k)
	begins := c == nil
	if begins {
		if t.Serve == nil || kind == Reply || t.ended {
			ended := t.ended
			t.mu.Unlock()
			if kind == UDP && !ended {
				t.Sender.Unreachable(k, packet.WhyPort)
			}
			return nil
		}
		var reason string
		if c, reason = t.acceptLocked(k); c == nil {
			t.mu.Unlock()
			t.Count.Drop(reason)
			return nil
		}
		t.wg.Add(1)
	}
	t.mu.Unlock()
	switch {
	case (Leg{c}).crosses():
		return c
	case !as.Whole || c.owner.Own || t.fits(c, len(data)):
		c.deliver(data, as)
	}
	if begins {
		t.serve(c)
	}
	return nil
}

// acceptLocked makes a flow of a client's, or says why there is none.
func (t *Table) acceptLocked(k Key) (c *Conn, dropped string) {
	key, ok := t.Client(k.Remote.Addr())
	if !ok {
		return nil, dropSource
	}
	if !t.begins.Add(key) {
		return nil, dropCap
	}
	if c = t.addLocked(k, share.Owner{Client: key}); c == nil {
		t.begins.Done(key)
		return nil, dropCap
	}
	c.begins.Store(true)
	return c, ""
}

// serve runs the handler of a new flow.
func (t *Table) serve(c *Conn) {
	rest := t.Serve(t.life, c)
	if rest == nil {
		t.begun(c)
		t.wg.Done()
		return
	}
	go func() {
		defer t.wg.Done()
		ctx, cancel := context.WithCancel(t.life)
		defer cancel()
		defer t.begun(c)
		c.OnEnd(cancel) // until it is answered
		rest(ctx)
	}()
}

// begun notes that a flow's handler waits for the client, or has ended.
func (t *Table) begun(c *Conn) {
	if c.begins.CompareAndSwap(true, false) {
		t.begins.Done(c.owner.Client)
	}
}

// addLocked makes a flow of o. In a full table it pushes out the longest silent flow of whoever has to make room.
func (t *Table) addLocked(k Key, o share.Owner) *Conn {
	c := newConn(t, k, o)
	evicted, ok := t.shares.Add(&c.place, o)
	if !ok {
		return nil
	}
	if evicted != nil {
		old := evicted.Flow.(*Conn)
		t.flows.Delete(old.key)
		old.shut(ErrEvicted)
		t.Count.Evicted()
	}
	t.flows.Put(k, c)
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return c
}

func (t *Table) removeLocked(c *Conn) {
	if t.flows.Get(c.key) == c {
		t.flows.Delete(c.key)
		t.shares.Remove(&c.place)
	}
}

func (t *Table) remove(c *Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.removeLocked(c)
}

// Find returns a flow, or nil.
func (t *Table) Find(k Key) *Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows.Get(k)
}

// Reply hands an echo reply to its flow, with the caller's own identifier. body begins with the identifier. If the packets of the flow
// cross, Reply returns it, and the reply is left to the caller.
func (t *Table) Reply(a Pair, body []byte, as packet.Manner) (crosses *Conn) {
	c := t.Find(Key{Reply, a})
	if c == nil || (Leg{c}).crosses() {
		return c
	}
	b := append([]byte(nil), body...)
	binary.BigEndian.PutUint16(b, uint16(c.ident.Load()))
	c.deliver(b, as)
	return nil
}

// Fail tells a flow that we dialled that an ICMP error came back.
func (t *Table) Fail(k Key, err syscall.Errno) {
	if c := t.Find(k); c != nil && c.owner.Own {
		c.fail(err)
	}
}

// TooBig tells a flow that we dialled that one of its packets did not fit through a path.
func (t *Table) TooBig(k Key, mtu int) {
	if c := t.Find(k); c != nil && c.owner.Own {
		c.path.set(plausible(mtu, k.Remote.Addr()), t.Now())
		c.fail(syscall.EMSGSIZE)
	}
}

// Run ends idle flows until the life of the table ends. It sleeps while there are no flows.
func (t *Table) Run() {
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	for {
		select {
		case <-t.life.Done():
			return
		case <-t.wake:
		}
		for t.Sweep(t.Now()) > 0 {
			timer.Reset(sweepEvery)
			select {
			case <-t.life.Done():
				return
			case <-timer.C:
			}
		}
	}
}

// Sweep ends the flows that are idle at now, a time as of Config.Now, and returns how many are left.
func (t *Table) Sweep(now int64) int {
	t.closeIf(errIdle, func(c *Conn) bool { return c.idleAt(now, t.shares.Held(c.owner) > t.Limits.PerClient) })
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.flows.Len()
}

// CloseLocal ends the flows whose own end is addr.
func (t *Table) CloseLocal(addr netip.Addr) {
	t.closeIf(errAddressGone, func(c *Conn) bool { return c.key.Local.Addr() == addr })
}

// CloseClient ends the flows that a client began, and returns how many.
func (t *Table) CloseClient(key uint64) int {
	t.mu.Lock()
	var conns []*Conn
	for _, p := range t.shares.RemoveOwner(share.Owner{Client: key}) {
		c := p.Flow.(*Conn)
		t.flows.Delete(c.key)
		conns = append(conns, c)
	}
	t.mu.Unlock()
	shutAll(conns, errClientClosed)
	return len(conns)
}

// Held is how many flows a client has.
func (t *Table) Held(client uint64) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shares.Held(share.Owner{Client: client})
}

// Close ends every flow. No flow can be made afterwards.
func (t *Table) Close() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.closeIf(net.ErrClosed, func(*Conn) bool { return true })
}

// Wait waits for the handlers of all flows, after Close.
func (t *Table) Wait() { t.wg.Wait() }

// closeIf ends the flows that match. Their reads return err.
func (t *Table) closeIf(err error, match func(*Conn) bool) {
	var conns []*Conn
	t.mu.Lock()
	for _, c := range t.flows.All {
		if match(c) {
			conns = append(conns, c)
		}
	}
	for _, c := range conns {
		t.removeLocked(c)
	}
	t.mu.Unlock()
	shutAll(conns, err)
}

// writePatience is how long flows that end wait for Writes that are under way, all together.
const writePatience = 200 * time.Millisecond

// shutAll shuts flows that were taken out of the table. What begins to send from here on is refused; what has begun is
// waited for.
func shutAll(conns []*Conn, err error) {
	for _, c := range conns {
		c.shut(err)
	}
	end := time.Now().Add(writePatience)
	for _, c := range conns {
		for c.writing.Load() > 0 && time.Now().Before(end) {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// Dial makes a flow of our own to remote. It leaves from the port of local if that is free, else from another.
func (t *Table) Dial(kind Kind, remote, local netip.AddrPort) (*Conn, error) {
	k := Key{kind, Pair{Remote: remote, Local: local}}
	return t.dial(k, share.Owner{Own: true}, t.Limits.idle(kind, local.Port()))
}

// DialFor is Dial for a flow of a client's in another table: it takes a place from that client's share, and is idle when that flow is.
func (t *Table) DialFor(c *Conn, k Key) (*Conn, error) {
	return t.dial(k, share.Owner{Client: c.owner.Client, Own: true}, c.idle)
}

func (t *Table) dial(k Key, o share.Owner, idle time.Duration) (*Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return nil, net.ErrClosed
	}
	for range 64 {
		if k.Local.Port() == 0 {
			k.Local = netip.AddrPortFrom(k.Local.Addr(), ephemeralPort())
		}
		if t.flows.Get(k) != nil {
			k.Local = netip.AddrPortFrom(k.Local.Addr(), 0)
			continue
		}
		c := t.addLocked(k, o)
		if c == nil {
			return nil, syscall.ENOBUFS
		}
		c.idle = idle
		c.state.Store(uint32(flowAccepted))
		return c, nil
	}
	return nil, syscall.EADDRNOTAVAIL
}
