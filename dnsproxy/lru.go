package dnsproxy

// lru is a map that knows which of its nodes was used last. It has no bound of its own: the owner removes the oldest.
// It needs the lock of its owner.
type lru[K comparable, V any] struct {
	nodes map[K]*node[K, V]
	root  node[K, V] // ring: root.next is the newest, root.prev the oldest
}

type node[K comparable, V any] struct {
	key        K
	value      V
	prev, next *node[K, V] // nil while the node is outside the ring
}

func newLRU[K comparable, V any]() *lru[K, V] {
	l := &lru[K, V]{nodes: make(map[K]*node[K, V])}
	l.root.prev, l.root.next = &l.root, &l.root
	return l
}

func (l *lru[K, V]) len() int { return len(l.nodes) }

// get returns the node of key, or nil, and leaves its age alone.
func (l *lru[K, V]) get(key K) *node[K, V] { return l.nodes[key] }

// add puts a new node in front. The key must not be in the map.
func (l *lru[K, V]) add(key K, value V) *node[K, V] {
	n := &node[K, V]{key: key, value: value}
	l.nodes[key] = n
	l.link(n)
	return n
}

// touch makes n the newest. A node outside the ring stays there.
func (l *lru[K, V]) touch(n *node[K, V]) {
	if n.prev == nil || l.root.next == n {
		return
	}
	l.unlink(n)
	l.link(n)
}

// remove takes n out of map and ring.
func (l *lru[K, V]) remove(n *node[K, V]) {
	delete(l.nodes, n.key)
	if n.prev != nil {
		l.unlink(n)
	}
}

// oldest returns the node of the ring that was used least recently, or nil.
func (l *lru[K, V]) oldest() *node[K, V] {
	if l.root.prev == &l.root {
		return nil
	}
	return l.root.prev
}

func (l *lru[K, V]) link(n *node[K, V]) {
	n.prev, n.next = &l.root, l.root.next
	n.prev.next, n.next.prev = n, n
}

// unlink takes n out of the ring but leaves it in the map.
func (l *lru[K, V]) unlink(n *node[K, V]) {
	n.prev.next, n.next.prev = n.next, n.prev
	n.prev, n.next = nil, nil
}
