// Package gateway runs the WireGuard port that colleagues connect to, and the stack behind it.
//
// A Plan is what a configuration says about the port, read and checked before anything is opened. Peers can be added and
// removed while the port is open. Peers that stay keep their sessions.
//
// Peers and groups can have limits: what their rates allow crosses the meter between WireGuard and the stack, and what peers have
// used of their quotas is kept. Who has used up a quota is told to Config.OverQuota, because a policy blocks, not the gateway.
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
	"slices"
	"sync"
	"time"

	"penstock/cmd/internal/gateway/meter"
	"penstock/cmd/internal/handover"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

// Config is what Open needs. Plan, Handle and Peer must be set.
type Config struct {
	Plan *Plan
	// Handle takes each flow of a peer.
	Handle stack.Handler
	// Peer returns the key of the peer that has an address inside the tunnel.
	Peer func(netip.Addr) (key uint64, ok bool)
	// OverQuota is told the names of the peers to block, because they have used up their quotas, whenever they change. Open and Use
	// call it too. It must not call the gateway. May be nil.
	OverQuota func(peers map[string]bool)
	Mark      uint32            // of the port's socket; 0: none
	Sockets   *handover.Sockets // may be nil
	Limits    stack.Limits
	Metrics   *stack.Metrics
	Log       *slog.Logger // if nil, nothing is logged
}

// Gateway is an open port.
type Gateway struct {
	stack  *stack.Stack
	meter  *meter.Meter
	limits *limiter
	server *wireguard.Server
	stop   func()         // the meter, and waits
	stay   wireguard.List // from Withdraw to Use
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
	m := meter.New(s.Device())
	limits := newLimiter(m, c)
	limits.use(c.Plan, c.Plan.peers)
	ctx, cancel := context.WithCancel(context.Background())
	server, err := wireguard.NewServer(wireguard.ServerConfig{
		Device: m, PrivateKey: c.Plan.key, ListenPort: uint16(listen.ListenPort),
		Peers: c.Plan.peers, Mark: c.Mark, Log: c.Log,
		Listen: func(network, address string) (net.PacketConn, error) {
			return c.Sockets.ListenPacket(ctx, net.ListenConfig{Control: handover.Marked(c.Mark)}, network, address)
		},
		Foreign: func() { c.Metrics.Drop("source") },
		Crowded: func() { c.Metrics.Drop("backlog") },
	})
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("listen.wireguard: %w", err), s.Close())
	}
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	return &Gateway{stack: s, meter: m, limits: limits, server: server, stop: func() { cancel(); wg.Wait() }}, nil
}

// Run applies the quotas of peers until ctx ends. It returns nil.
func (g *Gateway) Run(ctx context.Context) error {
	g.limits.run(ctx)
	return nil
}

// Quicken ends the limits of peers for good: before Close, what waits because of them, and the resets of flows behind it, still
// have to reach the peers. Without a gateway it does nothing.
func (g *Gateway) Quicken() {
	if g != nil {
		g.meter.Lift()
	}
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
	if err := wireguard.CheckPeers(listOf(next.peers), next.key.Public()); err != nil {
		return err
	}
	stay := now.within(next)
	if err := g.server.SetPeers(stay); err != nil {
		return err
	}
	g.limits.use(now, stay)
	g.stay = stay
	return nil
}

// Use replaces the peers with those of p. Peers that stay keep their sessions and what they have used.
func (g *Gateway) Use(p *Plan) error {
	g.stay = nil
	g.limits.use(p, p.peers)
	return g.server.SetPeers(p.peers)
}

// Call starts handshakes with peers at the addresses where they were.
func (g *Gateway) Call(ctx context.Context, former []wireguard.PeerStatus) error {
	return g.server.Call(ctx, former)
}

