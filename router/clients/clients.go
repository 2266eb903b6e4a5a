// Package clients identifies senders: the peers of a gateway, this machine, and strangers who ask its DNS server.
//
// Each client has one key for all its addresses. Stacks, the router and the DNS server count flows, dials, questions and
// memory by that key, and end them all when the client goes. A key is never reused: a client that later gets the same
// address inherits nothing.
//
// It does not authenticate anybody, and does not hold the counts.
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
	stranger  uint64 = 1 << 63 // set in the keys of strangers
)

// Peer is a client of a gateway, from its configuration.
type Peer struct {
	Name   string
	ID     string // its public key, or what else tells it from all others; a peer with a new one is a new client
	Groups []string
	Addrs  []netip.Prefix // inside the tunnel; none if it has no place there
}

// Client is what is known about a key. The zero Client has no name: it is this machine, or a stranger.
type Client struct {
	Name   string
	ID     string // of the Peer
	Groups []string
}

// Book maps addresses to clients. It is immutable and safe for concurrent use.
type Book struct {
	byAddr bart.Table[uint64]
	byName map[string]uint64
	peers  map[uint64]Peer
	byID   map[string]uint64
	last   uint64 // highest key ever assigned
}

// NewBook returns the book of a list of peers. A peer that is in before with the same ID and addresses keeps its key. before
// may be nil.
func NewBook(peers []Peer, before *Book) *Book {
	b := &Book{
		peers: make(map[uint64]Peer, len(peers)), byID: make(map[string]uint64, len(peers)), byName: make(map[string]uint64, len(peers)), last: firstPeer - 1,
	}
	var known map[string]uint64
	if before != nil {
		b.last, known = before.last, before.byID
	}
	for _, p := range peers {
		key, ok := known[p.ID]
		if !ok || !sameAddrs(before.peers[key].Addrs, p.Addrs) {
			b.last++
			key = b.last
		}
		b.peers[key], b.byID[p.ID], b.byName[p.Name] = p, key, key
		for _, prefix := range p.Addrs {
			b.byAddr.Insert(prefix.Masked(), key)
		}
	}
	return b
}

// sameAddrs compares two lists of prefixes, whose order does not matter.
func sameAddrs(a, b []netip.Prefix) bool {
	order := func(list []netip.Prefix) []netip.Prefix {
		return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
	}
	return slices.Equal(order(a), order(b))
}

// Gone returns the keys of the clients that are not in next.
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

// Peer returns the key of the peer that has an address inside the tunnel.
func (b *Book) Peer(addr netip.Addr) (key uint64, ok bool) {
	return b.byAddr.Lookup(addr.Unmap().WithZone(""))
}

// Key returns the key of the sender at addr: a peer, or a stranger. All addresses of an IPv6 /64 count as one stranger,
// because one host can easily use all of them.
func (b *Book) Key(addr netip.Addr) uint64 {
	if key, ok := b.Peer(addr); ok {
		return key
	}
	if addr = addr.Unmap(); addr.Is4() {
		a := addr.As4()
		return stranger | uint64(binary.BigEndian.Uint32(a[:]))
	}
	a := addr.As16()
	const mix = 0x9e3779b97f4a7c15 // odd, so that no two networks collide before the shift
	return stranger | 1<<62 | binary.BigEndian.Uint64(a[:8])*mix>>2
}

// Client returns what is known about the client with a key. ok is false for a peer that is gone, and for Nobody.
func (b *Book) Client(key uint64) (c Client, ok bool) {
	if p, ok := b.peers[key]; ok {
		return Client{Name: p.Name, ID: p.ID, Groups: p.Groups}, true
	}
	return Client{}, key == Machine || key&stranger != 0
}

// Identified returns the key of the peer with an ID.
func (b *Book) Identified(id string) (key uint64, ok bool) {
	key, ok = b.byID[id]
	return key, ok
}

// Named returns the key and a tunnel address of the peer with that name. The address is invalid if the peer has none.
func (b *Book) Named(name string) (key uint64, addr netip.Addr, ok bool) {
	key, ok = b.byName[name]
	if ok && len(b.peers[key].Addrs) > 0 {
		addr = b.peers[key].Addrs[0].Addr()
	}
	return key, addr, ok
}
