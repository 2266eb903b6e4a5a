package config

import (
	"cmp"
	"crypto/ecdh"
	"encoding/base64"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gaissmai/bart"

	"penstock/cmd/internal/fleet/bundle"
)

// peers checks each peer, and that no two have the same name, key or address. Of two that have, the one whose file is in force
// already keeps them.
func (k listenChecker) peers() {
	if k.Peers.Len() > 0 && k.Listen.WireGuard == nil && k.Listen.Proxy == nil {
		k.fault("peers", "add listen: {wireguard: ...}", "peers have nothing to connect to")
	}
	n := k.Peers.Len()
	order := make([]int, n)
	for i := range order {
		order[i] = i
	}
	if len(k.standing) > 0 {
		slices.SortStableFunc(order, func(a, b int) int {
			return cmp.Compare(k.standing[k.Peers.At(a).Pos.File], k.standing[k.Peers.At(b).Pos.File])
		})
	}
	k.invited = make(map[bundle.PublicKey]int)
	taken := claims{own: k.ownPublicKey(), inDNS: k.DNS.Peers != "", names: make(map[string]int, n), keys: make(map[string]int, n), single: make(map[netip.Addr]int, n)}
	for _, i := range order {
		k.peer(i, taken.own)
		k.clashes(i, taken.add(i, k.Peers.At(i)))
	}
}

// peer checks what can be said of a peer without the others.
func (k listenChecker) peer(i int, gateway string) {
	p, path := k.Peers.At(i), "peers["+strconv.Itoa(i)+"]" // what is below path is only joined where there is something to check
	if faultOfName(p.Name) != "" {
		k.name(path+".name", "peer", p.Name)
	}
	if k.DNS.Peers != "" && strings.EqualFold(p.Name, GatewayName) {
		k.fault(path+".name", "choose another name", "the gateway itself is %s.%s: see dns.peers, at %s", GatewayName, k.DNS.Peers, k.Position("dns.peers"))
	}
	if !p.ProxyPassword.IsZero() {
		k.password(path+".proxy_password", p)
	}
	if p.Invite != nil {
		k.invite(i)
	}
	switch {
	case p.IsInvited():
	case p.PublicKey == "" && (!p.ProxyPassword.IsZero() || k.DNS.Serve != nil):
		k.withoutKey(path, p)
	case p.PublicKey == "":
		k.fault(path, "write what penstock pubkey prints as public_key; only with dns.serve a peer needs neither", "peer %s has neither a public_key nor a proxy_password", p.Name)
	case p.PublicKey == noKey:
		k.fault(path+".public_key", "write what penstock pubkey prints", "the public key of peer %s is zero, which is nobody's", p.Name)
	case !isWireGuardKey(p.PublicKey):
		k.fault(path+".public_key", "write what penstock pubkey prints", "the public key of peer %s is not 32 bytes in base64", p.Name)
	case p.PublicKey == gateway:
		k.fault(path+".public_key", "write what penstock pubkey prints for the peer's own key", "the public key of peer %s is the gateway's, whose key is at %s",
			p.Name, k.Position("listen.wireguard.private_key"))
	}
	if !p.PresharedKey.IsZero() {
		k.secret(path+".preshared_key", p.PresharedKey, true)
	}
	for j, group := range p.Groups {
		if faultOfName(group) != "" {
			k.name(fmt.Sprintf("%s.groups[%d]", path, j), "group", group)
		}
	}
	if wait := p.PersistentKeepalive; wait%time.Second != 0 || wait > 65535*time.Second { // it has 16 bits
		k.fault(path+".persistent_keepalive", "write whole seconds from 0s to 65535s", "persistent_keepalive of peer %s is %v", p.Name, wait)
	}
	if p.DNSRenewals < 0 {
		k.fault(path+".dns_renewals", "write 0 or more", "dns_renewals of peer %s is %d", p.Name, p.DNSRenewals)
	}
	if len(p.AllowedIPs) == 0 && (p.HasTunnel() || p.Invite != nil) {
		k.fault(path+".allowed_ips", "give the peer an address", "peer %s has no addresses", p.Name)
	}
	for j, prefix := range p.AllowedIPs {
		at := func() string { return fmt.Sprintf("%s.allowed_ips[%d]", path, j) }
		if prefix.Addr().Is4In6() {
			k.fault(at(), "write it as IPv4", "%s of peer %s is IPv4 within IPv6", prefix, p.Name)
		}
		if k.Listen.WireGuard == nil {
			continue
		}
		for _, own := range k.Listen.WireGuard.Address {
			if prefix.Contains(own.Addr()) {
				k.fault(at(), "choose another address", "%s of peer %s contains the gateway's own address %s", prefix, p.Name, own.Addr())
			}
		}
	}
}

