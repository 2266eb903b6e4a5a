package stack

import (
	"context"
	"math"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"

	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/share"
	"penstock/stack/shrink"
	"penstock/stack/stream"
)

// tcpTable holds the TCP flows that clients begin. A flow has a place among the dials from its SYN until the handshake
// with its client has ended, and one among the open flows from then until its handler returns.
type tcpTable struct {
	s         *Stack
	forwarder *tcp.Forwarder // makes gVisor's endpoints

	begins share.Begins // flows that are judged

	mu    sync.Mutex // guards below
	syns  shrink.Map[stack.TransportEndpointID, *tcpFlow]
	dials share.Table
	open  share.Table
	ended bool
}

// tcpStage is how far a TCP flow has come:
//
//	waiting --Accept--> shaking --ACK--> open
//	 |  |                  |               |
//	 |  +--Refuse, Drop----+--- timeout ---+--- the handler returns
//	 |                     v
//	 |                (out of the tables)
//	 |                     ^
//	 +-------Pass----> crossing --both sides close, or a reset
type tcpStage uint8

const (
	tcpWaiting tcpStage = iota // for its handler's answer
	tcpShaking                 // the client was answered; the handshake is under way
	tcpOpen
	tcpCrossing
)

// tcpFlow is one TCP flow that a client began.
type tcpFlow struct {
	t      *tcpTable
	id     stack.TransportEndpointID
	seq    uint32 // of the SYN
	ack    uint32 // sequence number after the SYN and what came with it
	owner  share.Owner
	place  share.Place // among the dials or the open flows
	push   placed      // what had to make room for this one; may be nil
	syn    []byte      // its headers, until it is known who carries the flow
	begins atomic.Bool // it is one of those that are judged

	// t.mu guards below.
	stage    tcpStage
	isCut    bool // lost its place, or the client was closed
	reset    bool // tell the client, if it is cut
	gone     bool // the client has sent RST
	handing  bool // gVisor has its SYN, and has not handed it up yet
	answered bool // it is not accepted
	request  *Request
	cancel   context.CancelFunc    // of the context of the handler's rest; nil before that
	rest     func(context.Context) // of the handler, while gVisor has the SYN
	fr       *tcp.ForwarderRequest
	timer    *time.Timer // ends the handshake
	conn     *stream.Conn
}

// placed is what has a place among the flows of a table: a *tcpFlow or, once its packets cross, a *crossing.
type placed interface {
	// cut marks what has lost its place, with the table's lock. reset: the client is to be told.
	cut(reset bool)
	// end ends what was cut, without the lock.
	end()
}

// end ends what was cut, if anything was.
func end(p placed) {
	if p != nil {
		p.end()
	}
}

func newTCPTable(s *Stack) *tcpTable {
	return &tcpTable{
		s:      s,
		begins: share.Begins{Limit: flowBegins},
		dials:  share.NewTable(s.limits.Dials, s.limits.Dials*2/3),
		open:   share.NewTable(s.limits.TCPFlows, s.limits.TCPFlows/2),
	}
}

// forwardTCP makes gVisor hand up SYNs.
func (s *Stack) forwardTCP() {
	// The initial window is passed because the forwarder does not ask for the stack's default. Its own bound has no share
	// for each client, so the table bounds what is in flight.
	s.tcp.forwarder = tcp.NewForwarder(s.net, s.limits.TCPBuffer, math.MaxInt, s.tcp.handedUp)
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, s.tcp.inbound)
}

// isNew reports whether a TCP packet is a SYN that no connection of gVisor's can be meant by, and that needs nothing of gVisor's to be
// read.
func (t *tcpTable) isNew(m link.Meta, h *packet.Packet) bool {
	if t.s.handle == nil || m.GSO != link.GSONone || len(h.Body) < header.TCPMinimumSize || !isSYN(h) ||
		len(h.Raw)-len(h.Body) != packet.HeaderLen(h.Src) {
		return false
	}
	if n := int(header.TCP(h.Body).DataOffset()); n < header.TCPMinimumSize || n > len(h.Body) {
		return false
	}
	s := crosser{t.s}
	if s.isBroadcast(h.Dst) || s.isBroadcast(h.Src) {
		return false // gVisor drops it (RFC 1122, 4.2.3.10)
	}
	ports := flowAddrs(h)
	return s.isFree(ports.Local, ports.Remote)
}

