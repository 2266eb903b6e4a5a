// Package gateway is the WireGuard port that colleagues connect to, and the stack behind it.
//
// A Plan is what a configuration says of it, read and checked without opening anything. Peers come and go while the port
// is open; the sessions of those that stay live on.
//
// It does not judge flows: they go to the handler that it is given, each with the key of the peer that sent it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// Config is what Open needs. Plan, Handle and Peer must be set.
type Config struct {
	Plan *Plan
	// Handle takes each flow of a peer.
	Handle func(context.Context, *stack.Request)
	// Peer returns the key of the peer that an inner address belongs to.
	Peer    func(netip.Addr) (key uint64, ok bool)
	Mark    uint32 // of the port's socket; 0: none
	Limits  stack.Limits
	Metrics *stack.Metrics
	Log     *slog.Logger // nil discards
}

// Gateway is an open port.
type Gateway struct {
	stack  *stack.Stack
	server *wireguard.Server
}

// Open opens the port.
func Open(c Config) (*Gateway, error) {
	listen := c.Plan.listen
	s, err := stack.New(stack.Config{
		Name: "gateway", MTU: listen.MTU, Addrs: listen.Address, Handle: c.Handle, Client: c.Peer, Limits: c.Limits,
		Log: c.Log, Metrics: c.Metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("listen.wireguard: %w", err)
	}
	server, err := wireguard.NewServer(wireguard.ServerConfig{
		Device: s.Device(), PrivateKey: c.Plan.key, ListenPort: uint16(listen.ListenPort),
		Peers: c.Plan.peers, Mark: c.Mark, Log: c.Log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen.wireguard: %w", err), s.Close())
	}
	return &Gateway{s, server}, nil
}

// Withdraw takes away what a peer has under the plan in force, and not under the next one: its session if it goes, else
// only addresses. When it returns, nothing of a peer that went is carried any more, and the next one at its address is not
// there yet: WireGuard would keep packets of flows that are still alive, and hand them to the next one at its handshake.
// So the order of a change is Withdraw, CloseClients, Use. Withdraw changes nothing if Use would refuse the next plan.
func (g *Gateway) Withdraw(now, next *Plan) error {
	if err := wireguard.CheckPeers(next.peers, next.key.Public()); err != nil {
		return err
	}
	return g.server.SetPeers(now.within(next))
}

// Use takes the peers of another plan; the sessions of those that stay live on.
func (g *Gateway) Use(p *Plan) error { return g.server.SetPeers(p.peers) }

// CloseClients ends what clients that are gone left in the stack.
func (g *Gateway) CloseClients(gone []uint64) {
	for _, key := range gone {
		g.stack.CloseClient(key)
	}
}

// Peers are the peers with their sessions.
func (g *Gateway) Peers() []wireguard.PeerStatus { return g.server.Peers() }

// Port is the UDP port.
func (g *Gateway) Port() int { return int(g.server.Port()) }

// Touch opens a socket in the stack and closes it again. It returns late, or never, where the stack hangs: it is for a
// watchdog.
func (g *Gateway) Touch(ctx context.Context, dst netip.AddrPort) {
	if c, err := g.stack.DialContext(ctx, "udp", dst.String()); err == nil {
		c.Close()
	}
}

// Close closes the port first, so that no flow arrives while the stack goes.
func (g *Gateway) Close() error { return errors.Join(g.server.Close(), g.stack.Close()) }
