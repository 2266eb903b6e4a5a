package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/share"
	"penstock/stack/transit"
)

// crossings are the flows whose packets go from one stack to another.
type crossings struct {
	begun  *transit.Table[*crossing] // by this stack's clients, found by their packets
	guests *transit.Table[*crossing] // that leave through this stack, found by the server's packets
	sweep  chan struct{}             // capacity 1: there is something to sweep
}

func newCrossings() crossings {
	return crossings{
		begun:  transit.NewTable(func(c *crossing) (src, dst netip.AddrPort) { return c.Client, c.Server }),
		guests: transit.NewTable(func(c *crossing) (src, dst netip.AddrPort) { return c.Server, c.Mapped }),
		sweep:  make(chan struct{}, 1),
	}
}

// crossing is one flow that a client of near began, and that leaves through far.
type crossing struct {
	*transit.Flow
	near, far *Stack
	watch     Watch // nil: nobody is told
	client    uint64
	place     share.Place // among the open flows of near
	begun     atomic.Bool // Pass has answered for the flow. Until then no packet and nobody else ends it, or it would end after an error
}

// direction is one direction of a crossing: what is merged into super-packets.
type direction struct {
	c      *crossing
	toNear bool
}

// to is the stack that the packets of a direction go to.
func (d direction) to() *Stack {
	if d.toNear {
		return d.c.near
	}
	return d.c.far
}

type merger = transit.Merger[direction]

var mergers = sync.Pool{New: func() any {
	return &merger{Send: func(d direction, m link.Meta, pieces [][]byte) { sender{d.to()}.crossing(m, pieces) }}
}}

// Watch is told about a flow that was passed. Its methods must not block.
type Watch interface {
	// Opened is called when the server has accepted.
	Opened()
	// Moved reports whether the flow would go another way by now. It is asked when a client that has no answer repeats its SYN, which
	// then is a flow of its own.
	Moved() bool
	// Heard is called after read got bytes, and every second or so as long as more may come. Unlike read it may call the Passed.
	Heard()
	// Ended is called once, when the flow is over. err is why the server was not reached, if it was not: an errno.
	Ended(err error)
}

// Passed is a flow that was passed.
type Passed struct{ c *crossing }

// Bytes returns how many bytes of payload the client has sent and received.
func (p *Passed) Bytes() (in, out uint64) { return p.c.Bytes() }

// Held returns how many bytes are kept of what Read got.
func (p *Passed) Held() int { return p.c.Held() }

// Permit lets the next n bytes that Read got leave.
func (p *Passed) Permit(n int) { p.c.Permit(n) }

// Skip lets n bytes leave that Read will not get, if all that it got has been permitted. It reports false if Read will get them.
func (p *Passed) Skip(n int) (ok bool) { return p.c.Skip(n) }

// Open lets everything leave from now on, and ends reading.
func (p *Passed) Open() { p.c.Open() }

// Abort resets the flow on both sides.
func (p *Passed) Abort() {
	p.c.Reset()
	p.c.forget()
}

// Pass lets the packets of a TCP flow cross to another stack instead of ending here: client and server speak TCP with each other,
// and the client sees what the server answers. After an error nothing was answered, and the flow can still be accepted or refused.
//
// w, which may be nil, is told of the flow. read gets what the client sends, in order, before it leaves: see transit.Config. Nil: nothing
// is read.
func (r *Request) Pass(to *Stack, w Watch, read func(b []byte)) (*Passed, error) {
	if r.tcp == nil {
		return nil, fmt.Errorf("pass %s: %w", r.Network, errors.ErrUnsupported)
	}
	src, err := to.source(r.Dst.Addr())
	if err != nil {
		return nil, err
	}
	if to.life.Err() != nil {
		return nil, fmt.Errorf("stack %s: pass %v: %w", to.name, r.Dst, net.ErrClosed)
	}
	f := r.tcp
	s := f.t.s
	c := &crossing{near: s, far: to, watch: w, client: r.Client}
	c.place.Flow = c
	if err := c.enter(r, src, read); err != nil {
		return nil, err
	}
	if !r.answer() {
		c.forget()
		return nil, errAnswered
	}
	f.letGo() // before anybody can end the flow, and so free its ports
	c.begun.Store(true)
	evicted, err := f.passed(c)
	end(evicted)
	// It may be over: it was cut while it waited, there is no room, or the other stack or its address went meanwhile. Who took these
	// away has reset what he found in the table, which was so before; finishCrossing may have come before passed.
	if err != nil || c.Over() || to.life.Err() != nil || !to.own(src) {
		c.Reset()
		c.forget()
		s.tcp.finishCrossing(c)
		return &Passed{c}, nil
	}
	syn, fault := packet.Parse(link.Meta{Partial: true}, f.syn) // the flow computes its checksum
	f.syn = nil
	if fault == "" {
		receiver{s}.crossOne(direction{c: c}, link.Meta{}, &syn, nil)
	}
	crosser{s}.sweepSoon()
	return &Passed{c}, nil
}

