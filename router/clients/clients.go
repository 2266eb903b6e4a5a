// Package clients knows who sends: the peers of a gateway, this machine, and strangers who ask its DNS server.
//
// A client is a key, with all its addresses. Stacks, the router and the DNS server count flows, dials, questions and
// memory by that key, and end all of it when the client goes. A key is never used for two clients: who comes after
// another at the same address inherits nothing.
//
// It does not authenticate anybody, and holds nothing of what is counted.
package clients

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// Keys that are not those of peers.
const (
	Nobody  uint64 = 0
	Machine uint64 = 1 // this machine

	firstPeer uint64 = 2
	stranger  uint64 = 1 << 63 // and the key of its address
)

// Peer is a client of a gateway, as its configuration names it.
type Peer struct {
	Name   string
	ID     string // its public key: a peer with another one is another client
	Groups []string
	Addrs  []netip.Prefix // inside the tunnel
}

// Client is what is known about a key. The zero Client has no name: it is this machine, or a stranger.
type Client struct {
	Name   string
	Groups []string
}

// Book says who has which address. It is immutable; its methods may be called by several goroutines at once.
type Book struct {
	byAddr bart.Table[uint64]
	peers  map[uint64]Peer
	last   uint64 // highest key that was ever given away
}

// NewBook makes the book of a list of peers. Peers that before knows under the same ID and addresses keep their keys;
// before may be nil.
func NewBook(peers []Peer, before *Book) *Book {
	b := &Book{peers: make(map[uint64]Peer, len(peers)), last: firstPeer - 1}
	known := make(map[string]uint64)
	if before != nil {
		b.last = before.last
		for key, p := range before.peers {
			known[p.ID] = key
		}
	}
	for _, p := range peers {
		key, ok := known[p.ID]
		if !ok || !sameAddrs(before.peers[key].Addrs, p.Addrs) {
			b.last++
			key = b.last
		}
		b.peers[key] = p
		for _, prefix := range p.Addrs {
			b.byAddr.Insert(prefix.Masked(), key)
		}
	}
	return b
}

// sameAddrs compares without regard to order: an operator may write the same addresses in another one.
func sameAddrs(a, b []netip.Prefix) bool {
	order := func(list []netip.Prefix) []netip.Prefix {
		return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
	}
	return slices.Equal(order(a), order(b))
}

// Gone returns the keys of the clients that next does not know any more.
func (b *Book) Gone(next *Book) []uint64 {
	var gone []uint64
	for key := range b.peers {
		if _, ok := next.peers[key]; !ok {
			gone = append(gone, key)
		}
	}
	slices.Sort(gone)
	return gone
}

// Peer returns the key of the peer that an inner address belongs to.
func (b *Book) Peer(addr netip.Addr) (key uint64, ok bool) {
	return b.byAddr.Lookup(addr.Unmap().WithZone(""))
}

// Key returns the key of whoever sends from addr on some network: a peer, or a stranger. All addresses of one IPv6 /64
// are one stranger: it costs nothing to have all of them.
func (b *Book) Key(addr netip.Addr) uint64 {
	if key, ok := b.Peer(addr); ok {
		return key
	}
	if addr = addr.Unmap(); addr.Is4() {
		a := addr.As4()
		return stranger | uint64(binary.BigEndian.Uint32(a[:]))
	}
	a := addr.As16()
	const mix = 0x9e3779b97f4a7c15 // odd, so that no two networks become one before bits are cut off
	return stranger | 1<<62 | binary.BigEndian.Uint64(a[:8])*mix>>2
}

// Client returns what is known about a key. ok is false for a peer that is gone, and for Nobody.
func (b *Book) Client(key uint64) (c Client, ok bool) {
	if p, ok := b.peers[key]; ok {
		return Client{Name: p.Name, Groups: p.Groups}, true
	}
	return Client{}, key == Machine || key&stranger != 0
}

// Named returns the key and an inner address of the peer of that name.
func (b *Book) Named(name string) (key uint64, addr netip.Addr, ok bool) {
	for key, p := range b.peers {
		if p.Name == name && len(p.Addrs) > 0 {
			return key, p.Addrs[0].Addr(), true
		}
	}
	return Nobody, netip.Addr{}, false
}