// Forget ends the sessions of peers of the plan in force and resets the flows of their clients. The peers may connect again. With
// silent, nothing is sent to them, not even resets: WireGuard would send to where the last packet came from.
func (g *Gateway) Forget(now *Plan, peers []wireguard.PublicKey, clients []uint64, silent bool) error {
	stay := slices.DeleteFunc(listOf(now.peers), func(p wireguard.Peer) bool { return slices.Contains(peers, p.PublicKey) })
	g.stay = stay
	defer func() { g.stay = nil }()
	if !silent {
		g.CloseClients(clients)
		g.server.Settle()
	}
	if err := g.server.SetPeers(stay); err != nil {
		return err
	}
	if silent {
		g.CloseClients(clients)
	}
	return g.server.SetPeers(now.peers)
}

// listOf returns peers as a slice.
func listOf(peers wireguard.Peers) wireguard.List {
	list := make(wireguard.List, peers.Len())
	for i := range list {
		list[i] = peers.At(i)
	}
	return list
}

// Usage returns what the peers with limits use, by config.Peer.ID. Without a gateway nobody has limits.
func (g *Gateway) Usage() map[string]Usage {
	if g == nil {
		return nil
	}
	return g.limits.usage()
}

// ResetQuota lets a peer use its quota of this month anew.
func (g *Gateway) ResetQuota(name string) error {
	if g == nil {
		return errors.New("nobody has a quota here: quotas need listen.wireguard")
	}
	return g.limits.reset(name)
}

// Spend counts bytes that a peer has sent or got by proxy, and returns how long it must wait for its rate. 0 bytes count nothing. id is
// config.Peer.ID.
func (g *Gateway) Spend(id string, d Direction, size int) (wait time.Duration) {
	if g == nil {
		return 0
	}
	return g.limits.spend(id, d, size)
}

// Trouble returns what is wrong with keeping the quotas, or "", also without a gateway.
func (g *Gateway) Trouble() string {
	if g == nil {
		return ""
	}
	return g.limits.trouble()
}

// Directions, as peers see them.
const (
	Up   = meter.Up
	Down = meter.Down
)

// Direction is a way that packets go.
type Direction = meter.Direction

// Dropped returns how much was dropped because it was above the rates of peers: nothing without a gateway.
func (g *Gateway) Dropped(d Direction) (packets, bytes uint64) {
	if g == nil {
		return 0, 0
	}
	return g.meter.Dropped(d)
}

// CloseClients resets the flows of clients that are gone, and those that lead to them.
func (g *Gateway) CloseClients(gone []uint64) {
	hosts, networks := make(map[netip.Addr]bool), []netip.Prefix(nil)
	for _, p := range g.stay {
		for _, a := range p.AllowedIPs {
			if a.IsSingleIP() {
				hosts[a.Addr()] = true
			} else {
				networks = append(networks, a)
			}
		}
	}
	g.stack.ResetTo(func(addr netip.Addr) bool {
		return !hosts[addr] && !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(addr) })
	})
	for _, key := range gone {
		g.stack.CloseClient(key)
	}
}

// Peers returns the peers with their sessions.
func (g *Gateway) Peers() []wireguard.PeerStatus { return g.server.Peers() }

// Callers returns the peers that have had a session since they were added, without their names and in no order.
func (g *Gateway) Callers() []wireguard.PeerStatus { return g.server.Callers() }

// Refused returns how many messages of handshakes were refused, by reason.
func (g *Gateway) Refused() map[string]uint64 { return g.server.Refused() }

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

// settlePatience is how long Close waits for what the limits of peers held up.
const settlePatience = 200 * time.Millisecond

// Close resets the flows of the peers while the port can still tell them, and closes the port. Then it writes down what peers have
// used.
func (g *Gateway) Close() error {
	g.Quicken()
	g.stack.Quit()
	g.meter.Settle(settlePatience)
	g.server.Settle()
	g.stop()
	err := errors.Join(g.server.Close(), g.stack.Close())
	g.limits.settle()
	_ = g.limits.save() // it has told
	return err
}
