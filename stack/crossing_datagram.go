package stack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
	"penstock/stack/transit"
)

// datagramCrossing is a datagram or echo flow whose packets cross. It has a flow in each stack's table: these bound it, and end it
// when it is idle.
type datagramCrossing struct {
	near, far *Stack
	from, to  datagram.Leg // the client's flow, in near; and what was dialled for it, in far
	out, back transit.Datagrams
	plan      DatagramPassage
	ended     atomic.Bool
	failed    atomic.Pointer[syscall.Errno] // the last ICMP error that has crossed to the client
}

var _ datagram.Crossing = (*datagramCrossing)(nil)

// DatagramPassage is what Request.PassDatagrams needs.
type DatagramPassage struct {
	Port uint16 // that the flow leaves from, if it is free; 0: any
	// Read looks at what the client sends before it leaves, and reports whether it may. manner is for Send, if it may later. Read must
	// not keep b and must not block, and may be called before PassDatagrams returns. Nil: nothing is read.
	Read func(b []byte, manner uint32) (leave bool)
	// Ended is called once, when the flow is over. err is the ICMP error that the client got, if it got nothing else. It must not
	// block. May be nil.
	Ended func(err error)
}

// PassedDatagrams is a datagram or echo flow that was passed.
type PassedDatagrams struct{ f *datagramCrossing }

// Bytes returns how many bytes of payload the client has sent and received.
func (p *PassedDatagrams) Bytes() (in, out uint64) { return p.f.from.Bytes() }

// Port is the port that the flow leaves from.
func (p *PassedDatagrams) Port() uint16 { return p.f.to.Key().Local.Port() }

// Send sends a datagram that Read has not let leave, in the manner that Read was told.
func (p *PassedDatagrams) Send(b []byte, manner uint32) {
	p.f.send(p.f.from.Conn, b, packet.Unpack(manner))
}

// Refuse ends the flow as Request.Refuse does.
func (p *PassedDatagrams) Refuse() {
	from := p.f.from
	p.f.stop(func() { from.Refuse(packet.WhyPort) })
}

// Drop ends the flow as Request.Drop does.
func (p *PassedDatagrams) Drop() { p.f.stop(p.f.from.Drop) }

// Abort ends the flow, and tells the client that it is prohibited. A client that goes on begins another flow.
func (p *PassedDatagrams) Abort() {
	from := p.f.from
	p.f.stop(func() {
		from.Unreachable(syscall.EACCES)
		from.Close()
	})
}

// PassDatagrams lets the packets of a datagram or echo flow cross to another stack instead of ending here. The client gets what comes
// back as it is, ICMP errors included. After an error nothing was answered, and the flow can still be accepted or refused.
func (r *Request) PassDatagrams(to *Stack, p DatagramPassage) (*PassedDatagrams, error) {
	if r.datagram == nil {
		return nil, fmt.Errorf("pass %s: %w", r.Network, errors.ErrUnsupported)
	}
	src, err := to.source(r.Dst.Addr())
	if err != nil {
		return nil, err
	}
	kind := datagram.UDP
	if r.datagram.Key().Kind == datagram.Echo {
		kind = datagram.Reply
	}
	dialled, err := to.flows.DialFor(r.datagram, datagram.Key{Kind: kind, Pair: datagram.Pair{Remote: r.Dst, Local: netip.AddrPortFrom(src, p.Port)}})
	if err != nil {
		return nil, fmt.Errorf("stack %s: pass %v: %w", to.name, r.Dst, err)
	}
	if !r.answer() {
		dialled.Close()
		return nil, errAnswered
	}
	r.datagram.Accept()
	mapped := dialled.Key().Local
	f := &datagramCrossing{
		near: r.stack, far: to, from: datagram.Leg{Conn: r.datagram}, to: datagram.Leg{Conn: dialled}, plan: p,
		out: transit.ToServer(r.Src, mapped, to.routed), back: transit.ToClient(mapped, r.Src, to.routed),
	}
	if err := errors.Join(f.to.Cross(f), f.from.Cross(f)); err != nil || !to.own(src) { // one was shut meanwhile
		go f.Ended()
	}
	return &PassedDatagrams{f}, nil
}

