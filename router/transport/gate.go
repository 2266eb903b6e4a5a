package transport

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Dialer opens flows inside a transport: the inner stack is one.
type Dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// Gate is a Dialer that fails closed: while the tunnel is not connected, a dial waits up to Timing.DialWait for it and
// then returns ErrNotUp. Nothing was sent.
type Gate struct {
	Tunnel *Tunnel
	Inner  Dialer
}

// DialContext dials through the tunnel once it is connected.
func (g Gate) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	wait, cancel := context.WithTimeout(ctx, g.Tunnel.Timing.DialWait)
	defer cancel()
	if err := g.Tunnel.WaitUp(wait); err != nil {
		return nil, fmt.Errorf("dial %s via %s: %w", address, g.Tunnel.Name, err)
	}
	return g.Inner.DialContext(ctx, network, address)
}

// Group is an ordered list of transports. New flows go through the current member; existing flows stay where they are.
// The group leaves a member that has been down for Timing.FailoverAfter, and returns to a preferred one that has been
// connected for Timing.Settled.
type Group struct {
	name    string
	members []Gate

	mu      sync.Mutex // guards below
	current int
}

// NewGroup makes a group of at least one member, preferred first.
func NewGroup(name string, members []Gate) *Group { return &Group{name: name, members: members} }

// Current is the member that new flows go through.
func (g *Group) Current() *Tunnel { return g.members[g.choose(time.Now())].Tunnel }

// DialContext dials through the current member.
func (g *Group) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return g.members[g.choose(time.Now())].DialContext(ctx, network, address)
}

// choose returns the index of the current member, after moving to another one if that is due.
func (g *Group) choose(now time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	timing := g.members[g.current].Tunnel.Timing
	for i := range g.current {
		if h := g.members[i].Tunnel.Health(); h.State == Connected && now.Sub(h.Since) >= timing.Settled {
			g.current = i
			return i
		}
	}
	h := g.members[g.current].Tunnel.Health()
	if h.State == Connected && !h.Degraded || h.State == Connecting && now.Sub(h.Since) < timing.FailoverAfter ||
		h.State == Reconnecting && now.Sub(h.Since) < timing.FailoverAfter {
		return g.current
	}
	for i := range g.members {
		if h := g.members[i].Tunnel.Health(); i != g.current && h.State == Connected && !h.Degraded {
			g.current = i
			return i
		}
	}
	return g.current
}
