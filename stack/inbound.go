package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime/debug"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
)

// keepView is the size from which a received packet keeps the buffer it was read into. Smaller ones are copied, so that
// a flow of small packets does not pin 64 KiB each.
const keepView = 16 << 10

// receiver is a stack as packets come in: it counts and drops what no flow can be, takes datagrams and echoes itself, and
// leaves the rest to gVisor.
type receiver struct{ *Stack }

// readPort hands a port's packets up until it is closed.
func (s receiver) readPort(p link.Port) {
	batch := p.BatchSize()
	pkts := make([]link.Packet, batch)
	views := make([]*buffer.View, batch)
	g := &gro.GRO{Dispatcher: s.nic.Dispatcher()}
	g.Init(batch > 1) // a port that gives one packet at a time gives super-packets: there is nothing to merge
	var crossing *merger
	if batch > 1 {
		crossing = mergers.Get().(*merger)
		defer mergers.Put(crossing)
	}
	for {
		for i := range views {
			if views[i] == nil {
				views[i] = buffer.NewViewSize(link.MaxPacket)
			}
			pkts[i].Data = views[i].AsSlice()
		}
		n, err := p.Read(pkts)
		for i := range n {
			if s.inboundView(pkts[i], views[i], g, crossing) {
				views[i] = nil
			}
		}
		s.flush(g, crossing)
		if err != nil {
			if !closed(err) && s.life.Err() == nil {
				s.log.Error("the link failed; nothing more will be read from it", "stack", s.name, "err", err)
				s.failed(err)
			}
			return
		}
	}
}

// inboundView takes one packet that was read into view, and reports whether it kept the view.
func (s receiver) inboundView(p link.Packet, view *buffer.View, g *gro.GRO, crossing *merger) (kept bool) {
	defer s.recover()
	h, ok := s.classify(p.Meta, p.Data, crossing)
	if !ok {
		return false
	}
	if len(h.Raw) >= keepView && len(p.Data) > 0 && &p.Data[0] == &view.AsSlice()[0] {
		head := h.Headers()
		view.CapLength(len(h.Raw))
		view.TrimFront(len(head))
		s.deliver(&h, head, view, g)
		return true
	}
	s.deliverCopy(&h, g)
	return false
}

// inboundBatch takes a packet from each buffer's offset on, and leaves the bytes to the caller.
func (s receiver) inboundBatch(bufs [][]byte, offset int) {
	g, crossing := s.gros.Get().(*gro.GRO), mergers.Get().(*merger)
	for _, b := range bufs {
		s.inboundCopy(b[offset:], g, crossing)
	}
	s.flush(g, crossing)
	s.gros.Put(g)
	mergers.Put(crossing)
}

func (s receiver) inboundCopy(b []byte, g *gro.GRO, crossing *merger) {
	defer s.recover()
	if h, ok := s.classify(link.Meta{}, b, crossing); ok {
		s.deliverCopy(&h, g)
	}
}

// splitFrom is the size from which a packet's headers get a view of their own.
const splitFrom = 4 << 10

func (s receiver) deliverCopy(h *packet.Packet, g *gro.GRO) {
	if len(h.Raw) < splitFrom {
		s.deliver(h, h.Raw, nil, g)
		return
	}
	head := h.Headers()
	s.deliver(h, head, buffer.NewViewWithData(h.Raw[len(head):]), g)
}

// classify counts and drops packets that belong to no flow, and takes datagrams, echoes, fragments and what crosses itself. It
// reports true for what is left to gVisor: other TCP, and ICMP that inboundICMP does not take.
func (s receiver) classify(m link.Meta, b []byte, crossing *merger) (packet.Packet, bool) {
	s.metrics.read(len(b))
	h, fault := packet.Parse(m, b)
	if fault != "" {
		s.metrics.drop(dropReason(fault))
		return h, false
	}
	if h.Fragment || h.Proto == packet.ICMPProto(h.Src) {
		if _, known := s.client(h.Src); !known {
			s.metrics.drop(dropSource)
			return h, false
		}
	}
	if s.isSpent(&h) {
		return h, false
	}
	if h.Fragment {
		s.deliverFragment(&h)
		return h, false
	}
	switch h.Proto {
	case packet.ProtoTCP:
		if s.cross(m, &h, crossing) {
			return h, false
		}
		if s.tcp.isNew(m, &h) {
			s.tcp.arrived(&h)
			return h, false
		}
		return h, true
	case packet.ProtoUDP:
		s.inboundUDP(m, &h)
		return h, false
	case packet.ProtoICMP4, packet.ProtoICMP6:
		return h, !s.inboundICMP(&h)
	}
	if _, known := s.client(h.Src); !known {
		s.metrics.drop(dropSource)
		return h, false
	}
	s.metrics.drop(dropProtocol)
	sender(s).unknownProtocol(&h)
	return h, false
}

