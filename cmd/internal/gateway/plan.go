package gateway

import (
	"errors"
	"fmt"
	"maps"
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
	cfg    *config.Config   // that the peers are from
	all    []wireguard.Peer // that are not disabled
	of     []int32          // their entries in cfg.Peers
	guests []int32          // entries of those that are not disabled, have no key, and so only come by proxy
	peers  []wireguard.Peer // that may connect; all, if all may
}

// NewPlan reads keys and peers, and opens nothing. The peers are those that may connect at the time now. NewPlan returns nil
// without listen.wireguard. The error joins one for each fault, with its position.
func NewPlan(cfg *config.Config, now time.Time) (*Plan, error) {
	listen := cfg.Listen.WireGuard
	if listen == nil {
		return nil, nil
	}
	p := &Plan{listen: listen, cfg: cfg}
	text, err := listen.PrivateKey.Read()
	if err == nil {
		p.key, err = wireguard.ParsePrivateKey(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: listen.wireguard.private_key: %w", listen.Pos, err)
	}
	own := p.key.Public()
	p.all, p.of = make([]wireguard.Peer, 0, len(cfg.Peers)), make([]int32, 0, len(cfg.Peers))
	faults := make(map[int32]error) // by entry
	for i := range cfg.Peers {
		c := &cfg.Peers[i]
		if c.Disabled {
			continue
		}
		if !c.HasTunnel() {
			p.guests = append(p.guests, int32(i))
			continue
		}
		peer, err := newPeer(c)
		if err == nil && peer.PublicKey == own {
			err = errors.New("public_key is the gateway's own: set the peer's")
		}
		if err != nil {
			faults[int32(i)] = fmt.Errorf("%s: peer %s: %w", c.Pos, c.Name, err)
			continue
		}
		p.all, p.of = append(p.all, peer), append(p.of, int32(i))
	}
	// Package config has checked that no two peers share a key or an address.
	if wireguard.CheckPeers(p.all, own) != nil {
		for i := range p.all {
			if err := wireguard.CheckPeers(p.all[i:i+1], own); err != nil {
				faults[p.of[i]] = fmt.Errorf("%s: %w", cfg.Peers[p.of[i]].Pos, err)
			}
		}
	}
	if len(faults) > 0 {
		var errs []error
		for _, i := range slices.Sorted(maps.Keys(faults)) {
			errs = append(errs, faults[i])
		}
		return nil, errors.Join(errs...)
	}
	return p.At(now), nil
}

// WithPeersOf returns the plan with the peers of next, or with none if next is nil.
func (p *Plan) WithPeersOf(next *Plan) *Plan {
	q := *p
	q.all, q.of, q.guests, q.peers = nil, nil, nil, nil
	if next != nil {
		q.cfg, q.all, q.of, q.guests, q.peers = next.cfg, next.all, next.of, next.guests, next.peers
	}
	return &q
}

// At returns the plan with the peers that may connect at a time.
func (p *Plan) At(now time.Time) *Plan {
	q := *p
	may := func(i int32) bool { return p.cfg.Peers[i].State(now) == "" }
	if q.peers = p.all; !slices.ContainsFunc(p.of, func(i int32) bool { return !may(i) }) {
		return &q
	}
	q.peers = nil
	for n, i := range p.of {
		if may(i) {
			q.peers = append(q.peers, p.all[n])
		}
	}
	return &q
}

// within returns the peers that are also in next, each with the addresses that it has in both plans.
func (p *Plan) within(next *Plan) []wireguard.Peer {
	index := make(map[wireguard.PublicKey]int32, len(next.peers))
	for i := range next.peers {
		index[next.peers[i].PublicKey] = int32(i)
	}
	both := make([]wireguard.Peer, 0, min(len(p.peers), len(next.peers)))
	for _, peer := range p.peers {
		i, stays := index[peer.PublicKey]
		if !stays {
			continue
		}
		if has := next.peers[i].AllowedIPs; !slices.Equal(peer.AllowedIPs, has) {
			peer.AllowedIPs = slices.DeleteFunc(slices.Clone(peer.AllowedIPs), func(a netip.Prefix) bool { return !slices.Contains(has, a) })
		}
		both = append(both, peer)
	}
	return both
}

func newPeer(c *config.Peer) (p wireguard.Peer, err error) {
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