// stop ends the flow once. end ends the client's side of it.
func (f *datagramCrossing) stop(end func()) {
	if f.ended.CompareAndSwap(false, true) {
		end()
		f.to.Close()
		f.tell()
	}
}

// isOver reports whether either side was shut: Ended closes the other a moment later.
func (f *datagramCrossing) isOver() bool { return f.from.IsOver() || f.to.IsOver() }

// tell says that the flow has ended.
func (f *datagramCrossing) tell() {
	if f.plan.Ended == nil {
		return
	}
	var err error
	if errno := f.failed.Load(); errno != nil {
		if _, out := f.from.Bytes(); out == 0 {
			err = *errno
		}
	}
	f.plan.Ended(err)
}

// Ended ends the whole flow when one side of it has ended.
func (f *datagramCrossing) Ended() { f.stop(func() { f.from.Close() }) }

// Take takes what is no packet.
func (f *datagramCrossing) Take(c *datagram.Conn, b []byte, as packet.Manner) {
	if c == f.to.Conn || f.plan.Read == nil || f.plan.Read(b, as.Pack()) {
		f.send(c, b, as)
	}
}

// of is the stack of one of the two flows.
func (f *datagramCrossing) of(c *datagram.Conn) *Stack {
	if c == f.to.Conn {
		return f.far
	}
	return f.near
}

// send sends what came for c to the other side, in a new packet.
func (f *datagramCrossing) send(c *datagram.Conn, b []byte, as packet.Manner) {
	if f.isOver() {
		return
	}
	other := f.to
	if c == f.to.Conn {
		other = f.from
	}
	s := f.of(other.Conn)
	if size, mtu := c.Key().Size(len(b)), s.MTU(); as.Whole && size > mtu {
		sender{f.of(c)}.TooBig(c.Key(), size, mtu)
		return
	}
	if as.Hops > 1 && !f.far.routed {
		as.Hops--
	}
	if _, err := other.Send(b, as); err != nil && !errors.Is(err, net.ErrClosed) {
		s.metrics.drop(dropQueue)
	}
}

// manner is how a packet came, or what was put together from its fragments.
func manner(h *packet.Packet) packet.Manner {
	as := packet.MannerOf(h.Raw)
	as.Whole = h.Whole
	return as
}

// crossDatagram takes a packet of a flow that crosses. c may be nil.
func (s receiver) crossDatagram(c *datagram.Conn, m link.Meta, h *packet.Packet) {
	if c == nil {
		return
	}
	f, ok := datagram.Leg{Conn: c}.Crossing().(*datagramCrossing)
	if !ok || f.isOver() {
		return
	}
	if h.Fragment { // an echo that was put together: there is no packet to rewrite
		datagram.Leg{Conn: c}.Take(h.Body[4:], manner(h))
		return
	}
	other, way := f.to, &f.out
	if c == f.to.Conn {
		other, way = f.from, &f.back
	}
	to := f.of(other.Conn)
	if s.isTooBig(m, h, to.MTU()) {
		return
	}
	as := manner(h)
	if as.Hops <= 1 && !(f.far.routed && c == f.to.Conn) {
		sender(s).hopsExceeded(h)
		return
	}
	echo := h.Proto != packet.ProtoUDP
	payload := h.Body[8:]
	if echo {
		payload = h.Body[4:]
	}
	datagram.Leg{Conn: c}.Came(len(payload))
	if c == f.from.Conn && f.plan.Read != nil && !f.read(m, payload, as) {
		return
	}
	if !(echo && way.Echo(m, h) || !echo && way.UDP(m, h)) { // no method value: h would be allocated
		f.cut(m, payload, func(b []byte) { f.send(c, b, as) })
		return
	}
	if other.Leaves(len(payload)) {
		sender{to}.crossingWhole(m, h.Raw)
		other.Left()
	}
}

