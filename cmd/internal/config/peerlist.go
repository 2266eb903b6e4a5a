package config

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// PeerList are the peers of a configuration. Most have a name, a key, addresses and groups and nothing else; a gateway may have 100,000
// of those, so a list has 56 bytes and the addresses for each, beside the text that their names and keys are in. It makes a Peer when
// it is asked for one. The zero PeerList is empty. It is safe for concurrent use as long as nothing is appended.
type PeerList struct {
	slim   []slimPeer
	addrs  []netip.Prefix // of the slim ones, one after the other
	groups [][]string     // each list of groups once, if those who have it follow each other
	files  []string
	whole  map[int32]Peer // those that are not slim
}

// slimPeer is a peer with nothing that few have.
type slimPeer struct {
	name, key string
	addrs     uint32 // the first in PeerList.addrs
	groups    uint32 // in PeerList.groups, from 1; 0: none
	line      uint32
	file      uint32 // in PeerList.files
	count     uint16 // of addrs
	column    uint16
	isWhole   bool // it is in PeerList.whole
}

// ListPeers returns a list of peers.
func ListPeers(peers ...Peer) PeerList {
	var l PeerList
	for _, p := range peers {
		l.Append(p)
	}
	return l
}

// Len returns how many there are.
func (l *PeerList) Len() int { return len(l.slim) }

// At returns the i-th peer, from 0. What it has in common with the list must not be changed.
func (l *PeerList) At(i int) Peer {
	s := &l.slim[i]
	if s.isWhole {
		return l.whole[int32(i)]
	}
	p := Peer{Name: s.name, PublicKey: s.key, Pos: Position{File: l.files[s.file], Line: int(s.line), Column: int(s.column)}}
	if s.count > 0 {
		p.AllowedIPs = l.addrs[s.addrs : s.addrs+uint32(s.count) : s.addrs+uint32(s.count)]
	}
	if s.groups > 0 {
		p.Groups = l.groups[s.groups-1]
	}
	return p
}

// All returns the peers with their places in the list, in order.
func (l *PeerList) All() iter.Seq2[int, Peer] {
	return func(yield func(int, Peer) bool) {
		for i := range l.slim {
			if !yield(i, l.At(i)) {
				return
			}
		}
	}
}

// Slice returns all peers.
func (l *PeerList) Slice() []Peer {
	list := make([]Peer, l.Len())
	for i := range list {
		list[i] = l.At(i)
	}
	return list
}

// Any reports whether is is true of a peer.
func (l *PeerList) Any(is func(Peer) bool) bool { return l.Index(is) >= 0 }

// Index returns the first peer of which is is true, or -1.
func (l *PeerList) Index(is func(Peer) bool) int {
	for i, p := range l.All() {
		if is(p) {
			return i
		}
	}
	return -1
}

// Append adds a peer at the end.
func (l *PeerList) Append(p Peer) {
	s := slimPeer{
		name: p.Name, key: p.PublicKey, line: uint32(p.Pos.Line), column: uint16(p.Pos.Column), count: uint16(len(p.AllowedIPs)),
		addrs: uint32(len(l.addrs)), file: l.file(p.Pos.File), groups: l.groupsOf(p.Groups),
	}
	l.addrs = append(l.addrs, p.AllowedIPs...)
	i := len(l.slim)
	if l.slim = append(l.slim, s); l.At(i).SameAs(p) {
		return
	}
	l.slim[i] = slimPeer{isWhole: true}
	l.addrs = l.addrs[:s.addrs]
	if l.whole == nil {
		l.whole = make(map[int32]Peer)
	}
	l.whole[int32(i)] = p
}

// SameAs reports whether two peers are written alike, in the same place.
func (a Peer) SameAs(b Peer) bool {
	lists := slices.Equal(a.AllowedIPs, b.AllowedIPs) && slices.Equal(a.Groups, b.Groups) && (a.AllowedIPs == nil) == (b.AllowedIPs == nil) && (a.Groups == nil) == (b.Groups == nil)
	return lists && a.Name == b.Name && a.Invite == b.Invite && a.PublicKey == b.PublicKey && a.PresharedKey == b.PresharedKey && a.ProxyPassword == b.ProxyPassword &&
		a.PersistentKeepalive == b.PersistentKeepalive && a.Disabled == b.Disabled && a.DNSRenewals == b.DNSRenewals && a.Expires.Equal(b.Expires) &&
		a.Rate == b.Rate && a.Quota == b.Quota && a.Pos == b.Pos
}

// file returns the number of a file. Peers of one file follow each other.
func (l *PeerList) file(path string) uint32 {
	if n := len(l.files); n == 0 || l.files[n-1] != path {
		l.files = append(l.files, path)
	}
	return uint32(len(l.files) - 1)
}

// groupsOf returns the number of a list of groups.
func (l *PeerList) groupsOf(groups []string) uint32 {
	if groups == nil {
		return 0
	}
	const recent = 16 // lists that are compared
	for i := len(l.groups); i > max(0, len(l.groups)-recent); i-- {
		if slices.Equal(l.groups[i-1], groups) {
			return uint32(i)
		}
	}
	l.groups = append(l.groups, groups)
	return uint32(len(l.groups))
}

// clipped returns the list for somebody who appends to it, which does not change l.
func (l *PeerList) clipped() PeerList {
	return PeerList{slices.Clip(l.slim), slices.Clip(l.addrs), slices.Clip(l.groups), slices.Clip(l.files), maps.Clone(l.whole)}
}

// trim gives back the room for peers to come.
func (l *PeerList) trim() {
	l.slim, l.addrs = trimmed(l.slim), trimmed(l.addrs)
}

// trimmed returns a list with little room at its end.
func trimmed[T any](list []T) []T {
	if cap(list)-len(list) <= len(list)/32 {
		return list
	}
	return append(make([]T, 0, len(list)), list...)
}
