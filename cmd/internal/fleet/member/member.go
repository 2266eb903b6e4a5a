// Package member makes this gateway one of a fleet. It gives the fleet the WireGuard port: which peers have sessions and flows, calls to
// them, and whether the gateway is fit to have any.
//
// It does not decide who takes a peer.
package member

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/edition"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/gateway"
	"penstock/cmd/internal/health"
	"penstock/cmd/internal/report"
	"penstock/policy"
	"penstock/router"
	"penstock/router/transport/wireguard"
)

// Config is what Open needs. All fields must be set; Gateway may be nil.
type Config struct {
	Live     *edition.Live
	Router   *router.Router
	Gateway  *gateway.Gateway
	Process  *report.Process
	Changing sync.Locker // held while an edition is replaced
	// Reload and Use are those of fleet.Config.
	Reload   func(context.Context) error
	Use      func(ctx context.Context, dir string, generation uint64, accept func() error) error
	Listen   net.ListenConfig
	Version  string
	Registry prometheus.Registerer
	Log      *slog.Logger
}

// Fleet is this gateway's part of a fleet. Without fleet in the configuration it does nothing.
type Fleet struct {
	node    *fleet.Node // nil without a fleet
	closing func()
	settled sync.Once
}

// Open opens the store of the fleet, if there is one, and returns without a connection to it.
func Open(ctx context.Context, c Config) (*Fleet, error) {
	cfg := c.Live.Config()
	f := &Fleet{closing: func() {}}
	if cfg.Fleet == nil || c.Gateway == nil {
		return f, nil
	}
	// The store outlives ctx, so that the last word of this gateway is that it leaves.
	s, closing, err := fleet.OpenStore(context.WithoutCancel(ctx), cfg.Fleet.Store, c.Log)
	if err != nil {
		return nil, cfg.Err("fleet.store", "", err.Error())
	}
	f.closing = closing
	f.node, err = fleet.New(ctx, fleet.Config{
		Live: c.Live.Config, Store: s, Gateway: &port{c}, Grace: health.Every + 2*time.Second, Reload: c.Reload, Use: c.Use, Listen: c.Listen, Version: c.Version, Registry: c.Registry, Log: c.Log,
	})
	if err != nil {
		closing()
		return nil, config.Refused(cfg, "fleet.endpoint", "choose an address of this machine and a free port", err)
	}
	return f, nil
}

// Run is a gateway of the fleet until ctx ends. It returns nil.
func (f *Fleet) Run(ctx context.Context) error { return f.node.Run(ctx) }

// Close closes the store. It returns nil.
func (f *Fleet) Close() error {
	f.closing()
	return nil
}

// Status returns how the fleet looks from here, or nil without one.
func (f *Fleet) Status() *control.Fleet { return f.node.Status() }

// Elsewhere returns a function that reports whether a peer has a session with another gateway by now. The first call waits up to 2 s for
// the store to tell.
func (f *Fleet) Elsewhere() func(peer wireguard.PublicKey) bool {
	if f.node == nil {
		return func(wireguard.PublicKey) bool { return false }
	}
	f.settled.Do(f.node.Settle)
	return f.node.Elsewhere()
}

// Join is that of fleet.Node. It is for a gateway of a fleet only.
func (f *Fleet) Join(ctx context.Context, invitation bundle.PrivateKey, peer wireguard.PublicKey) error {
	return f.node.Join(ctx, invitation, peer)
}

// port implements fleet.Gateway.
type port struct{ Config }

// Peers returns the peers that have called. A site may have a hundred times as many.
func (p *port) Peers() []wireguard.PeerStatus { return p.Gateway.Callers() }

func (p *port) Call(ctx context.Context, former []wireguard.PeerStatus) error {
	return p.Gateway.Call(ctx, former)
}

func (p *port) Fit() error { return p.Process.Fit() }

func (p *port) Draining() bool { return p.Process.Draining() }

// Forget ends the sessions and the flows of peers.
func (p *port) Forget(peers []wireguard.PublicKey, silent bool) error {
	p.Changing.Lock()
	defer p.Changing.Unlock()
	now := p.Live.Now()
	clients := make(map[uint64]bool)
	var keys []uint64
	for _, peer := range peers {
		if key, ok := now.Clients.Identified(peer.String()); ok {
			clients[key] = true
			keys = append(keys, key)
		}
	}
	p.Router.Kill(func(f router.Flow) bool {
		to, _ := now.Clients.Peer(f.Facts.Dst.Addr())
		return clients[f.Facts.Client] || f.Egress == policy.EgressPeers && clients[to]
	})
	return p.Gateway.Forget(now.Gateway, peers, keys, silent)
}

// Idle returns those peers that have no flows.
func (p *port) Idle(peers []wireguard.PublicKey) []wireguard.PublicKey {
	now, busy := p.Live.Now(), make(map[uint64]bool)
	for _, f := range p.Router.Flows() {
		busy[f.Facts.Client] = true
	}
	var idle []wireguard.PublicKey
	for _, peer := range peers {
		if key, ok := now.Clients.Identified(peer.String()); !ok || !busy[key] {
			idle = append(idle, peer)
		}
	}
	return idle
}
