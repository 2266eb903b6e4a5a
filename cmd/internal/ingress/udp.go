package ingress

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/ingress/socks"
	"penstock/policy"
	"penstock/stack/deadline"
)

const (
	maxDatagram    = 65535           // with the header
	maxUDPFlows    = 64              // of one association
	udpQueue       = 16              // datagrams that wait for a flow
	maxWaiting     = 64 << 20        // bytes of all that wait
	maxWaitingEach = 4 << 20         // of one client's, in all of its associations
	refusedFor     = 5 * time.Second // a flow that was refused is not judged again
	maxSpentBefore = 50 * time.Millisecond
)

// association is the relay for the datagrams of one client (RFC 1928, 7). It lasts as long as the connection that asked for it. Each
// destination that the client names is a flow of its own.
type association struct {
	server *Server
	who    Login
	v      *visitor
	socket *net.UDPConn
	client atomic.Pointer[netip.AddrPort] // where its datagrams come from; nil until one has
	up     pace
	down   pace

	mu    sync.Mutex // guards below
	flows map[string]*datagramFlow
}

// associate serves a client that wants to send datagrams, until its connection ends.
func (s *Server) associate(ctx context.Context, v *visitor, who Login, q socks.Request) {
	local := v.LocalAddr().(*net.TCPAddr).AddrPort()
	lc := net.ListenConfig{Control: s.Control}
	packets, err := lc.ListenPacket(ctx, "udp", netip.AddrPortFrom(local.Addr(), 0).String())
	if err != nil {
		s.Log.Warn("cannot open a port for datagrams of listen.proxy", "err", err)
		s.turnAway(v, socks.Failed)
		return
	}
	a := &association{server: s, who: who, v: v, socket: packets.(*net.UDPConn), flows: make(map[string]*datagramFlow)}
	defer a.socket.Close()
	if q.Port != 0 && (!q.Addr.IsValid() || q.Addr.IsUnspecified() || q.Addr.Unmap() == v.src.Addr()) {
		from := netip.AddrPortFrom(v.src.Addr(), q.Port)
		a.client.Store(&from)
	}
	if socks.ReplyBound(v, a.socket.LocalAddr().(*net.UDPAddr).AddrPort()) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { a.read(ctx) })
	wg.Go(func() { a.endIdle(ctx) })
	v.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, v) // the connection says nothing, and ends
	cancel()
	a.socket.Close()
	a.endAll()
	wg.Wait()
}

// read takes the client's datagrams until the socket is closed.
func (a *association) read(ctx context.Context) {
	buf := make([]byte, maxDatagram)
	for ctx.Err() == nil {
		n, from, err := a.socket.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // an ICMP error about an answer
			continue
		}
		if dropped := a.take(ctx, netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port()), buf[:n]); dropped != "" {
			a.server.metrics.lose(dropped)
		}
	}
}

// take passes one datagram on to its flow, or says why not.
func (a *association) take(ctx context.Context, from netip.AddrPort, msg []byte) (dropped string) {
	if from.Addr() != a.v.src.Addr() {
		return lostSource
	}
	if known := a.client.Load(); known == nil {
		a.client.Store(&from)
	} else if *known != from {
		return lostSource
	}
	q, payload, err := socks.ReadDatagram(msg)
	switch {
	case errors.Is(err, socks.ErrFragment):
		return lostFragment
	case err != nil:
		return lostMalformed
	case !a.up.may(time.Now(), a.server.Spend, a.who.Client, true, len(payload)):
		return lostRate
	}
	key := string(msg[3 : len(msg)-len(payload)])
	f, dropped := a.flow(ctx, key, from, q)
	if f == nil {
		return dropped
	}
	return f.push(payload)
}