// portTriesMapped is how many ports are tried for a crossing before it is not passed.
const portTriesMapped = 64

// enter finds a port for a crossing on its far stack, and puts the crossing into both tables. The client's own port is the first
// choice.
func (c *crossing) enter(r *Request, src netip.Addr, read func([]byte)) error {
	const lowest = 1024
	port := r.Src.Port()
	for range portTriesMapped {
		mapped := netip.AddrPortFrom(src, port)
		if (crosser{c.far}).isFree(mapped, r.Dst) {
			c.Flow = transit.New(transit.Config{
				Client: r.Src, Server: r.Dst, Mapped: mapped, ISN: r.tcp.seq, MTU: uint16(min(c.near.MTU(), c.far.MTU())), KeepHops: c.far.routed,
				Read: read, Owner: c,
			}, c.near.now())
			if c.far.crossings.guests.Add(c) {
				if (crosser{c.far}).isFree(mapped, r.Dst) { // still: a dial looks at the guests once it is seen here
					break
				}
				c.far.crossings.guests.Remove(c)
			}
		}
		c.Flow = nil
		port = uint16(lowest + rand.IntN(1<<16-lowest))
	}
	if c.Flow == nil {
		return fmt.Errorf("stack %s: pass %v: %w", c.far.name, r.Dst, syscall.EADDRNOTAVAIL)
	}
	for !c.near.crossings.begun.Add(c) {
		if old, ok := c.near.crossings.begun.Find(r.Src, r.Dst); ok { // it is over, or a SYN would not have come up to here
			if old.begun.Load() { // else it was cut before Pass answered for it
				old.Reset()
			}
			old.forget()
		}
	}
	return nil
}

// crosser is a stack as flows cross from it and to it.
type crosser struct{ *Stack }

// isFree reports whether no connection or dial of the stack's own uses a port towards dst.
func (s crosser) isFree(local, dst netip.AddrPort) bool {
	if s.dials.has(datagram.Pair{Remote: dst, Local: local}) {
		return false
	}
	return s.net.FindTransportEndpoint(protocolOf(dst.Addr()), tcp.ProtocolNumber, stack.TransportEndpointID{
		LocalPort: local.Port(), LocalAddress: tcpipAddr(local.Addr()), RemotePort: dst.Port(), RemoteAddress: tcpipAddr(dst.Addr()),
	}, nicID) == nil
}

// cut does nothing: a crossing that has lost its place is reset, whatever becomes of it meanwhile.
func (c *crossing) cut(bool) {}

// end resets a crossing that has lost its place.
func (c *crossing) end() {
	c.Reset()
	c.forget()
}

// forget takes a crossing out of the tables.
func (c *crossing) forget() {
	c.near.crossings.begun.Remove(c)
	c.far.crossings.guests.Remove(c)
}

// ToServer sends a packet that was held, or a reset.
func (c *crossing) ToServer(m link.Meta, b []byte) { sender{c.far}.crossingWhole(m, b) }

// ToClient sends a reset.
func (c *crossing) ToClient(m link.Meta, b []byte) { sender{c.near}.crossingWhole(m, b) }

// Carries is called when payload has come after the handshake: the flow need not yield its place to a newer one any more. Until then one
// client could fill the table with flows that nobody uses.
func (c *crossing) Carries() { c.near.tcp.settle(&c.place) }

// Heard is called after bytes were read.
func (c *crossing) Heard() {
	if c.watch != nil {
		c.watch.Heard()
	}
}

// Opened is called when the server has accepted.
func (c *crossing) Opened() {
	if c.watch != nil {
		c.watch.Opened()
	}
}

// failures are the errnos that a dial of ours would have failed with.
var failures = [...]error{
	transit.Closed: nil, transit.Refused: syscall.ECONNREFUSED, transit.Unanswered: syscall.ETIMEDOUT, transit.Unreachable: syscall.EHOSTUNREACH,
}

// Ended is called once, when the flow is over. It stays in the tables until what is on its way has come, unless too many do.
func (c *crossing) Ended(r transit.Result) {
	c.near.tcp.finishCrossing(c)
	if c.near.crossings.begun.Len() > 2*c.near.limits.TCPFlows {
		c.forget()
	}
	if c.watch != nil {
		c.watch.Ended(failures[r])
	}
}