// GatewayName is the name of the gateway itself in dns.peers.
const GatewayName = "gateway"

// HasTunnel reports whether the peer connects to listen.wireguard, and not only to the proxy, or with a token.
func (p Peer) HasTunnel() bool { return p.PublicKey != "" }

// ID identifies the peer as a client: with another key it is another one.
func (p Peer) ID() string {
	if p.HasTunnel() {
		return p.PublicKey
	}
	return "name " + p.Name // has a space, which no key has
}

// password checks that a password fits into the log-in of SOCKS5 (RFC 1929), and is not too easy to guess.
func (k listenChecker) password(path string, p Peer) {
	before := len(k.faults)
	k.secret(path, p.ProxyPassword, false)
	if p.ProxyPassword.IsZero() || len(k.faults) > before {
		return
	}
	if text, err := p.ProxyPassword.Read(); err != nil || len(text) < minPassword || len(text) > maxPassword {
		k.fault(path, fmt.Sprintf("choose one with %d to %d", minPassword, maxPassword), "the proxy_password of peer %s has %d bytes", p.Name, len(text))
	}
}

// The lengths of a proxy_password, bytes.
const minPassword, maxPassword = 8, 255

// withoutKey checks a peer that has no key.
func (k listenChecker) withoutKey(path string, p Peer) {
	for _, of := range []struct {
		key   string
		given bool
	}{{"allowed_ips", len(p.AllowedIPs) > 0}, {"preshared_key", !p.PresharedKey.IsZero()}, {"persistent_keepalive", p.PersistentKeepalive != 0}} {
		if of.given {
			k.fault(path+"."+of.key, "add public_key, or remove it", "%s of peer %s belongs to a public_key, and there is none", of.key, p.Name)
		}
	}
}

// proxyWarnings warns of passwords that nobody asks for, or that others can read on their way.
func proxyWarnings(c *Config) (list []string) {
	p := c.Listen.Proxy
	if p == nil {
		for _, peer := range c.Peers.All() {
			if !peer.ProxyPassword.IsZero() {
				list = append(list, fmt.Sprintf("%s: peer %s has a proxy_password, and there is no listen.proxy to use it on", peer.Pos, peer.Name))
			}
		}
	} else if !p.Address.Addr().IsLoopback() {
		list = append(list, fmt.Sprintf("%s: names and passwords cross the network of %s in clear: let only a network that you trust reach it",
			c.Position("listen.proxy.address"), p.Address))
	}
	return list
}

// noKey is 32 zero bytes.
const noKey = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

// ownPublicKey returns the gateway's public key, or "" if its private key cannot be read, which is a fault of its own.
func (k listenChecker) ownPublicKey() string {
	if k.Listen.WireGuard == nil {
		return ""
	}
	text, err := k.Listen.WireGuard.PrivateKey.Read()
	if err != nil {
		return ""
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return ""
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return ""
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes())
}