// flow returns the flow to a destination, and begins it if there is none.
func (a *association) flow(ctx context.Context, key string, from netip.AddrPort, q socks.Request) (f *datagramFlow, dropped string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if f := a.flows[key]; f != nil {
		return f, ""
	}
	host := q.Host
	if host == "" {
		host = q.Addr.String()
	}
	t, err := newTarget(host, q.Port)
	if err != nil {
		return nil, lostMalformed
	}
	if len(a.flows) >= maxUDPFlows {
		a.evictLocked()
	}
	if !a.server.datagrams.take(a.who.Client, 1) {
		return nil, lostCrowded
	}
	f = newDatagramFlow(a, from, q.Port)
	begun := a.server.tasks.spawn(func() {
		defer a.server.datagrams.give(a.who.Client, 1)
		out := a.server.open(ctx, a.who, from, t, policy.UDP, func(dst netip.AddrPort) (net.Conn, error) {
			f.accept(dst)
			return f, nil
		})
		if out.result != carriedThrough {
			f.refuse()
			f.wait(ctx) // what follows is lost without another judgement for each datagram
		}
		f.Close()
		a.forget(key, f)
	})
	if !begun {
		a.server.datagrams.give(a.who.Client, 1)
		return nil, lostCrowded
	}
	a.flows[key] = f
	return f, ""
}

// evictLocked ends the flow that has been silent for longest.
func (a *association) evictLocked() {
	var oldest *datagramFlow
	var key string
	for k, f := range a.flows {
		if oldest == nil || f.last.Load() < oldest.last.Load() {
			oldest, key = f, k
		}
	}
	delete(a.flows, key)
	oldest.Close()
}

func (a *association) forget(key string, f *datagramFlow) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.flows[key] == f {
		delete(a.flows, key)
	}
}

// endIdle ends flows that carry nothing, until ctx ends.
func (a *association) endIdle(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			a.endWhere(func(f *datagramFlow) bool { return f.isIdle(now) })
		}
	}
}

func (a *association) endAll() { a.endWhere(func(*datagramFlow) bool { return true }) }

func (a *association) endWhere(over func(*datagramFlow) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, f := range a.flows {
		if over(f) {
			delete(a.flows, key)
			f.Close()
		}
	}
}

// places counts what clients hold, in all and each: flows of datagrams, or bytes that wait for them.
type places struct {
	most, mostPerClient int

	mu      sync.Mutex // guards below
	taken   int
	clients map[uint64]int
}

// take counts n for a client, unless there are too many.
func (p *places) take(client uint64, n int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken+n > p.most || p.clients[client]+n > p.mostPerClient {
		return false
	}
	p.taken += n
	p.clients[client] += n
	return true
}

func (p *places) give(client uint64, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken -= n
	if p.clients[client] -= n; p.clients[client] <= 0 {
		delete(p.clients, client)
	}
}

// pace drops what exceeds a client's rate: datagrams cannot wait.
type pace struct{ until atomic.Pointer[time.Time] }

// may reports whether n bytes may pass now, and counts them.
func (p *pace) may(now time.Time, spend func(client uint64, up bool, n int) time.Duration, client uint64, up bool, n int) bool {
	if spend == nil {
		return true
	}
	if until := p.until.Load(); until != nil && now.Before(*until) {
		return false
	}
	if wait := spend(client, up, n); wait > maxSpentBefore { // a little ahead is how a bucket fills evenly
		until := now.Add(wait - maxSpentBefore)
		p.until.Store(&until)
	}
	return true
}

// datagramFlow is the client's side of one flow, for the router.
type datagramFlow struct {
	association *association
	client      netip.AddrPort
	dst         atomic.Pointer[netip.AddrPort] // nil before the flow is accepted
	head        []byte                         // of each answer
	idle        time.Duration
	begun       time.Time
	last        atomic.Int64 // when something passed, in nanoseconds after begun
	in, out     atomic.Uint64
	queue       chan []byte
	refused     atomic.Bool // nobody will read the queue
	over        chan struct{}
	once        sync.Once
	read        deadline.Deadline
}

func newDatagramFlow(a *association, client netip.AddrPort, port uint16) *datagramFlow {
	limits := a.server.Config.Config.Limits
	f := &datagramFlow{association: a, client: client, begun: time.Now(), idle: limits.UDPIdle, queue: make(chan []byte, udpQueue), over: make(chan struct{})}
	switch port {
	case 53, 123, 3478:
		f.idle = limits.UDPIdleShort
	case 443:
		f.idle = limits.UDPIdleQUIC
	}
	return f
}