// arrived takes a SYN that isNew, and runs its handler.
func (t *tcpTable) arrived(h *packet.Packet) {
	ports := flowAddrs(h)
	id := stack.TransportEndpointID{
		LocalAddress: tcpipAddr(h.Dst), LocalPort: ports.Local.Port(), RemoteAddress: tcpipAddr(h.Src), RemotePort: ports.Remote.Port(),
	}
	syn := header.TCP(h.Body)
	flow, silent := t.begin(id, syn.SequenceNumber())
	after := afterSYN(syn, len(h.Body)-int(syn.DataOffset()))
	if flow == nil {
		if !silent {
			sender{t.s}.refuseTCP(ports.Remote, ports.Local, after)
		}
		return
	}
	flow.ack, flow.syn = after, synOf(h.Src, h.Dst, h.Raw, h.Body[:syn.DataOffset()])
	flow.run()
}

// inbound takes a segment that belongs to no connection, and did not arrive otherwise. What it does not take, gVisor answers with RST.
func (t *tcpTable) inbound(id stack.TransportEndpointID, pkt *stack.PacketBuffer) (taken bool) {
	h := header.TCP(pkt.TransportHeader().Slice())
	if len(h) < header.TCPMinimumSize {
		return false
	}
	if (receiver{t.s}).crossReassembled(id, pkt) {
		return true
	}
	if h.Flags()&header.TCPFlagRst != 0 {
		t.giveUp(id)
		return true
	}
	if h.Flags()&(header.TCPFlagSyn|header.TCPFlagAck) != header.TCPFlagSyn {
		_, known := t.s.client(fromTCPIP(id.RemoteAddress))
		if !known {
			t.s.metrics.drop(dropSource)
		}
		return !known
	}
	sum := func() uint16 { return pkt.Data().Checksum() }
	if _, valid, _ := header.TCPValid(h, sum, uint16(pkt.Data().Size()), id.RemoteAddress, id.LocalAddress, pkt.RXChecksumValidated); !valid {
		return false // it came in fragments, which nobody has checked
	}
	flow, silent := t.begin(id, h.SequenceNumber())
	if flow == nil {
		return silent
	}
	flow.ack, flow.syn = afterSYN(h, pkt.Data().Size()), synOf(fromTCPIP(id.RemoteAddress), fromTCPIP(id.LocalAddress), pkt.NetworkHeader().Slice(), h)
	go flow.run() // gVisor holds what it likes here
	return true
}

// afterSYN is the sequence number after a SYN and size bytes of data that came with it.
func afterSYN(h header.TCP, size int) uint32 {
	n := h.SequenceNumber() + 1 + uint32(size)
	if h.Flags()&header.TCPFlagFin != 0 {
		n++
	}
	return n
}

// begin makes the flow of a SYN. It returns none for a SYN that came before or that is refused; silent says that the
// client gets no answer then.
func (t *tcpTable) begin(id stack.TransportEndpointID, seq uint32) (f *tcpFlow, silent bool) {
	t.mu.Lock()
	f, silent, reason := t.beginLocked(id, seq)
	t.mu.Unlock()
	if reason != "" {
		t.s.metrics.drop(reason)
	}
	return f, silent
}

func (t *tcpTable) beginLocked(id stack.TransportEndpointID, seq uint32) (f *tcpFlow, silent bool, reason dropReason) {
	if t.syns.Get(id) != nil {
		return nil, true, ""
	}
	key, ok := t.s.client(fromTCPIP(id.RemoteAddress))
	if !ok {
		return nil, true, dropSource
	}
	f = &tcpFlow{t: t, id: id, seq: seq, owner: share.Owner{Client: key}}
	if t.ended || !t.open.Room(f.owner) {
		return nil, false, dropCap
	}
	f.place.Flow = f
	f.Touch()
	if !t.begins.Add(key) {
		return nil, true, dropCap
	}
	evicted, ok := t.dials.Add(&f.place, f.owner)
	if !ok {
		t.begins.Done(key)
		return nil, true, dropCap
	}
	f.begins.Store(true)
	f.push = t.cutLocked(evicted, false)
	t.syns.Put(id, f)
	return f, true, ""
}

// cutLocked marks a flow that has lost its place to another. end ends it, without the lock.
func (t *tcpTable) cutLocked(p *share.Place, reset bool) placed {
	if p == nil {
		return nil
	}
	f := p.Flow.(placed)
	f.cut(reset)
	t.s.metrics.Evicted()
	return f
}

func (f *tcpFlow) cut(reset bool) { f.isCut, f.reset = true, reset }

// giveUp ends the wait of a client that has sent RST.
func (t *tcpTable) giveUp(id stack.TransportEndpointID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.syns.Get(id)
	if f == nil {
		return
	}
	f.gone = true
	if f.cancel != nil {
		f.cancel()
	}
}

