package wireguard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// ServerInfo is what a client's file says about its server.
type ServerInfo struct {
	Endpoints     []Endpoint // where the client calls it; other programs than penstock call the first
	PublicKey     PublicKey
	AllowedIPs    []netip.Prefix // what the client sends through the tunnel; nil: everything
	DNS           []netip.Addr   // resolvers that the client asks through the tunnel
	SearchDomains []string
	MTU           int           // bytes, IP header included; 0: the client decides
	Keepalive     time.Duration // 0: 25 s, which outlasts the UDP timeout of common access routers
}

// defaultKeepalive keeps the NAT mapping of an access router alive. wg(8) recommends 25 s.
const defaultKeepalive = 25 * time.Second

// ClientFile returns the file of the client that owns key and is the given peer of the server. The client's addresses are
// the single addresses among the peer's AllowedIPs; longer networks are behind the client.
func ClientFile(server ServerInfo, key PrivateKey, peer Peer) *Config {
	allowed := server.AllowedIPs
	if allowed == nil {
		allowed = []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	return &Config{
		PrivateKey:    key,
		Addresses:     slices.DeleteFunc(slices.Clone(peer.AllowedIPs), func(p netip.Prefix) bool { return !p.IsSingleIP() }),
		DNS:           server.DNS,
		SearchDomains: server.SearchDomains,
		MTU:           server.MTU,
		Peers: []Peer{{
			PublicKey:           server.PublicKey,
			PresharedKey:        peer.PresharedKey,
			AllowedIPs:          allowed,
			Endpoints:           server.Endpoints,
			PersistentKeepalive: cmp.Or(server.Keepalive, defaultKeepalive),
		}},
	}
}

// Portable returns c as all programs read it: each peer has its first endpoint alone. Of several lines, wg(8) and the Android app
// take the last, and the apps for iPhone and macOS refuse the file (2026-11).
func (c *Config) Portable() *Config {
	one := *c
	one.Peers = slices.Clone(c.Peers)
	for i, p := range one.Peers {
		one.Peers[i].Endpoints = p.Endpoints[:min(len(p.Endpoints), 1)]
	}
	return &one
}
