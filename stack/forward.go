package stack

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"penstock/stack/link"
)

// pendingDials are the TCP flows that were handed up and not accepted yet.
type pendingDials struct {
	active atomic.Int64 // accepted TCP flows that are not over

	mu      sync.Mutex // guards below
	cancels map[stack.TransportEndpointID]context.CancelFunc
	clients map[uint64]int
	flows   map[*Request]context.CancelFunc // pending, half-open and accepted
}

// forwardTCP makes gVisor hand up SYNs.
func (s *Stack) forwardTCP() {
	p := &s.pending
	p.cancels = make(map[stack.TransportEndpointID]context.CancelFunc)
	p.clients = make(map[uint64]int)
	p.flows = make(map[*Request]context.CancelFunc)
	// The initial window is passed on purpose: the forwarder does not ask for the stack's default.
	f := tcp.NewForwarder(s.net, s.limits.TCPBuffer, s.limits.Dials, s.serveTCP)
	s.net.SetTransportProtocolHandler(tcp.ProtocolNumber, func(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
		h := header.TCP(pkt.TransportHeader().Slice())
		if len(h) >= header.TCPMinimumSize && h.Flags()&header.TCPFlagRst != 0 {
			p.cancel(id)
			return true
		}
		return f.HandlePacket(id, pkt)
	})
}

// takeReassembled makes gVisor hand over the datagrams and echoes that it put together from fragments.
func (s *Stack) takeReassembled() {
	s.net.SetTransportProtocolHandler(udp.ProtocolNumber, s.reassembledUDP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber4, s.reassembledICMP)
	s.net.SetTransportProtocolHandler(icmp.ProtocolNumber6, s.reassembledICMP)
}

// cancel ends the wait of a client that has sent RST.
func (p *pendingDials) cancel(id stack.TransportEndpointID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cancel := p.cancels[id]; cancel != nil {
		cancel()
	}
}

// begin takes one place for r's client, or says why there is none.
func (s *Stack) beginTCP(id stack.TransportEndpointID, r *Request, cancel context.CancelFunc) DropReason {
	p := &s.pending
	p.mu.Lock()
	defer p.mu.Unlock()
	var ok bool
	if r.Client, ok = s.client(r.Src.Addr()); !ok {
		return dropSource
	}
	if p.clients[r.Client] >= s.limits.Dials*2/3 {
		return dropCap
	}
	p.clients[r.Client]++
	p.cancels[id] = cancel
	p.flows[r] = cancel
	return ""
}

// closeClient resets the flows of a client and returns how many.
func (p *pendingDials) closeClient(key uint64) int {
	p.mu.Lock()
	var list []*Request
	for r, cancel := range p.flows {
		if r.Client == key {
			list = append(list, r)
			cancel()
		}
	}
	p.mu.Unlock()
	for _, r := range list {
		r.abort()
	}
	return len(list)
}

func (p *pendingDials) over(r *Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.flows, r)
}

func (p *pendingDials) end(id stack.TransportEndpointID, client uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.cancels[id]; !ok {
		return
	}
	delete(p.cancels, id)
	if p.clients[client]--; p.clients[client] == 0 {
		delete(p.clients, client)
	}
}

// serveTCP runs the handler for one SYN. gVisor calls it in a goroutine of its own.
func (s *Stack) serveTCP(fr *tcp.ForwarderRequest) {
	if !s.enter() {
		fr.Complete(true)
		return
	}
	defer s.wg.Done()
	defer s.recover()
	id := fr.ID()
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	r := &Request{
		Network: "tcp",
		Src:     netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort),
		Dst:     netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort),
		tcp:     fr,
		s:       s,
	}
	defer r.finish()
	if s.pending.active.Add(1) > int64(s.limits.TCPFlows) {
		s.pending.active.Add(-1)
		s.metrics.drop(dropCap)
		r.Refuse()
		return
	}
	defer s.pending.active.Add(-1)
	if reason := s.beginTCP(id, r, cancel); reason != "" {
		s.metrics.drop(reason)
		return
	}
	defer s.pending.over(r)
	r.onAnswer = func() { s.pending.end(id, r.Client) }
	s.handle(ctx, r)
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

// keepAlive finds clients that vanished without a word.
func (s *Stack) keepAlive(ep tcpip.Endpoint) {
	idle := tcpip.KeepaliveIdleOption(s.limits.KeepaliveIdle)
	every := tcpip.KeepaliveIntervalOption(s.limits.KeepaliveEvery)
	timeout := tcpip.TCPUserTimeoutOption(s.limits.KeepaliveIdle)
	for _, o := range []tcpip.SettableSocketOption{&idle, &every, &timeout} {
		if err := ep.SetSockOpt(o); err != nil {
			s.log.Debug("a TCP option was refused", "stack", s.name, "err", err.String())
		}
	}
	ep.SocketOptions().SetKeepAlive(true)
	ep.SocketOptions().SetDelayOption(false) // segments are whole where they come from; Nagle would only hold them back
}

// reassembledUDP takes a datagram that gVisor put together from fragments.
func (s *Stack) reassembledUDP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	a := addrPair{
		remote: netip.AddrPortFrom(fromTCPIP(id.RemoteAddress), id.RemotePort),
		local:  netip.AddrPortFrom(fromTCPIP(id.LocalAddress), id.LocalPort),
	}
	body := stack.PayloadSince(pkt.TransportHeader())
	defer body.Release()
	b := body.AsSlice()
	if len(b) < 8 {
		s.metrics.drop(dropMalformed)
		return true
	}
	hasSum := b[6] != 0 || b[7] != 0 || a.remote.Addr().Is6()
	if hasSum && link.Checksum(b, pseudoHeader(protoUDP, a.remote.Addr(), a.local.Addr(), len(b))) != 0 {
		s.metrics.drop(dropChecksum)
		return true
	}
	s.flows.arrived(kindUDP, a, b[8:])
	return true
}

// reassembledICMP takes an echo message that gVisor put together from fragments. It leaves requests to the stack's own
// addresses to gVisor.
func (s *Stack) reassembledICMP(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	body := stack.PayloadSince(pkt.TransportHeader())
	defer body.Release()
	h := packet{src: fromTCPIP(id.RemoteAddress), dst: fromTCPIP(id.LocalAddress), body: body.AsSlice()}
	h.proto = icmpProto(h.src)
	if len(h.body) < 8 || !h.checksumValid() {
		s.metrics.drop(dropChecksum)
		return true
	}
	return s.inboundICMP(&h)
}
