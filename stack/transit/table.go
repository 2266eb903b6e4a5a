package transit

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"penstock/stack/shrink"
)

// key are the addresses of packets that come in one direction.
type key struct {
	src, dst         [16]byte
	srcPort, dstPort uint16
}

func keyOf(src, dst netip.AddrPort) key {
	return key{src.Addr().As16(), dst.Addr().As16(), src.Port(), dst.Port()}
}

// Table finds what belongs to the packets from one address and port to another. The zero Table is empty. Its methods may be
// called by several goroutines at once.
type Table[T comparable] struct {
	n     atomic.Int32 // without the lock: most stacks have no such flow
	mu    sync.RWMutex // guards below
	flows shrink.Map[key, T]
}

// Find returns what belongs to packets from src to dst.
func (t *Table[T]) Find(src, dst netip.AddrPort) (v T, ok bool) {
	if t.n.Load() == 0 {
		return v, false
	}
	k := keyOf(src, dst)
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.flows.Find(k)
}

// Add enters v, unless the place is taken.
func (t *Table[T]) Add(src, dst netip.AddrPort, v T) bool {
	k := keyOf(src, dst)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.flows.Find(k); taken {
		return false
	}
	t.flows.Put(k, v)
	t.n.Add(1)
	return true
}

// Remove takes v out. It reports false if it was not there.
func (t *Table[T]) Remove(src, dst netip.AddrPort, v T) bool {
	k := keyOf(src, dst)
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.flows.Find(k); !ok || now != v {
		return false
	}
	t.flows.Delete(k)
	t.n.Add(-1)
	return true
}

// Len returns how many are in the table.
func (t *Table[T]) Len() int { return int(t.n.Load()) }

// Each calls f with everything in the table. f must not use the table.
func (t *Table[T]) Each(f func(T)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, v := range t.flows.All {
		f(v)
	}
}
