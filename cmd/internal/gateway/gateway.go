// Package gateway runs the WireGuard port that colleagues connect to, and the stack behind it.
//
// A Plan is what a configuration says about the port, read and checked before anything is opened. Peers can be added and
// removed while the port is open. Peers that stay keep their sessions.
//
// It does not judge flows. It passes them to a handler, each with the key of the peer that sent it.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// Config is what Open needs. Plan, Handle and Peer must be set.
type Config struct {
	Plan *Plan
	// Handle takes each flow of a peer.
	Handle func(context.Context, *stack.Request)
	// Peer returns the key of the peer that has an address inside the tunnel.
	Peer    func(netip.Addr) (key uint64, ok bool)
	Mark    uint32 // of the port's socket; 0: none
	Limits  stack.Limits
	Metrics *stack.Metrics
	Log     *slog.Logger // if nil, nothing is logged
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

// A change from plan now to plan next takes three steps. First, Withdraw removes the peers and addresses that are not in
// next; after it returns, no packet of a removed peer is carried. Second, CloseClients resets the flows of removed peers.
// Third, Use adds the new peers.
//
// The order matters if a new peer has the address of a removed one. WireGuard would queue packets of the old peer's flows for
// the new peer, and deliver them after its handshake.
//
// Withdraw returns an error, and changes nothing, if Use would refuse next.
func (g *Gateway) Withdraw(now, next *Plan) error {
	if err := wireguard.CheckPeers(next.peers, next.key.Public()); err != nil {
		return err
	}
	return g.server.SetPeers(now.within(next))
}

// Use replaces the peers with those of p. Peers that stay keep their sessions.
func (g *Gateway) Use(p *Plan) error { return g.server.SetPeers(p.peers) }

// CloseClients resets the flows of clients that are gone.
func (g *Gateway) CloseClients(gone []uint64) {
	for _, key := range gone {
		g.stack.CloseClient(key)
	}
}

// Peers returns the peers with their sessions.
func (g *Gateway) Peers() []wireguard.PeerStatus { return g.server.Peers() }

// Port returns the UDP port.
func (g *Gateway) Port() int { return int(g.server.Port()) }

// Touch opens and closes a socket in the stack, for a watchdog. If the stack hangs, it returns late or never.
func (g *Gateway) Touch(ctx context.Context, dst netip.AddrPort) {
	if c, err := g.stack.DialContext(ctx, "udp", dst.String()); err == nil {
		c.Close()
	}
}

// DialContext dials an address of a peer, from the gateway's own inside the tunnel.
func (g *Gateway) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return g.stack.DialContext(ctx, network, address)
}

// Close resets the flows of the peers while the port can still tell them, and closes the port.
func (g *Gateway) Close() error {
	g.stack.Quit()
	g.server.Settle()
	return errors.Join(g.server.Close(), g.stack.Close())
}