// run runs the handler of a flow.
func (f *tcpFlow) run() {
	s := f.t.s
	end(f.push)
	f.push = nil
	r := &Request{
		Network: "tcp",
		Src:     netip.AddrPortFrom(fromTCPIP(f.id.RemoteAddress), f.id.RemotePort),
		Dst:     netip.AddrPortFrom(fromTCPIP(f.id.LocalAddress), f.id.LocalPort),
		Client:  f.owner.Client,
		tcp:     f,
	}
	if !s.enter() {
		r.end(true, packet.WhyPort)
		f.judged()
		f.t.finish(f)
		return
	}
	var rest func(context.Context)
	if cut, reset := f.serve(r, nil); cut {
		r.end(reset, packet.WhyPort)
	} else {
		rest = s.begin(s.life, r)
	}
	if rest == nil {
		r.finish()
		f.over()
		f.judged()
		return
	}
	if !f.toHandUp(rest) {
		go f.finish(r, rest) // it was answered meanwhile
		return
	}
	if !f.handUp() {
		f.t.mu.Lock()
		f.handing = false
		f.answeredLocked()
		f.t.mu.Unlock()
		go f.finish(r, rest)
	}
}

// toHandUp keeps a flow in the table until gVisor has handed it up. It reports false for one that is not there any more.
func (f *tcpFlow) toHandUp(rest func(context.Context)) bool {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	if f.t.syns.Get(f.id) != f {
		return false
	}
	f.rest, f.handing = rest, true
	return true
}

// finish runs the part of the handler that may wait.
func (f *tcpFlow) finish(r *Request, rest func(context.Context)) {
	s := f.t.s
	defer f.judged()
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	defer func() {
		if !r.isKept() {
			r.finish()
			f.over()
		}
	}()
	defer s.recover()
	if cut, reset := f.serve(r, cancel); cut {
		r.end(reset, packet.WhyPort)
	}
	rest(ctx)
}

// judged notes that a flow's handler has judged it, or ended.
func (f *tcpFlow) judged() {
	if f.begins.CompareAndSwap(true, false) {
		f.t.begins.Done(f.owner.Client)
	}
}

// enter counts a handler that Close has to wait for, unless Close has begun.
func (s *Stack) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// handUp lets gVisor look at the flow's SYN, and reports whether it will hand it up.
func (f *tcpFlow) handUp() bool {
	syn, fault := packet.Parse(link.Meta{Partial: true}, f.syn)
	if fault != "" {
		return false
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(syn.Raw)})
	defer pkt.DecRef()
	pkt.NICID, pkt.RXChecksumValidated = nicID, true
	pkt.NetworkProtocolNumber, pkt.TransportProtocolNumber = protocolOf(syn.Src), tcp.ProtocolNumber
	if _, ok := pkt.NetworkHeader().Consume(len(syn.Raw) - len(syn.Body)); !ok {
		return false
	}
	if _, ok := pkt.TransportHeader().Consume(len(syn.Body)); !ok {
		return false
	}
	return f.t.forwarder.HandlePacket(f.id, pkt)
}

// handedUp goes on with a flow whose SYN gVisor has looked at. gVisor calls it in a goroutine of its own.
func (t *tcpTable) handedUp(fr *tcp.ForwarderRequest) {
	t.mu.Lock()
	f := t.syns.Get(fr.ID())
	f.fr, f.handing = fr, false
	r, rest := f.request, f.rest
	f.rest = nil
	f.answeredLocked()
	t.mu.Unlock()
	f.finish(r, rest)
}

// letGo makes gVisor's forwarder forget the flow.
func (f *tcpFlow) letGo() {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.letGoLocked()
}

// letGoLocked is letGo. Until then the forwarder ignores every SYN of the same id, so nobody may forget the flow before.
func (f *tcpFlow) letGoLocked() {
	if f.fr != nil {
		f.fr.Complete(false)
		f.fr = nil
	}
}

// finish takes a flow whose handler has returned out of the tables, unless it crosses.
func (t *tcpTable) finish(f *tcpFlow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.stage != tcpCrossing {
		t.forgetLocked(f)
		t.open.Remove(&f.place)
	}
}

// finishCrossing takes a flow that crossed out of the tables.
func (t *tcpTable) finishCrossing(c *crossing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open.Remove(&c.place)
}

// forgetLocked ends a flow's time among the dials.
func (t *tcpTable) forgetLocked(f *tcpFlow) {
	if t.syns.Get(f.id) == f {
		t.syns.Delete(f.id)
	}
	if f.stage < tcpOpen {
		t.dials.Remove(&f.place)
	}
}