// cross takes a TCP packet of a flow that crosses. g, which may be nil, merges what comes in a batch.
func (s receiver) cross(m link.Meta, h *packet.Packet, g *merger) (taken bool) {
	if s.crossings.begun.Len()+s.crossings.guests.Len() == 0 || len(h.Body) < 20 {
		return false
	}
	ports := flowAddrs(h)
	c, ok := s.crossings.begun.Find(ports.Remote, ports.Local)
	d := direction{c, !ok}
	if !ok {
		if d.c, ok = s.crossings.guests.Find(ports.Remote, ports.Local); !ok {
			return false
		}
	}
	switch {
	case !d.c.begun.Load():
		return true
	case !d.toNear && isSYN(h) && c.watch != nil && c.watch.Moved() && c.Abandon():
		c.forget()
		return false
	}
	return s.crossOne(d, m, h, g)
}

func isSYN(h *packet.Packet) bool {
	return header.TCP(h.Body).Flags()&(header.TCPFlagSyn|header.TCPFlagAck|header.TCPFlagRst) == header.TCPFlagSyn
}

// crossOne takes a packet of one direction of a crossing. It reports false for the SYN of another flow.
func (s receiver) crossOne(d direction, m link.Meta, h *packet.Packet, g *merger) (taken bool) {
	c, to := d.c, d.to()
	now := c.near.now()
	c.place.Active.Store(now)
	if s.isTooBig(m, h, to.MTU()) {
		return true
	}
	step := transit.Stay
	if d.toNear {
		step = c.FromServer(m, h, now)
	} else {
		step = c.FromClient(m, h, now)
	}
	switch step {
	case transit.Cross:
		s.crossTo(to, d, m, h, g)
	case transit.Renew:
		c.Reset()
		c.forget()
		return false // a flow of its own, judged like any other
	case transit.Expire:
		sender(s).hopsExceeded(h)
	}
	return true
}

func (s receiver) crossTo(to *Stack, d direction, m link.Meta, h *packet.Packet, g *merger) {
	if g != nil && m == (link.Meta{}) && len(h.Raw) <= to.MTU() {
		g.Add(d, h)
		return
	}
	sender{to}.crossingWhole(m, h.Raw)
}

// isTooBig answers a packet that does not fit the way of its flow and must not be cut.
func (s receiver) isTooBig(m link.Meta, h *packet.Packet, mtu int) bool {
	if !h.Whole || wireSize(m, h.Headers(), len(h.Raw)) <= mtu {
		return false
	}
	sender(s).tooBig(h, mtu)
	return true
}

// wireSize is the size of the largest packet that one of size bytes with these headers becomes, in bytes.
func wireSize(m link.Meta, headers []byte, size int) int {
	if m.GSO == link.GSONone {
		return size
	}
	return min(len(headers)+int(m.SegSize), size)
}

// single are slices of one piece: one on the stack would be allocated, because it is not known where it is sent.
var single = sync.Pool{New: func() any { return new([1][]byte) }}

// crossingWhole is crossing for a packet in one piece.
func (s sender) crossingWhole(m link.Meta, b []byte) {
	piece := single.Get().(*[1][]byte)
	piece[0] = b
	s.crossing(m, piece[:])
	piece[0] = nil
	single.Put(piece)
}

// crossing sends a packet that was rewritten for this stack, in fragments if it has to be.
func (s sender) crossing(m link.Meta, pieces [][]byte) {
	var err error
	if s.fits(m, pieces) {
		err = s.nic.SendPieces(m, pieces)
	} else {
		err = s.sendFragments(m, pieces)
	}
	if err != nil {
		s.metrics.drop(dropQueue)
	}
}

// fits reports whether what a packet becomes fits the stack's MTU.
func (s sender) fits(m link.Meta, pieces [][]byte) bool {
	size := 0
	for _, b := range pieces {
		size += len(b)
	}
	mtu := s.MTU()
	if size <= mtu {
		return true
	}
	hdr, proto := 40, pieces[0][6] // a packet of a flow has no IP options
	if pieces[0][0]>>4 == 4 {
		hdr, proto = 20, pieces[0][9]
	}
	head := packet.Packet{Raw: pieces[0], Body: pieces[0][hdr:], Proto: proto}
	return wireSize(m, head.Headers(), size) <= mtu
}

