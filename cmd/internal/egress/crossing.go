package egress

import (
	"net/netip"

	"penstock/cmd/internal/config"
	"penstock/policy"
	"penstock/router"
	"penstock/router/transport"
	"penstock/stack"
)

// Carrier returns the stack that carries packets of a protocol to dst through a way now. ok is false for a way that carries none, or whose
// transport is not up.
func (e *Egress) Carrier(name string, n policy.Network, dst netip.Addr) (c router.Carrier, ok bool) {
	if name == policy.EgressDirect {
		s, ok := e.kernel.Carrier(n, dst)
		return s, ok
	}
	t, ok := e.Serving(name)
	if !ok || t.Health().State != transport.Connected {
		return nil, false
	}
	s := t.inner.carrier(dst)
	return s, s != nil
}

// Answer answers the client of a flow. It implements router.Answerer and router.Passer.
type Answer struct{ *stack.Request }

// Pass lets the packets of the flow cross to a stack that Carrier returned.
func (a Answer) Pass(to router.Carrier, w router.Watch, read func(b []byte)) (router.PassedStream, error) {
	p, err := a.Request.Pass(to.(*stack.Stack), w, read)
	if err != nil {
		return nil, err // and no nil pointer in an interface
	}
	return p, nil
}

// PassDatagrams is Pass for flows that are not TCP.
func (a Answer) PassDatagrams(to router.Carrier, w router.DatagramWatch) (router.PassedDatagrams, error) {
	p, err := a.Request.PassDatagrams(to.(*stack.Stack), stack.DatagramPassage(w))
	if err != nil {
		return nil, err
	}
	return p, nil
}

// StackLimits are the bounds of a configuration as a stack takes them.
func StackLimits(l config.Limits) stack.Limits {
	return stack.Limits{
		Dials: l.Dials, TCPFlows: l.TCPFlows, UDPFlows: l.UDPFlows, UDPPerClient: l.UDPFlowsPerClient,
		UDPIdle: l.UDPIdle, UDPIdleShort: l.UDPIdleShort, UDPIdleQUIC: l.UDPIdleQUIC,
		KeepaliveIdle: l.TCPKeepalive, KeepaliveEvery: l.TCPKeepaliveInterval,
	}
}