// crowds are those who hold a quarter of what is a client's share of the open flows, or more.
func (t *tcpTable) crowds() map[share.Owner]bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open.Above(t.s.limits.TCPFlows / 8)
}

// closeClient resets the flows of a client and returns how many.
func (t *tcpTable) closeClient(key uint64) int {
	return t.closeOwner(share.Owner{Client: key})
}

func (t *tcpTable) closeOwner(o share.Owner) int {
	t.mu.Lock()
	places := append(t.dials.RemoveOwner(o), t.open.RemoveOwner(o)...)
	for _, p := range places {
		p.Flow.(placed).cut(true)
	}
	t.mu.Unlock()
	for _, p := range places {
		p.Flow.(placed).end()
	}
	return len(places)
}

// closeAll resets every flow. No flow can begin afterwards.
func (t *tcpTable) closeAll() {
	t.mu.Lock()
	t.ended = true
	var owners []share.Owner
	for _, s := range []*share.Table{&t.dials, &t.open} {
		owners = append(owners, s.Owners()...)
	}
	t.mu.Unlock()
	for _, o := range owners {
		t.closeOwner(o)
	}
}

// Touch notes that data has passed.
func (f *tcpFlow) Touch() { f.place.Active.Store(f.t.s.now()) }

// keep makes the flow one whose handler may return, and returns what ends it.
func (f *tcpFlow) keep(c *stream.Conn) (over func()) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.request, f.cancel = nil, nil // the flow may last for hours, and needs them no more
	return func() {
		c.Close()
		f.over()
	}
}

// over ends a flow whose handler has returned, or that was kept.
func (f *tcpFlow) over() {
	f.letGo()
	f.t.finish(f)
	f.t.s.wg.Done()
}

// serve notes who answers for the flow, and what cancels that. cut reports that nobody needs to any more, and reset that the client is
// to be told.
func (f *tcpFlow) serve(r *Request, cancel context.CancelFunc) (cut, reset bool) {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.request, f.cancel = r, cancel
	if cancel != nil && (f.gone || f.isCut) {
		cancel()
	}
	return f.isCut, f.reset
}

// end ends a flow that was cut, however far it has come. One that crosses by now has seen it: see passed.
func (f *tcpFlow) end() {
	f.t.mu.Lock()
	stage, r, cancel, conn, reset := f.stage, f.request, f.cancel, f.conn, f.reset
	f.t.mu.Unlock()
	switch stage {
	case tcpWaiting:
		if cancel != nil {
			cancel()
		}
		if r != nil {
			r.end(reset, packet.WhyPort)
		}
	case tcpShaking:
		f.endHandshake()
	case tcpOpen:
		if conn != nil {
			conn.Abort()
		}
	}
}

// endRetry is how soon endHandshake looks again for an endpoint that gVisor has not registered yet.
const endRetry = 10 * time.Millisecond

// endHandshake ends the handshake with a client that does not finish it, or whose flow was cut.
func (f *tcpFlow) endHandshake() {
	ep, ok := f.t.s.net.FindTransportEndpoint(protocolOf(fromTCPIP(f.id.LocalAddress)), tcp.ProtocolNumber, f.id, nicID).(interface{ Abort() })
	f.t.mu.Lock()
	shaking := f.stage == tcpShaking
	if shaking && !ok {
		f.timer.Reset(endRetry)
	}
	f.t.mu.Unlock()
	if shaking && ok {
		ep.Abort()
	}
}

// accept completes the handshake. It waits for the client.
func (f *tcpFlow) accept(r *Request) (net.Conn, error) {
	fr := f.fr // nobody else takes it: the flow is answered
	if fr == nil {
		return nil, acceptError(r.Src, syscall.EINVAL)
	}
	if !f.shake() {
		if f.letGo(); f.reset {
			sender{f.t.s}.refuseTCP(r.Src, r.Dst, f.ack)
		}
		return nil, acceptError(r.Src, net.ErrClosed)
	}
	var wq waiter.Queue
	ep, err := fr.CreateEndpoint(&wq)
	fr.Complete(err != nil)
	if err != nil {
		f.shaken(nil)
		return nil, stream.OpError("accept", r.Src, err)
	}
	c := stream.New(ep, &wq, r.Src, r.Dst, f)
	f.t.s.keepAlive(ep)
	evicted, cause := f.shaken(c)
	end(evicted)
	if cause != nil {
		c.Abort()
		return nil, acceptError(r.Src, cause)
	}
	if n := f.sendBuffer(); n < f.t.s.limits.TCPBuffer {
		ep.SocketOptions().SetSendBufferSize(int64(n), true)
	}
	return c, nil
}

