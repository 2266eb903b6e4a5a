package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync/atomic"

	"github.com/gaissmai/bart"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
	"penstock/stack"
)

type handler = func(context.Context, *stack.Request)

// gateway is the WireGuard port that colleagues connect to, and the stack behind it.
type gateway struct {
	cfg    *config.WireGuardListen
	key    wireguard.PrivateKey
	limits config.Limits
	log    *slog.Logger
	peers  atomic.Pointer[peerTable]
	stack  *stack.Stack
	server *wireguard.Server
}

// peerTable finds the peer that an inner address belongs to.
type peerTable struct {
	byAddr bart.Table[*config.Peer]
	list   []wireguard.Peer
}

// newGateway reads keys and peers; nil without listen.wireguard.
func newGateway(cfg *config.Config, log *slog.Logger) (*gateway, error) {
	if cfg.Listen.WireGuard == nil {
		return nil, nil
	}
	g := &gateway{cfg: cfg.Listen.WireGuard, limits: cfg.Limits, log: log}
	text, err := g.cfg.PrivateKey.Read()
	if err != nil {
		return nil, invalid(cfg, fmt.Errorf("%s: listen.wireguard.private_key: %w", g.cfg.Pos, err))
	}
	if g.key, err = wireguard.ParsePrivateKey(text); err != nil {
		return nil, invalid(cfg, fmt.Errorf("%s: listen.wireguard.private_key: %w", g.cfg.Pos, err))
	}
	table, err := newPeerTable(cfg.Peers)
	if err != nil {
		return nil, invalid(cfg, err)
	}
	g.peers.Store(table)
	return g, nil
}

// checkGateway reads keys and peers and opens nothing.
func checkGateway(cfg *config.Config) error {
	_, err := newGateway(cfg, slog.New(slog.DiscardHandler))
	return err
}

func newPeerTable(peers []config.Peer) (*peerTable, error) {
	t := new(peerTable)
	var errs []error
	for i := range peers {
		p := &peers[i]
		if p.Disabled {
			continue
		}
		w := wireguard.Peer{Name: p.Name, AllowedIPs: p.AllowedIPs, PersistentKeepalive: p.PersistentKeepalive}
		var err error
		if w.PublicKey, err = wireguard.ParsePublicKey(p.PublicKey); err != nil {
			errs = append(errs, fmt.Errorf("%s: peer %s: public_key: %w", p.Pos, p.Name, err))
			continue
		}
		shared, err := p.PresharedKey.Read()
		if err == nil && shared != "" {
			w.PresharedKey, err = wireguard.ParsePresharedKey(shared)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: peer %s: preshared_key: %w", p.Pos, p.Name, err))
		}
		for _, prefix := range p.AllowedIPs {
			t.byAddr.Insert(prefix.Masked(), p)
		}
		t.list = append(t.list, w)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return t, nil
}

// open opens the port.
func (g *gateway) open(handle handler, m metrics, mark uint32) (err error) {
	g.stack, err = stack.New(stack.Config{
		Name: "gateway", MTU: g.cfg.MTU, Addrs: g.cfg.Address, Handle: handle, Limits: stackLimits(g.limits),
		Log: g.log, Metrics: m.stack,
	})
	if err != nil {
		return fmt.Errorf("listen.wireguard: %w", err)
	}
	g.server, err = wireguard.NewServer(wireguard.ServerConfig{
		Device: g.stack.Device(), PrivateKey: g.key, ListenPort: uint16(g.cfg.ListenPort),
		Peers: g.peers.Load().list, Mark: mark, Log: g.log,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("listen.wireguard: %w", err), g.stack.Close())
	}
	return nil
}

// setPeers replaces the peers; the sessions of those that stay live on.
func (g *gateway) setPeers(peers []config.Peer) error {
	table, err := newPeerTable(peers)
	if err != nil {
		return err
	}
	if err := g.server.SetPeers(table.list); err != nil {
		return err
	}
	g.peers.Store(table)
	return nil
}

// peer is whom an inner source address belongs to. WireGuard has made sure that nobody else sends from it.
func (g *gateway) peer(src netip.Addr) (*config.Peer, bool) { return g.peers.Load().byAddr.Lookup(src) }

func (g *gateway) port() int { return int(g.server.Port()) }

// inside reports addresses within the gateway's inner networks that nobody answers on: other peers among them.
func (g *gateway) inside(a netip.Addr) bool { return within(g.cfg.Address, a) && !g.service(a) }

// service reports the addresses that we answer on.
func (g *gateway) service(a netip.Addr) bool { return isOneOf(g.cfg.Address, a) }

// close closes the port first, so that no flow arrives while the stack goes.
func (g *gateway) close() error {
	return errors.Join(g.server.Close(), g.stack.Close())
}