// sendFragments sends the segments of a packet or super-packet in fragments, as a router does with a packet that may be cut.
func (s sender) sendFragments(m link.Meta, pieces [][]byte) error {
	var seg link.Segmenter
	all := bytes.Join(pieces, nil)
	if err := seg.Reset(m, all); err != nil {
		return err
	}
	for whole := make([]byte, len(all)); !seg.Done(); {
		n, err := seg.Next(whole)
		if err != nil {
			return err
		}
		if n <= s.MTU() {
			if err := s.nic.Send(whole[:n]); err != nil {
				return err
			}
			continue
		}
		p, fault := packet.Parse(link.Meta{}, whole[:n])
		if fault != "" {
			return errors.New(string(fault))
		}
		err = packet.Fragment(p.Raw, p.Proto, p.Src, p.Dst, s.MTU(), func(f []byte) error {
			likeRouter(f, p.Raw)
			return s.nic.Send(f)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// likeRouter gives a packet the service and the hop count of another.
func likeRouter(b, of []byte) {
	if b[0]>>4 == 6 {
		copy(b[:4], of[:4])
		b[7] = of[7]
		return
	}
	b[1], b[8] = of[1], of[8]
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
}

// crossReassembled takes a segment that gVisor put together from fragments.
func (s receiver) crossReassembled(id stack.TransportEndpointID, pkt *stack.PacketBuffer) (taken bool) {
	if s.crossings.begun.Len()+s.crossings.guests.Len() == 0 {
		return false
	}
	body := stack.PayloadSince(pkt.TransportHeader())
	defer body.Release()
	src, dst := fromTCPIP(id.RemoteAddress), fromTCPIP(id.LocalAddress)
	b := make([]byte, packet.HeaderLen(src), packet.HeaderLen(src)+body.Size())
	packet.PutIP(b, packet.ProtoTCP, src, dst, body.Size())
	likeRouter(b, pkt.NetworkHeader().Slice())
	h, fault := packet.Parse(link.Meta{}, append(b, body.AsSlice()...))
	h.Whole = false // it came in fragments
	return fault == "" && s.cross(link.Meta{}, &h, nil)
}

// crossICMP takes an ICMP error about a packet of a flow that crosses, and passes it on to whoever sent the packet.
func (s receiver) crossICMP(icmp *packet.Packet) (taken bool) {
	h, ok := packet.Quoted(icmp.Body[8:])
	if !ok {
		return false
	}
	if h.Src.Is4() != icmp.Src.Is4() {
		s.metrics.drop(dropMalformed)
		return true
	}
	switch {
	case h.Proto == packet.ProtoUDP, h.Proto == packet.ICMPProto(h.Src):
		return s.crossDatagramICMP(icmp, &h)
	case h.Proto != packet.ProtoTCP, s.crossings.begun.Len()+s.crossings.guests.Len() == 0:
		return false
	}
	ports := flowAddrs(&h)
	rest := binary.BigEndian.Uint32(icmp.Body[4:])
	if c, ok := s.crossings.guests.Find(ports.Local, ports.Remote); ok && c.begun.Load() {
		if quoted, ok := c.QuoteToClient(icmp.Body[8:], isUnreachable(icmp)); ok {
			if mtu, ok := tooBigFor(icmp); ok {
				c.TooBig(mtu)
			}
			sender{c.near}.sendICMPError(crosser(s).seenFrom(c.near, icmp.Src, c.Client.Addr()), c.Client.Addr(), icmp.Body[0], icmp.Body[1], rest, quoted)
		}
		return true
	}
	if c, ok := s.crossings.begun.Find(ports.Local, ports.Remote); ok {
		if key, _ := s.client(icmp.Src); key != c.client {
			return true // another client cannot know
		}
		if quoted, ok := c.QuoteToServer(icmp.Body[8:]); ok {
			sender{c.far}.sendICMPError(c.Mapped.Addr(), c.Server.Addr(), icmp.Body[0], icmp.Body[1], rest, quoted)
		}
		return true
	}
	return false
}

// seenFrom returns the source of an ICMP error for a client of near: that of the router behind the link is near's own address, which
// is the one that the client has a way to.
func (s crosser) seenFrom(near *Stack, src, client netip.Addr) netip.Addr {
	if !s.routed || !s.isBeside(src) {
		return src
	}
	if own, err := near.source(client); err == nil {
		return own
	}
	return src
}

// isBeside reports whether an address is in a network of the stack.
func (s crosser) isBeside(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.addrs {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// isBroadcast reports whether addr stands for all hosts of a network of the stack.
func (s crosser) isBroadcast(addr netip.Addr) bool {
	if !addr.Is4() {
		return false
	}
	a := addr.As4()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.addrs {
		hosts := uint32(math.MaxUint32) >> p.Bits()
		if p.Bits() <= 30 && p.Contains(addr) && binary.BigEndian.Uint32(a[:])&hosts == hosts {
			return true
		}
	}
	return false
}

// tooBigFor returns the size of packets that an ICMP error says are not too big, in bytes.
func tooBigFor(icmp *packet.Packet) (mtu int, ok bool) {
	if icmp.Src.Is4() {
		return int(binary.BigEndian.Uint16(icmp.Body[6:])), icmp.Body[0] == packet.Unreachable4 && icmp.Body[1] == packet.FragmentationNeeded
	}
	return int(binary.BigEndian.Uint32(icmp.Body[4:])), icmp.Body[0] == packet.PacketTooBig6
}

// isUnreachable reports whether an ICMP error says that there is no way to a destination.
func isUnreachable(icmp *packet.Packet) bool {
	if icmp.Src.Is4() {
		return icmp.Body[0] == packet.Unreachable4 && icmp.Body[1] != packet.FragmentationNeeded
	}
	return icmp.Body[0] == packet.Unreachable6
}

// sweepEvery is how often the flows that cross are looked at.
const sweepEvery = time.Second

// sweepSoon wakes the sweeper.
func (s crosser) sweepSoon() {
	select {
	case s.crossings.sweep <- struct{}{}:
	default:
	}
}

// sweepAll forgets crossings that are over or silent, as long as there are any.
func (s crosser) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if s.crossings.begun.Len() == 0 {
			tick.Stop()
			select {
			case <-s.crossings.sweep:
			case <-ctx.Done():
				return
			}
			tick.Reset(sweepEvery)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now, crowds := s.now(), s.tcp.crowds()
		var stale, owing []*crossing
		s.crossings.begun.Each(func(c *crossing) {
			switch {
			case c.Stale(now, crowds[share.Owner{Client: c.client}]):
				stale = append(stale, c)
			case c.Judged:
				owing = append(owing, c)
			}
		})
		for _, c := range stale {
			c.Expire(now)
			c.forget()
		}
		for _, c := range owing {
			if c.Repeat() {
				c.Heard()
			}
		}
	}
}

// resetGuests ends the crossings that leave through this stack and for which which, if not nil, is true.
func (s crosser) resetGuests(which func(*crossing) bool) {
	var list []*crossing
	s.crossings.guests.Each(func(c *crossing) {
		if c.begun.Load() && (which == nil || which(c)) { // Pass looks once more before it lets another begin
			list = append(list, c)
		}
	})
	for _, c := range list {
		c.Reset()
		c.forget()
	}
}

// Nudge makes the TCP flows that cross to the stack go on at once. It is called when the stack's link works again after it did not.
func (s *Stack) Nudge() {
	var list []*crossing
	s.crossings.guests.Each(func(c *crossing) {
		if c.begun.Load() { // else enter may still look for a port, and take its transit.Flow away
			list = append(list, c)
		}
	})
	for _, c := range list {
		c.Nudge()
	}
}

// hopsExceeded answers a packet that has no hops left, as a router does.
func (s sender) hopsExceeded(h *packet.Packet) {
	src, err := s.source(h.Src)
	if err != nil || !s.errors.Allow() {
		return
	}
	kind := byte(packet.TimeExceeded6)
	if h.Src.Is4() {
		kind = packet.TimeExceeded4
	}
	s.sendICMPError(src, h.Src, kind, 0, 0, quotable(h))
}

// tooBig answers a packet that does not fit the way of its flow.
func (s sender) tooBig(h *packet.Packet, mtu int) {
	src, err := s.source(h.Src)
	if err != nil || !s.errors.Allow() {
		return
	}
	kind, code := byte(packet.PacketTooBig6), byte(0)
	if h.Src.Is4() {
		kind, code = packet.Unreachable4, packet.FragmentationNeeded
	}
	s.sendICMPError(src, h.Src, kind, code, uint32(mtu), quotable(h))
}

// quotable is what of a packet an ICMP error quotes.
func quotable(h *packet.Packet) []byte {
	if h.Src.Is4() {
		return h.Raw[:min(len(h.Raw), 576-28)] // RFC 1812, 4.3.2.3
	}
	return h.Raw[:min(len(h.Raw), 1280-48)] // RFC 4443, 2.4
}

// synOf is a SYN without what follows its header, without options of IP and without a TCP checksum that fits.
func synOf(src, dst netip.Addr, network, transport []byte) []byte {
	b := make([]byte, packet.HeaderLen(src), packet.HeaderLen(src)+len(transport))
	packet.PutIP(b, packet.ProtoTCP, src, dst, len(transport))
	likeRouter(b, network)
	return append(b, transport...)
}