// isIdle reports whether nothing has passed for long.
func (f *datagramFlow) isIdle(now time.Time) bool {
	return now.Sub(f.begun)-time.Duration(f.last.Load()) > f.idle
}

func (f *datagramFlow) accept(dst netip.AddrPort) {
	f.head = socks.DatagramHead(dst)
	f.dst.Store(&dst)
}

// push queues a datagram of the client.
func (f *datagramFlow) push(payload []byte) (dropped string) {
	f.last.Store(int64(time.Since(f.begun)))
	switch {
	case f.refused.Load():
		return lostRefused
	case len(f.queue) == cap(f.queue), !f.association.server.waiting.take(f.association.who.Client, len(payload)): // nobody else fills it
		return lostQueue
	}
	f.queue <- append(make([]byte, 0, len(payload)), payload...)
	if f.isOver() || f.refused.Load() { // since it was looked up
		f.drain()
	}
	return ""
}

// pulled gives back the place of a datagram that has left the queue.
func (f *datagramFlow) pulled(msg []byte) {
	f.association.server.waiting.give(f.association.who.Client, len(msg))
}

// drain throws away what waits, and returns how much that was.
func (f *datagramFlow) drain() (n int) {
	for {
		select {
		case msg := <-f.queue:
			f.pulled(msg)
			n++
		default:
			return n
		}
	}
}

// refuse loses what waits, and whatever comes.
func (f *datagramFlow) refuse() {
	f.refused.Store(true)
	for range f.drain() {
		f.association.server.metrics.lose(lostRefused)
	}
}

func (f *datagramFlow) isOver() bool {
	select {
	case <-f.over:
		return true
	default:
		return false
	}
}

// wait waits for the end of a flow that was refused, for a while: the policy may change.
func (f *datagramFlow) wait(ctx context.Context) {
	timer := time.NewTimer(refusedFor)
	defer timer.Stop()
	select {
	case <-f.over:
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Read returns one datagram of the client.
func (f *datagramFlow) Read(b []byte) (int, error) {
	select {
	case msg := <-f.queue:
		f.pulled(msg)
		f.in.Add(uint64(len(msg)))
		return copy(b, msg), nil
	case <-f.over:
		return 0, net.ErrClosed
	case <-f.read.Passed():
		return 0, os.ErrDeadlineExceeded
	}
}

// Write sends the client one answer.
func (f *datagramFlow) Write(b []byte) (int, error) {
	if f.isOver() {
		return 0, net.ErrClosed
	}
	a := f.association
	f.last.Store(int64(time.Since(f.begun)))
	if !a.down.may(time.Now(), a.server.Spend, a.who.Client, false, len(b)) {
		a.server.metrics.lose(lostRate)
		return len(b), nil
	}
	msg := append(append(make([]byte, 0, len(f.head)+len(b)), f.head...), b...)
	if _, err := a.socket.WriteToUDPAddrPort(msg, f.client); err != nil {
		if errors.Is(err, net.ErrClosed) {
			return 0, err
		}
		a.server.metrics.lose(lostQueue) // the socket's
		return len(b), nil
	}
	f.out.Add(uint64(len(b)))
	return len(b), nil
}

// Bytes returns how much has passed, from the client and to it.
func (f *datagramFlow) Bytes() (in, out uint64) { return f.in.Load(), f.out.Load() }

// Close ends the flow.
func (f *datagramFlow) Close() error {
	f.once.Do(func() {
		close(f.over)
		f.drain()
		f.read.Set(time.Time{})
	})
	return nil
}

// LocalAddr is the destination, as of any flow's client side.
func (f *datagramFlow) LocalAddr() net.Addr  { return net.UDPAddrFromAddrPort(*f.dst.Load()) }
func (f *datagramFlow) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(f.client) }

func (f *datagramFlow) SetDeadline(t time.Time) error     { return f.SetReadDeadline(t) }
func (f *datagramFlow) SetReadDeadline(t time.Time) error { f.read.Set(t); return nil }

// SetWriteDeadline does nothing: a Write never waits.
func (f *datagramFlow) SetWriteDeadline(time.Time) error { return nil }
