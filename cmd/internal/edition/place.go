package edition

import (
	"net/netip"
	"slices"

	"penstock/policy"
	"penstock/policy/iprange"
	"penstock/router/clients"
)

// Place returns policy.Service for an address on which penstock answers, policy.AtPeer for one that belongs to a peer, and
// policy.Inside for any other in penstock's own networks.
func (e *Edition) Place(dst netip.Addr) policy.Place {
	t, w := e.Config.Listen.TUN, e.Config.Listen.WireGuard
	isOwn := func(p netip.Prefix) bool { return p.Addr() == dst }
	holds := func(p netip.Prefix) bool { return p.Contains(dst) }
	if t != nil && t.Serves(dst) || w != nil && slices.ContainsFunc(w.Address, isOwn) {
		return policy.Service
	}
	if _, isPeer := e.Clients.Peer(dst); isPeer {
		return policy.AtPeer
	}
	if t != nil && slices.ContainsFunc(t.Address, holds) || w != nil && slices.ContainsFunc(w.Address, holds) {
		return policy.Inside
	}
	return policy.Elsewhere
}

// PlaceFor returns where a destination of a client's is, seen from this host. own reports whether an address is one of the
// host's. Only other clients can name our own addresses: what this machine sends to itself never comes out of the TUN.
func (e *Edition) PlaceFor(client uint64, dst netip.Addr, own func(netip.Addr) bool) policy.Place {
	place := e.Place(dst)
	if v4, ok := iprange.Embedded(dst); ok && place == policy.Elsewhere { // a translator on the way may bring it back to us
		place = e.PlaceFor(client, v4, own)
	}
	switch {
	case !dst.IsValid(), place != policy.Elsewhere:
		return place
	case iprange.IsReserved(dst):
		return policy.Reserved
	case client != clients.Machine && own(dst):
		return policy.Host
	}
	return policy.Elsewhere
}

// Questions judges DNS questions, and the addresses in answers, by the current edition. It implements dnsproxy.Policy.
type Questions struct {
	*Live
	Own func(netip.Addr) bool // reports whether an address is one of the host's
}

// DecideName judges a name, or an address in the answer for it. A peer knows its own addresses, and those at which it asks: they
// are no reason to hide a name from it.
func (q Questions) DecideName(f policy.Flow) policy.Verdict {
	if dst := f.Dst.Addr(); dst.IsValid() {
		f.Place = q.Now().PlaceFor(f.Client, dst, q.Own)
		key, isPeer := q.Now().Clients.Peer(dst)
		if f.Place == policy.Service || isPeer && key == f.Client {
			f.Dst, f.Place = netip.AddrPort{}, policy.Elsewhere
		}
	}
	return q.Live.DecideName(f)
}