// clashes notes one fault for each other peer that has something that a peer wants too. WireGuard would silently give an
// address to the last one.
func (k listenChecker) clashes(i int, found map[int][]clash) {
	for _, other := range slices.Sorted(maps.Keys(found)) {
		var shared []string
		for _, c := range found[other] {
			shared = append(shared, c.what)
		}
		k.fault(fmt.Sprintf("peers[%d].%s", i, found[other][0].field), "give every peer its own", "peer %s has the %s of peer %s, at %s",
			k.Peers.At(i).Name, strings.Join(shared, " and the "), k.Peers.At(other).Name, k.Peers.At(other).Pos)
	}
}

// claims are what peers have that no two may share, each with the index of its peer.
type claims struct {
	own         string // public key of the gateway, which is a fault of its own
	inDNS       bool   // names are those of hosts, too, where capitals make no difference
	names, keys map[string]int
	single      map[netip.Addr]int
	networks    []claim   // of more than one address
	all         bart.Lite // single and networks: says quickly that nothing overlaps
}

type claim struct {
	netip.Prefix
	peer int
}

// clash is one thing that two peers have.
type clash struct{ field, what string }

// add adds what a peer has, and returns what others have of it.
func (c *claims) add(i int, p Peer) map[int][]clash {
	var found map[int][]clash
	clashes := func(other int, c clash) {
		if found == nil {
			found = make(map[int][]clash)
		}
		found[other] = append(found[other], c)
	}
	name := p.Name
	if c.inDNS {
		name = strings.ToLower(name)
	}
	if other, taken := c.names[name]; taken {
		clashes(other, clash{"name", "name"})
	} else {
		c.names[name] = i
	}
	if other, taken := c.keys[p.PublicKey]; taken && p.PublicKey != c.own && isWireGuardKey(p.PublicKey) {
		clashes(other, clash{"public_key", "public key"})
	} else {
		c.keys[p.PublicKey] = i
	}
	for j, prefix := range p.AllowedIPs {
		for _, other := range c.overlaps(prefix) {
			if other.peer == i {
				continue
			}
			small, large := prefix, other.Prefix
			if small.Bits() < large.Bits() {
				small, large = large, small
			}
			what := "address " + small.String()
			if small != large {
				what += fmt.Sprintf(" (in %s)", large)
			}
			clashes(other.peer, clash{fmt.Sprintf("allowed_ips[%d]", j), what})
		}
	}
	for _, prefix := range p.AllowedIPs {
		if prefix.IsSingleIP() {
			c.single[prefix.Addr()] = i
		} else {
			c.networks = append(c.networks, claim{prefix, i})
		}
		c.all.Insert(prefix.Masked())
	}
	return found
}

// overlaps returns the claims that have an address of a prefix, by peer and address.
func (c *claims) overlaps(prefix netip.Prefix) []claim {
	if !prefix.IsValid() || !c.all.OverlapsPrefix(prefix.Masked()) {
		return nil
	}
	var list []claim
	if prefix.IsSingleIP() {
		if peer, taken := c.single[prefix.Addr()]; taken {
			list = append(list, claim{prefix, peer})
		}
	} else {
		for addr, peer := range c.single {
			if prefix.Contains(addr) {
				list = append(list, claim{netip.PrefixFrom(addr, addr.BitLen()), peer})
			}
		}
	}
	for _, other := range c.networks {
		if prefix.Overlaps(other.Prefix) {
			list = append(list, other)
		}
	}
	slices.SortFunc(list, func(a, b claim) int { return cmp.Or(cmp.Compare(a.peer, b.peer), a.Compare(b.Prefix)) })
	return list
}

// State returns disabled or expired for a peer that may not connect at a time, and otherwise "".
func (p Peer) State(now time.Time) string {
	switch {
	case p.Disabled:
		return "disabled"
	case !p.Expires.IsZero() && !now.Before(p.Expires):
		return "expired"
	case p.IsInvited():
		return "invited"
	}
	return ""
}
