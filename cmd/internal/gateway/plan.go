package gateway

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/lookup"
	"penstock/router/transport/wireguard"
)

// Plan is the key and the peers of the gateway's port, from a configuration. It is immutable.
type Plan struct {
	listen *config.WireGuardListen
	key    wireguard.PrivateKey
	peers  planPeers // that may connect; all, if all may
	all    planPeers // that are not disabled
	guests []int32   // entries of those that are not disabled, have no key, and so only come by proxy
}

// planPeers are some peers of a configuration that have keys, as WireGuard wants them. They are made anew whenever they are asked for:
// of 100,000 peers next to none is connected.
type planPeers struct {
	cfg    *config.Config
	of     []int32                          // their entries in cfg.Peers
	shared map[int32]wireguard.PresharedKey // by entry; of those that have one
}

// Len returns how many there are.
func (p planPeers) Len() int { return len(p.of) }

// At returns the i-th.
func (p planPeers) At(i int) wireguard.Peer {
	entry := p.of[i]
	c := p.cfg.Peers.At(int(entry))
	key, _ := wireguard.ParsePublicKey(c.PublicKey) // NewPlan has checked it
	return wireguard.Peer{
		Name: c.Name, PublicKey: key, PresharedKey: p.shared[entry], AllowedIPs: c.AllowedIPs, PersistentKeepalive: c.PersistentKeepalive,
	}
}

// NewPlan reads keys and peers, and opens nothing. The peers are those that may connect at the time now. NewPlan returns nil
// without listen.wireguard. The error joins one for each fault, with its position.
func NewPlan(cfg *config.Config, now time.Time) (*Plan, error) {
	listen := cfg.Listen.WireGuard
	if listen == nil {
		return nil, nil
	}
	p := &Plan{listen: listen, all: planPeers{cfg: cfg, of: make([]int32, 0, cfg.Peers.Len()), shared: make(map[int32]wireguard.PresharedKey)}}
	text, err := listen.PrivateKey.Read()
	if err == nil {
		p.key, err = wireguard.ParsePrivateKey(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: listen.wireguard.private_key: %w", listen.Pos, err)
	}
	own, list := p.key.Public(), make(wireguard.List, 0, cfg.Peers.Len())
	faults := make(map[int32]error) // by entry
	for i, c := range cfg.Peers.All() {
		if c.Disabled {
			continue
		}
		if !c.HasTunnel() {
			p.guests = append(p.guests, int32(i))
			continue
		}
		peer, err := newPeer(&c)
		if err == nil && peer.PublicKey == own {
			err = errors.New("public_key is the gateway's own: set the peer's")
		}
		if err != nil {
			faults[int32(i)] = fmt.Errorf("%s: peer %s: %w", c.Pos, c.Name, err)
			continue
		}
		if peer.PresharedKey != (wireguard.PresharedKey{}) {
			p.all.shared[int32(i)] = peer.PresharedKey
		}
		list, p.all.of = append(list, peer), append(p.all.of, int32(i))
	}
	// Package config has checked that no two peers share a key or an address.
	if wireguard.CheckPeers(list, own) != nil {
		for i := range list {
			if err := wireguard.CheckPeers(list[i:i+1], own); err != nil {
				faults[p.all.of[i]] = fmt.Errorf("%s: %w", cfg.Peers.At(int(p.all.of[i])).Pos, err)
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
	q.peers, q.all, q.guests = planPeers{}, planPeers{}, nil
	if next != nil {
		q.peers, q.all, q.guests = next.peers, next.all, next.guests
	}
	return &q
}

// At returns the plan with the peers that may connect at a time.
func (p *Plan) At(now time.Time) *Plan {
	q := *p
	may := func(i int32) bool { return p.all.cfg.Peers.At(int(i)).State(now) == "" }
	if q.peers = p.all; !slices.ContainsFunc(p.all.of, func(i int32) bool { return !may(i) }) {
		return &q
	}
	q.peers.of = nil
	for _, i := range p.all.of {
		if may(i) {
			q.peers.of = append(q.peers.of, i)
		}
	}
	return &q
}

// within returns the peers that are also in next, each with the addresses that it has in both plans.
func (p *Plan) within(next *Plan) wireguard.List {
	index := lookup.New(next.peers.Len(), func(i int) wireguard.PublicKey { return next.peers.At(i).PublicKey })
	both := make(wireguard.List, 0, min(p.peers.Len(), next.peers.Len()))
	for n := range p.peers.Len() {
		peer := p.peers.At(n)
		i, stays := index.Find(peer.PublicKey)
		if !stays {
			continue
		}
		if has := next.peers.At(i).AllowedIPs; !slices.Equal(peer.AllowedIPs, has) {
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