// cut calls each with every datagram of a packet.
func (f *datagramCrossing) cut(m link.Meta, payload []byte, each func(b []byte)) {
	if m.GSO != link.GSOUDP {
		each(payload)
		return
	}
	for n := int(m.SegSize); len(payload) > 0; {
		n = min(n, len(payload))
		each(payload[:n])
		payload = payload[n:]
	}
}

// read has each datagram of a client's packet read. If not all may leave, it sends those that may, and returns false.
func (f *datagramCrossing) read(m link.Meta, payload []byte, as packet.Manner) (all bool) {
	if m.GSO != link.GSOUDP {
		return f.plan.Read(payload, as.Pack())
	}
	var leave [][]byte
	n := 0
	f.cut(m, payload, func(b []byte) {
		n++
		if f.plan.Read(b, as.Pack()) {
			leave = append(leave, b)
		}
	})
	if len(leave) == n {
		return true
	}
	for _, b := range leave {
		f.send(f.from.Conn, b, as)
	}
	return false
}

// crossDatagramICMP takes an ICMP error about a packet of a datagram or echo flow that crosses, and passes it on to whoever sent the
// packet.
func (s receiver) crossDatagramICMP(icmp, quoted *packet.Packet) (taken bool) {
	c := s.flows.Find(sentKey(quoted))
	if c == nil {
		return false
	}
	f, ok := datagram.Leg{Conn: c}.Crossing().(*datagramCrossing)
	if !ok {
		return false
	}
	if f.isOver() {
		return true
	}
	kind, code, rest := icmp.Body[0], icmp.Body[1], binary.BigEndian.Uint32(icmp.Body[4:])
	if c == f.to.Conn {
		if mtu, ok := tooBigFor(icmp); ok { // what came in fragments is cut anew
			f.to.TooBig(mtu)
		}
		if f.from.Errs() {
			errno := errnoOf(icmp)
			f.failed.Store(&errno) // first: the flow may end as soon as the client knows
			client := f.from.Key().Remote.Addr()
			sender{f.near}.sendICMPError(crosser{f.far}.seenFrom(f.near, icmp.Src, client), client, kind, code, rest, f.back.Quote(quoted.Raw))
			f.from.Left()
		}
		return true
	}
	// Another client cannot know. And what is quoted leaves unread: a flow that was refused, or has got nothing, has no errors.
	if key, _ := s.client(icmp.Src); key == c.Client() && f.to.HasCome() && f.to.Errs() {
		sender{f.far}.sendICMPError(f.to.Key().Local.Addr(), f.to.Key().Remote.Addr(), kind, code, rest, f.out.Quote(quoted.Raw))
		f.to.Left()
	}
	return true
}

// sentKey finds the datagram or echo flow whose other end a quoted packet was sent to.
func sentKey(h *packet.Packet) datagram.Key {
	if k, ok := dialledKey(h); ok && (k.Kind == datagram.UDP || isEchoRequest(h)) {
		return k
	}
	return datagram.Key{Kind: datagram.Echo, Pair: datagram.Pair{
		Remote: netip.AddrPortFrom(h.Dst, binary.BigEndian.Uint16(h.Body[4:])),
		Local:  netip.AddrPortFrom(h.Src, 0),
	}}
}

func isEchoRequest(h *packet.Packet) bool {
	return h.Body[0] == packet.EchoRequest4 && h.Src.Is4() || h.Body[0] == packet.EchoRequest6 && h.Src.Is6()
}

// errnoOf is what a socket reports of an ICMP error.
func errnoOf(icmp *packet.Packet) syscall.Errno {
	is4, kind, code := icmp.Src.Is4(), icmp.Body[0], icmp.Body[1]
	switch {
	case is4 && kind == packet.Unreachable4 && code == packet.FragmentationNeeded, !is4 && kind == packet.PacketTooBig6:
		return syscall.EMSGSIZE
	case is4 && kind == packet.Unreachable4, !is4 && kind == packet.Unreachable6:
		return packet.WhyOfCode(is4, code).Errno()
	}
	return syscall.EHOSTUNREACH // no hops left
}