// isSpent answers a client's packet that has no hops left to go beyond this stack.
func (s receiver) isSpent(h *packet.Packet) bool {
	if s.handle == nil || packet.MannerOf(h.Raw).Hops > 1 || s.own(h.Dst) {
		return false
	}
	if _, known := s.client(h.Src); !known {
		s.metrics.drop(dropSource)
		return true
	}
	if !h.IsRest() && !h.IsError() { // RFC 1812, 4.3.2.7
		sender(s).hopsExceeded(h)
	}
	return true
}

// deliver gives a checked packet to gVisor. head is copied; rest, which may be nil, is given away. The headers stand
// apart because gVisor holds a second reference to the view with the IP header, and therefore copies all of it, up to
// 64 KiB, to look at the TCP header.
func (s receiver) deliver(h *packet.Packet, head []byte, rest *buffer.View, g *gro.GRO) {
	payload := buffer.MakeWithView(buffer.NewViewWithData(head))
	if rest != nil {
		payload.Append(rest)
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: payload})
	pkt.RXChecksumValidated = true
	pkt.NetworkProtocolNumber = header.IPv6ProtocolNumber
	if h.Src.Is4() {
		pkt.NetworkProtocolNumber = header.IPv4ProtocolNumber
	}
	g.Enqueue(pkt)
	pkt.DecRef()
}

// flush ends a batch.
func (s receiver) flush(g *gro.GRO, crossing *merger) {
	defer s.recover()
	g.Flush()
	if crossing != nil {
		crossing.Flush()
	}
}

// recover keeps a packet that trips gVisor or us from ending the process (gvisor#8025). It is deferred.
func (s *Stack) recover() {
	if v := recover(); v != nil {
		s.metrics.drop(dropPanic)
		s.log.Error("a packet made the stack panic and was dropped", "stack", s.name, "err", fmt.Sprint(v), "trace", string(debug.Stack()))
	}
}

// datagramConfig is how the table of datagram flows reaches the stack.
func (s *Stack) datagramConfig() datagram.Config {
	c := datagram.Config{
		Limits: s.limits.datagrams(), Client: s.client, Now: s.now, Sender: sender{s}, Count: s.metrics,
	}
	if s.handle != nil {
		c.Serve = s.serveDatagram
	}
	return c
}

// serveDatagram runs the handler of one datagram or echo flow.
func (s *Stack) serveDatagram(life context.Context, c *datagram.Conn) (rest func(context.Context)) {
	k := c.Key()
	r := &Request{Network: c.Network(), Src: k.Remote, Dst: k.Local, Client: c.Client(), stack: s, datagram: c}
	wait := s.begin(life, r)
	if wait == nil {
		r.finish()
		return nil
	}
	return func(ctx context.Context) {
		defer func() {
			if !r.isKept() {
				r.finish()
			}
		}()
		defer s.recover()
		wait(ctx)
	}
}

// begin runs the part of the handler that does not wait.
func (s *Stack) begin(life context.Context, r *Request) (rest func(context.Context)) {
	defer s.recover()
	return s.handle(life, r)
}

// inboundUDP takes one unfragmented UDP packet, or a super-packet of them.
func (s receiver) inboundUDP(m link.Meta, h *packet.Packet) {
	size := len(h.Body)
	if m.GSO == link.GSOUDP {
		if size < 8 || m.SegSize == 0 {
			s.metrics.drop(dropMalformed)
			return
		}
		size = int(m.SegSize)
	}
	addrs, as := flowAddrs(h), packet.MannerOf(h.Raw)
	for data, first := h.Body[8:], true; first || len(data) > 0; first = false {
		n := min(size, len(data))
		switch c := s.flows.Arrived(datagram.UDP, addrs, data[:n], as); {
		case c == nil:
		case first:
			s.crossDatagram(c, m, h)
			return
		default: // it crosses since a moment ago
			datagram.Leg{Conn: c}.Take(data[:n], as)
		}
		data = data[n:]
	}
}

// flowAddrs are the sender and receiver of a UDP packet.
func flowAddrs(h *packet.Packet) datagram.Pair {
	return datagram.Pair{
		Remote: netip.AddrPortFrom(h.Src, uint16(h.Body[0])<<8|uint16(h.Body[1])),
		Local:  netip.AddrPortFrom(h.Dst, uint16(h.Body[2])<<8|uint16(h.Body[3])),
	}
}

// closed reports whether err only says that a link was closed.
func closed(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed)
}
