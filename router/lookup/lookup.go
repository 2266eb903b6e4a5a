// Package lookup finds the entries of a long list by a key that they have in themselves.
//
// A map from the keys to the entries would keep each key a second time. A Table has 6 bytes for each entry.
package lookup

import (
	"hash/maphash"
	"math/bits"
)

// Table finds entries of a list that does not change. It is safe for concurrent use if its key function is.
type Table[K comparable] struct {
	key   func(i int) K
	seed  maphash.Seed
	slots []int32 // entry + 1; 0: none. An entry is in the first free slot from that of its key on.
}

// New returns the table of a list of n entries, whose i-th has the key that key returns. Of several entries with one key it finds the
// last.
func New[K comparable](n int, key func(i int) K) *Table[K] {
	x := &Table[K]{key: key, seed: maphash.MakeSeed(), slots: make([]int32, n+n/2+1)}
	for i := range n {
		x.slots[x.slot(key(i))] = int32(i) + 1
	}
	return x
}

// Find returns the entry with a key.
func (x *Table[K]) Find(key K) (i int, ok bool) {
	if x == nil {
		return 0, false
	}
	i = int(x.slots[x.slot(key)]) - 1
	return i, i >= 0
}

// slot returns the slot of the entry with a key, or the free one where it would be.
func (x *Table[K]) slot(key K) int {
	hash := maphash.Comparable(x.seed, key)
	at, _ := bits.Mul64(hash, uint64(len(x.slots)))
	for i := int(at); ; i = (i + 1) % len(x.slots) {
		if entry := x.slots[i]; entry == 0 || x.key(int(entry)-1) == key {
			return i
		}
	}
}
