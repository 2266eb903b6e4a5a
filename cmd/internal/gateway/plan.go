package gateway

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/transport/wireguard"
)

// Plan is the key and the peers of the gateway's port, from a configuration. It is immutable.
type Plan struct {
	listen *config.WireGuardListen
	key    wireguard.PrivateKey
	all    []member         // that are not disabled
	guests []member         // that are not disabled, have no key, and so only come by proxy
	peers  []wireguard.Peer // that may connect
}

// member is a peer and its entry in the configuration.
type member struct {
	wireguard.Peer
	entry  config.Peer
	limits config.PeerLimits
}

// NewPlan reads keys and peers, and opens nothing. The peers are those that may connect at the time now. NewPlan returns nil
// without listen.wireguard. The error joins one for each fault, with its position.
func NewPlan(cfg *config.Config, now time.Time) (*Plan, error) {
	listen := cfg.Listen.WireGuard
	if listen == nil {
		return nil, nil
	}
	p := &Plan{listen: listen}
	text, err := listen.PrivateKey.Read()
	if err == nil {
		p.key, err = wireguard.ParsePrivateKey(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: listen.wireguard.private_key: %w", listen.Pos, err)
	}
	var errs []error
	for _, c := range cfg.Peers {
		if c.Disabled {
			continue
		}
		if !c.HasTunnel() {
			p.guests = append(p.guests, member{entry: c, limits: config.LimitsOf(cfg, c)})
			continue
		}
		peer, err := newPeer(c)
		if err == nil && peer.PublicKey == p.key.Public() {
			err = errors.New("public_key is the gateway's own: set the peer's")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: peer %s: %w", c.Pos, c.Name, err))
			continue
		}
		// Package config has checked that no two peers share a key or an address.
		if err := wireguard.CheckPeers([]wireguard.Peer{peer}, p.key.Public()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.Pos, err))
		}
		p.all = append(p.all, member{peer, c, config.LimitsOf(cfg, c)})
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p.At(now), nil
}

// WithPeersOf returns the plan with the peers of next, or with none if next is nil.
func (p *Plan) WithPeersOf(next *Plan) *Plan {
	q := *p
	q.all, q.guests, q.peers = nil, nil, nil
	if next != nil {
		q.all, q.guests, q.peers = next.all, next.guests, next.peers
	}
	return &q
}

// At returns the plan with the peers that may connect at a time.
func (p *Plan) At(now time.Time) *Plan {
	q := *p
	q.peers = nil
	for _, m := range p.all {
		if m.entry.State(now) == "" {
			q.peers = append(q.peers, m.Peer)
		}
	}
	return &q
}

// within returns the peers that are also in next, each with the addresses that it has in both plans.
func (p *Plan) within(next *Plan) []wireguard.Peer {
	var both []wireguard.Peer
	for _, peer := range p.peers {
		i := slices.IndexFunc(next.peers, func(other wireguard.Peer) bool { return other.PublicKey == peer.PublicKey })
		if i < 0 {
			continue
		}
		stays := func(a netip.Prefix) bool { return slices.Contains(next.peers[i].AllowedIPs, a) }
		peer.AllowedIPs = slices.DeleteFunc(slices.Clone(peer.AllowedIPs), func(a netip.Prefix) bool { return !stays(a) })
		both = append(both, peer)
	}
	return both
}

func newPeer(c config.Peer) (p wireguard.Peer, err error) {
	p = wireguard.Peer{Name: c.Name, AllowedIPs: c.AllowedIPs, PersistentKeepalive: c.PersistentKeepalive}
	if p.PublicKey, err = wireguard.ParsePublicKey(c.PublicKey); err != nil {
		return p, fmt.Errorf("public_key: %w", err)
	}
	shared, err := c.PresharedKey.Read()
	if err == nil && shared != "" {
		p.PresharedKey, err = wireguard.ParsePresharedKey(shared)
	}
	if err != nil {
		return p, fmt.Errorf("preshared_key: %w", err)
	}
	return p, nil
}
