package datagram

import (
	"penstock/stack/packet"
)

// Crossing carries the packets of a flow past its reader and writer. Its methods must not block.
type Crossing interface {
	// Take takes a datagram that is no packet, or not any more: it came in fragments, or before the flow was given to the crossing.
	Take(c *Conn, b []byte, as packet.Manner)
	// Ended is called in a goroutine of its own, once for each flow that was given to the crossing and was shut.
	Ended()
}

// Leg is a flow on one side of a crossing.
type Leg struct{ *Conn }

// Cross gives the flow to x: what has come and was not read yet, and what comes from now on. Nobody may read or write it any more.
func (c Leg) Cross(x Crossing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.err == nil && c.head < len(c.queue) {
		list := c.queue[c.head:]
		c.queue, c.head, c.bytes = nil, 0, 0
		c.takeUnlocked(list, x)
	}
	if c.err != nil {
		return c.err
	}
	c.crossing.Store(&x)
	return nil
}

// takeUnlocked gives x what was queued, without c.mu. It is locked again afterwards, even if x panics.
func (c Leg) takeUnlocked(list []queued, x Crossing) {
	c.mu.Unlock()
	defer c.mu.Lock()
	for _, q := range list {
		x.Take(c.Conn, *q.b, q.as)
		datagramPool.Put(q.b)
	}
}

// Take gives what came for a flow that crosses, but not as a packet, to its crossing.
func (c Leg) Take(b []byte, as packet.Manner) {
	c.Came(len(b))
	c.Crossing().Take(c.Conn, b, as)
}

// crosses reports whether what comes for the flow is left to its crossing.
func (c Leg) crosses() bool {
	return c.crossing.Load() != nil && flowState(c.state.Load()) == flowAccepted && !c.over.Load()
}

// Crossing is what the flow was given to; nil if it was not.
func (c Leg) Crossing() Crossing {
	if x := c.crossing.Load(); x != nil {
		return *x
	}
	return nil
}

// Came counts a packet of a flow that crosses, with n bytes of payload.
func (c Leg) Came(n int) {
	c.touch()
	c.in.Add(uint64(n))
}

// Leaves is called before a packet with n bytes of payload leaves for the other end of a flow that crosses, and Left after it. If
// Leaves reports false, the flow was shut, and the packet must not leave.
func (c Leg) Leaves(n int) bool {
	if !c.enter() {
		return false
	}
	c.touch()
	c.answers.any.Store(true)
	c.out.Add(uint64(n))
	return true
}

// enter begins what Left ends, unless the flow was shut.
func (c Leg) enter() bool {
	c.writing.Add(1)
	if c.over.Load() {
		c.writing.Add(-1)
		return false
	}
	return true
}

// Left is called after Leaves and Errs.
func (c Leg) Left() { c.writing.Add(-1) }

// Errs is Leaves for an ICMP error. It is no answer, and does not keep the flow from being idle.
func (c Leg) Errs() bool {
	c.answers.refused.Store(true)
	return c.enter()
}

// TooBig says that no packet of more than mtu bytes reaches the other end: what is cut here is cut smaller from now on.
func (c Leg) TooBig(mtu int) { c.path.set(plausible(mtu, c.key.Remote.Addr()), c.t.Now()) }

// IsOver reports whether the flow was shut.
func (c Leg) IsOver() bool { return c.over.Load() }

// HasCome reports whether anything but empty datagrams has come for the flow.
func (c Leg) HasCome() bool { return c.in.Load() > 0 }