const (
	// sendBuffers is how many bytes of send buffers the flows of one client have at full size. 500 clients that did not read made penstock
	// hold 550 MiB (2026-11).
	sendBuffers = 32 << 20
	// leastSendBuffer is that of one flow, however many its client has.
	leastSendBuffer = 16 << 10
)

// sendBuffer is how many bytes may wait for the client of a flow. The more flows the client has, the less each new one gets.
func (f *tcpFlow) sendBuffer() int {
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	return max(leastSendBuffer, sendBuffers/max(1, f.t.open.Held(f.owner)))
}

func acceptError(client netip.AddrPort, err error) error {
	return &net.OpError{Op: "accept", Net: "tcp", Addr: net.TCPAddrFromAddrPort(client), Err: err}
}

// shake begins the handshake, unless the flow was cut.
func (f *tcpFlow) shake() bool {
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.isCut {
		return false
	}
	f.stage, f.syn, f.fr = tcpShaking, nil, nil
	t.dials.Yield(&f.place)
	f.timer = time.AfterFunc(t.s.limits.Handshake, f.endHandshake)
	return true
}

// shaken moves a flow from the dials to the open flows. c is nil if the handshake failed. err is why there is no place
// among the open flows.
func (f *tcpFlow) shaken(c *stream.Conn) (evicted placed, err error) {
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	f.timer.Stop()
	t.forgetLocked(f)
	f.stage, f.conn, f.timer, f.place.Yields = tcpOpen, c, nil, false
	switch {
	case c == nil:
		return nil, nil
	case f.isCut:
		return nil, net.ErrClosed
	}
	return t.openLocked(&f.place, f.owner)
}

// passed gives the place of a flow among the dials back, and c one among the open flows, where it yields to newer ones until the
// server has answered. err is why there is none.
func (f *tcpFlow) passed(c *crossing) (evicted placed, err error) {
	t := f.t
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(f)
	f.stage = tcpCrossing
	f.request, f.cancel = nil, nil
	if f.isCut {
		return nil, net.ErrClosed
	}
	c.place.Yields = true
	return t.openLocked(&c.place, f.owner)
}

// openLocked gives a flow a place among the open ones. It may push out another.
func (t *tcpTable) openLocked(place *share.Place, o share.Owner) (evicted placed, err error) {
	place.Active.Store(t.s.now())
	p, ok := t.open.Add(place, o)
	if !ok {
		t.s.metrics.drop(dropCap)
		return nil, syscall.ENOBUFS
	}
	return t.cutLocked(p, true), nil
}

// settle makes a flow that crosses one that newer ones do not push out.
func (t *tcpTable) settle(p *share.Place) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open.Settle(p)
}

// answer ends a flow that is not accepted: with RST, with an ICMP error or in silence.
func (f *tcpFlow) answer(r *Request, refuse bool, why packet.Why) {
	switch {
	case refuse && why == packet.WhyPort:
		sender{f.t.s}.refuseTCP(r.Src, r.Dst, f.ack)
	case refuse:
		sender{f.t.s}.unreachableTCP(r.Src, r.Dst, f.seq, why)
	}
	f.t.mu.Lock()
	defer f.t.mu.Unlock()
	f.answered = true
	f.answeredLocked()
}

// answeredLocked makes the ports of a flow that is not accepted free for another one. While gVisor has the SYN, that has to wait.
func (f *tcpFlow) answeredLocked() {
	if f.answered && !f.handing {
		f.letGoLocked()
		f.t.forgetLocked(f)
	}
}

// keepAlive finds peers that vanished without a word while nothing is sent. See pauses for the others.
func (s *Stack) keepAlive(ep tcpip.Endpoint) {
	idle := tcpip.KeepaliveIdleOption(s.limits.KeepaliveIdle)
	every := tcpip.KeepaliveIntervalOption(s.limits.KeepaliveEvery)
	for _, o := range []tcpip.SettableSocketOption{&idle, &every} {
		if err := ep.SetSockOpt(o); err != nil {
			s.log.Debug("a TCP option was refused", "stack", s.name, "err", err.String())
		}
	}
	if err := ep.SetSockOptInt(tcpip.KeepaliveCountOption, keepAlives); err != nil {
		s.log.Debug("a TCP option was refused", "stack", s.name, "err", err.String())
	}
	ep.SocketOptions().SetKeepAlive(true)
	ep.SocketOptions().SetDelayOption(false) // segments are whole where they come from; Nagle would only hold them back
	s.pauses.begun()
}
