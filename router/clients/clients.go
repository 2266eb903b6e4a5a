// Package clients identifies senders: the peers of a gateway, this machine, and strangers who ask its DNS server.
//
// Each client has one key for all its addresses. Stacks, the router and the DNS server count flows, dials, questions and
// memory by that key, and end them all when the client goes. A key is never reused: a client that later gets the same
// address inherits nothing.
//
// It does not authenticate anybody, and does not hold the counts.
package clients

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"

	"penstock/router/lookup"
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

// Peers are the clients of a gateway. They do not change, and are safe for concurrent use.
type Peers interface {
	Len() int
	// At returns the i-th peer, from 0.
	At(i int) Peer
}

// List is a slice as Peers.
type List []Peer

// Len returns how many there are.
func (l List) Len() int { return len(l) }

// At returns the i-th peer.
func (l List) At(i int) Peer { return l[i] }

// Client is what is known about a key. The zero Client has no name: it is this machine, or a stranger.
type Client struct {
	Name   string
	ID     string // of the Peer
	Groups []string
}

// Book maps addresses to clients. It is immutable and safe for concurrent use.
type Book struct {
	peers  Peers
	keys   []uint64           // of peers, in the same order
	byKey  []int32            // peers in the order of their keys
	byAddr bart.Table[uint64] // keys
	byName *lookup.Table[string]
	byID   *lookup.Table[string]
	last   uint64 // highest key ever assigned
}

// NewBook returns the book of peers, which it keeps. A peer that is in before with the same ID and addresses keeps its key. before may be
// nil.
func NewBook(peers Peers, before *Book) *Book {
	if before == nil {
		before = &Book{last: firstPeer - 1}
	}
	n := peers.Len()
	b := &Book{
		peers: peers, keys: make([]uint64, n), byKey: make([]int32, n), last: before.last,
		byName: lookup.New(n, func(i int) string { return peers.At(i).Name }),
		byID:   lookup.New(n, func(i int) string { return peers.At(i).ID }),
	}
	for i := range n {
		p := peers.At(i)
		if n, ok := before.byID.Find(p.ID); ok && sameAddrs(before.peers.At(n).Addrs, p.Addrs) {
			b.keys[i] = before.keys[n]
		} else {
			b.last++
			b.keys[i] = b.last
		}
		b.byKey[i] = int32(i)
		for _, prefix := range p.Addrs {
			b.byAddr.Insert(prefix.Masked(), b.keys[i])
		}
	}
	slices.SortFunc(b.byKey, func(i, j int32) int { return cmp.Compare(b.keys[i], b.keys[j]) })
	return b
}

// sameAddrs compares two lists of prefixes, whose order does not matter.
func sameAddrs(a, b []netip.Prefix) bool {
	if slices.Equal(a, b) {
		return true
	}
	order := func(list []netip.Prefix) []netip.Prefix {
		return slices.SortedFunc(slices.Values(list), netip.Prefix.Compare)
	}
	return slices.Equal(order(a), order(b))
}

// Gone returns the keys of the clients that are not in next.
func (b *Book) Gone(next *Book) []uint64 {
	var gone []uint64
	for _, i := range b.byKey {
		if _, ok := next.find(b.keys[i]); !ok {
			gone = append(gone, b.keys[i])
		}
	}
	return gone
}

// find returns the peer with a key.
func (b *Book) find(key uint64) (p Peer, ok bool) {
	n, ok := slices.BinarySearchFunc(b.byKey, key, func(i int32, key uint64) int { return cmp.Compare(b.keys[i], key) })
	if !ok {
		return Peer{}, false
	}
	return b.peers.At(int(b.byKey[n])), true
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
	if p, ok := b.find(key); ok {
		return Client{Name: p.Name, ID: p.ID, Groups: p.Groups}, true
	}
	return Client{}, key == Machine || key&stranger != 0
}

// Identified returns the key of the peer with an ID.
func (b *Book) Identified(id string) (key uint64, ok bool) {
	i, ok := b.byID.Find(id)
	if !ok {
		return 0, false
	}
	return b.keys[i], true
}

// Named returns the key and a tunnel address of the peer with that name. The address is invalid if the peer has none.
func (b *Book) Named(name string) (key uint64, addr netip.Addr, ok bool) {
	i, ok := b.byName.Find(name)
	if !ok {
		return 0, addr, false
	}
	if addrs := b.peers.At(i).Addrs; len(addrs) > 0 {
		addr = addrs[0].Addr()
	}
	return b.keys[i], addr, true
}
