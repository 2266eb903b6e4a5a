package wireguard

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// noPeer is the peer of a problem with the interface itself.
const noPeer = -1

// mostEndpoints of a peer are called within the time after which it is given up, see transport.Timing.
const mostEndpoints = 16

// problem is a reason why a Config cannot be used: where it is, what it is, and how to fix it.
type problem struct {
	peer  int    // index into Peers, or noPeer
	field string // as files write it
	text  string
	mend  string
}

// Check returns why a client cannot use c, or nil. The error joins a sentence for each reason.
func (c *Config) Check() error {
	var errs []error
	for _, p := range c.problems() {
		errs = append(errs, fmt.Errorf("%s: %s", p.text, p.mend))
	}
	return errors.Join(errs...)
}

// problems returns every reason why a client cannot use c.
func (c *Config) problems() []problem {
	var found []problem
	add := func(peer int, field, mend, format string, args ...any) {
		found = append(found, problem{peer, field, fmt.Sprintf(format, args...), mend})
	}
	if c.PrivateKey.IsZero() {
		add(noPeer, "PrivateKey", "add the line PrivateKey = KEY with the private key of this machine", "PrivateKey is missing")
	}
	if len(c.Addresses) == 0 {
		add(noPeer, "Address", "add the line Address = PREFIX with the address that the peer gave this machine", "Address is missing")
	}
	if len(c.Peers) == 0 {
		add(noPeer, "Peer", "add a [Peer] section with the server's PublicKey, AllowedIPs and Endpoint", "there is no [Peer]")
		return found
	}
	if !slices.ContainsFunc(c.Peers, func(p Peer) bool { return len(p.Endpoints) > 0 }) {
		add(0, "Endpoint", "add the line Endpoint = HOST:PORT to the [Peer] that is the server", "no peer has an Endpoint, so there is nothing to connect to")
	}
	if !slices.ContainsFunc(c.Peers, func(p Peer) bool { return len(p.AllowedIPs) > 0 }) {
		add(0, "AllowedIPs", "write what the tunnel is for: AllowedIPs = 0.0.0.0/0, ::/0 for everything, or networks such as 10.0.0.0/8",
			"no peer has AllowedIPs, so nothing would go through the tunnel")
	}
	self := PublicKey{}
	if !c.PrivateKey.IsZero() {
		self = c.PrivateKey.Public()
	}
	keys := make(map[PublicKey]int)
	prefixes := make(map[netip.Prefix]int)
	for i, p := range c.Peers {
		if text := p.keyProblem(self); text != "" {
			add(i, "PublicKey", "write the public key of the other side: wg pubkey prints it there", "%s", text)
			continue
		}
		if first, ok := keys[p.PublicKey]; ok {
			add(i, "PublicKey", "put all AllowedIPs of a peer into one section", "peer %d has the same PublicKey as peer %d", i+1, first+1)
			continue
		}
		keys[p.PublicKey] = i
		if len(p.Endpoints) > mostEndpoints {
			add(i, "Endpoint", fmt.Sprintf("keep the %d that are nearest", mostEndpoints), "peer %d has %d endpoints", i+1, len(p.Endpoints))
		}
		if !validKeepalive(p.PersistentKeepalive) {
			add(i, "PersistentKeepalive", "write whole seconds from 0 to 65535", "PersistentKeepalive %v is out of range", p.PersistentKeepalive)
		}
		for _, prefix := range p.AllowedIPs {
			if !validPrefix(prefix) {
				add(i, "AllowedIPs", "write a prefix such as 10.0.0.0/8", "AllowedIPs of peer %d contain %s, which is not a prefix", i+1, prefix)
				continue
			}
			first, ok := prefixes[prefix.Masked()]
			if ok && first != i {
				add(i, "AllowedIPs", "keep it with the one peer that should carry it", "peers %d and %d both have %s in their AllowedIPs", first+1, i+1, prefix)
			}
			prefixes[prefix.Masked()] = i
		}
	}
	return found
}

// keyProblem returns what is wrong with the key of p, or "". self is the public key of this machine.
func (p Peer) keyProblem(self PublicKey) string {
	switch p.PublicKey {
	case PublicKey{}:
		return "PublicKey is missing"
	case self:
		return "PublicKey is this machine's own"
	}
	return ""
}

func validKeepalive(d time.Duration) bool {
	const longest = 65535 * time.Second // 16 bits: uapi, persistent_keepalive_interval
	return 0 <= d && d <= longest && d%time.Second == 0
}

// validPrefix reports whether the device can route by prefix. It would treat an IPv4-mapped IPv6 address as IPv6.
func validPrefix(prefix netip.Prefix) bool {
	return prefix.IsValid() && !prefix.Addr().Is4In6()
}

// CheckPeers returns why a server with the public key self cannot have these peers, or nil. The error joins a sentence
// for each reason.
func CheckPeers(peers []Peer, self PublicKey) error {
	var errs []error
	keys := make(map[PublicKey]int32, len(peers))
	for i, p := range peers {
		if text := p.keyProblem(self); text != "" {
			errs = append(errs, fmt.Errorf("peer %q: %s", p.Name, text))
			continue
		}
		if first, ok := keys[p.PublicKey]; ok {
			errs = append(errs, fmt.Errorf("peers %s and %s have the same public key: give each its own", peers[first].label(), p.label()))
		}
		keys[p.PublicKey] = int32(i)
		if !validKeepalive(p.PersistentKeepalive) {
			errs = append(errs, fmt.Errorf("peer %s: keepalive %v: want whole seconds from 0 to 65535 s", p.label(), p.PersistentKeepalive))
		}
		for _, prefix := range p.AllowedIPs {
			if !validPrefix(prefix) {
				errs = append(errs, fmt.Errorf("peer %s: allowed IPs contain %s, which is not a prefix", p.label(), prefix))
			}
		}
	}
	return errors.Join(append(errs, overlaps(peers)...)...)
}

// overlaps returns an error for every prefix of one peer that lies in a prefix of another. The device routes to the
// longer prefix, so one peer would receive what is meant for the other.
func overlaps(peers []Peer) []error {
	type owned struct {
		netip.Prefix
		peer int
	}
	var all []owned
	for i, p := range peers {
		for _, prefix := range p.AllowedIPs {
			if validPrefix(prefix) {
				all = append(all, owned{prefix.Masked(), i})
			}
		}
	}
	slices.SortFunc(all, func(a, b owned) int { return a.Compare(b.Prefix) })

	// Two prefixes are nested or disjoint, so in this order those that contain the current one form a stack.
	var errs []error
	var around []owned
	for _, cur := range all {
		for len(around) > 0 && !around[len(around)-1].Overlaps(cur.Prefix) {
			around = around[:len(around)-1]
		}
		if len(around) > 0 {
			outer := around[len(around)-1]
			if outer.peer != cur.peer {
				errs = append(errs, fmt.Errorf("peers %s and %s overlap in %s and %s: give each peer addresses of its own",
					peers[outer.peer].label(), peers[cur.peer].label(), outer.Prefix, cur.Prefix))
			}
		}
		around = append(around, cur)
	}
	return errs
}
