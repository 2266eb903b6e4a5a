package transit

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Table finds what belongs to the packets from one address and port to another. Its methods may be called by several goroutines at once.
//
// It is a hash table with linear probing that has no copy of the addresses: a map of Go takes 75 to 100 bytes for each entry here, and
// this one 16 to 32. It grows at three quarters, and gives back the room of flows that are gone.
type Table[T comparable] struct {
	of   func(T) (src, dst netip.AddrPort)
	seed maphash.Seed
	n    atomic.Int32 // without the lock: most stacks have no such flow

	mu     sync.RWMutex // guards below
	hashes []uint32     // of what is in a place; 0: nothing is
	places []T          // as many: a power of two
}

// leastPlaces are the fewest places of a table that has any.
const leastPlaces = 16

// NewTable makes a table. of says where the packets of what is in it come from, and where they go: always the same.
func NewTable[T comparable](of func(T) (src, dst netip.AddrPort)) *Table[T] {
	return &Table[T]{of: of, seed: maphash.MakeSeed()}
}

func (t *Table[T]) hash(src, dst netip.AddrPort) uint32 {
	var b [36]byte
	s, d := src.Addr().As16(), dst.Addr().As16()
	copy(b[:], s[:])
	copy(b[16:], d[:])
	binary.NativeEndian.PutUint16(b[32:], src.Port())
	binary.NativeEndian.PutUint16(b[34:], dst.Port())
	return max(uint32(maphash.Bytes(t.seed, b[:])), 1)
}

// Find returns what belongs to packets from src to dst.
func (t *Table[T]) Find(src, dst netip.AddrPort) (v T, ok bool) {
	if t.n.Load() == 0 {
		return v, false
	}
	h := t.hash(src, dst)
	t.mu.RLock()
	defer t.mu.RUnlock()
	if i := t.findLocked(h, src, dst); i >= 0 {
		return t.places[i], true
	}
	return v, false
}

// findLocked returns the place of packets from src to dst, or -1.
func (t *Table[T]) findLocked(h uint32, src, dst netip.AddrPort) int {
	if len(t.hashes) == 0 {
		return -1
	}
	mask := len(t.hashes) - 1
	for i := int(h) & mask; t.hashes[i] != 0; i = (i + 1) & mask {
		if t.hashes[i] != h {
			continue
		}
		if s, d := t.of(t.places[i]); s == src && d == dst {
			return i
		}
	}
	return -1
}

// Add enters v, unless something else is there for its packets.
func (t *Table[T]) Add(v T) bool {
	src, dst := t.of(v)
	h := t.hash(src, dst)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.findLocked(h, src, dst) >= 0 {
		return false
	}
	n := int(t.n.Load()) + 1
	if 4*n > 3*len(t.hashes) {
		t.resizeLocked(max(leastPlaces, 2*len(t.hashes)))
	}
	t.putLocked(h, v)
	t.n.Store(int32(n))
	return true
}

// Remove takes v out. It reports false if it was not there.
func (t *Table[T]) Remove(v T) bool {
	src, dst := t.of(v)
	h := t.hash(src, dst)
	t.mu.Lock()
	defer t.mu.Unlock()
	i := t.findLocked(h, src, dst)
	if i < 0 || t.places[i] != v {
		return false
	}
	t.clearLocked(i)
	n := int(t.n.Load()) - 1
	t.n.Store(int32(n))
	switch { // the smallest is kept: it would be made again for the next entry
	case n == 0 && len(t.hashes) > leastPlaces:
		t.hashes, t.places = nil, nil
	case len(t.hashes) > leastPlaces && 8*n < len(t.hashes):
		t.resizeLocked(len(t.hashes) / 2)
	}
	return true
}

// putLocked puts v into the first free place that is its own or follows.
func (t *Table[T]) putLocked(h uint32, v T) {
	mask := len(t.hashes) - 1
	i := int(h) & mask
	for t.hashes[i] != 0 {
		i = (i + 1) & mask
	}
	t.hashes[i], t.places[i] = h, v
}

// clearLocked empties a place. What follows it moves up, unless it is in a place of its own: nothing may be behind a free one.
func (t *Table[T]) clearLocked(free int) {
	mask := len(t.hashes) - 1
	for i := (free + 1) & mask; t.hashes[i] != 0; i = (i + 1) & mask {
		if own := int(t.hashes[i]) & mask; (i-own)&mask >= (i-free)&mask {
			t.hashes[free], t.places[free] = t.hashes[i], t.places[i]
			free = i
		}
	}
	var none T
	t.hashes[free], t.places[free] = 0, none
}

func (t *Table[T]) resizeLocked(size int) {
	hashes, places := t.hashes, t.places
	t.hashes, t.places = make([]uint32, size), make([]T, size)
	for i, h := range hashes {
		if h != 0 {
			t.putLocked(h, places[i])
		}
	}
}

// Len returns how many are in the table.
func (t *Table[T]) Len() int { return int(t.n.Load()) }

// Each calls f with everything in the table. f must not use the table.
func (t *Table[T]) Each(f func(T)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for i, h := range t.hashes {
		if h != 0 {
			f(t.places[i])
		}
	}
}
