// Package shrink has a map that gives back the room of entries that are gone. A map of Go keeps the room of the most entries that it
// ever had, so that one burst of flows would stay in memory for as long as the process runs.
package shrink

// Map is a map that shrinks. The zero Map is empty. Like a map of Go it must not be changed by two goroutines at once, nor while another
// one reads it.
type Map[K comparable, V any] struct {
	m    map[K]V
	room int // most entries since m was made
}

const (
	// least is the room of the smallest map, in entries.
	least = 8
	// small is room that is not worth giving back, in entries.
	small = 512
	// part is which part of its room a map must still fill. To copy that many entries costs little beside having removed the others.
	part = 8
)

// Get returns the entry of a key, or the zero value if there is none.
func (m *Map[K, V]) Get(k K) V { return m.m[k] }

// Find returns the entry of a key, and whether there is one.
func (m *Map[K, V]) Find(k K) (v V, ok bool) {
	v, ok = m.m[k]
	return v, ok
}

// Put sets the entry of a key.
func (m *Map[K, V]) Put(k K, v V) {
	if m.m == nil {
		m.m = make(map[K]V)
	}
	m.m[k] = v
	m.room = max(m.room, len(m.m))
}

// Delete removes the entry of a key, if there is one.
func (m *Map[K, V]) Delete(k K) {
	delete(m.m, k)
	switch {
	case m.room <= least:
		return // it would be made again for the next entry
	case len(m.m) == 0:
		m.m, m.room = nil, 0
		return
	case m.room <= small || len(m.m) > m.room/part:
		return
	}
	fresh := make(map[K]V, len(m.m))
	for k, v := range m.m {
		fresh[k] = v
	}
	m.m, m.room = fresh, len(fresh)
}

// Len returns the number of entries.
func (m *Map[K, V]) Len() int { return len(m.m) }

// All calls f with each entry, in no order, until f returns false: it is an iterator. f may delete entries, and must not put any.
func (m *Map[K, V]) All(f func(K, V) bool) {
	for k, v := range m.m {
		if !f(k, v) {
			return
		}
	}
}
