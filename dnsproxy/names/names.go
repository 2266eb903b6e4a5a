// Package names remembers which names a client was given for an address, so that the flow which follows can be judged by name. Two
// clients, and two sites on one address, do not mix.
//
// It asks nobody and judges nothing.
package names

import (
	"container/heap"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"penstock/policy"
)

const (
	defaultMax   = 65536
	floor        = 60 * time.Second // a TTL below is taken for this: applications keep addresses longer than they should
	grace        = 10 * time.Minute // and open flows to them later
	perPair      = 8                // sites of one client on one address; the one asked for least recently goes first
	expireAtOnce = 1024             // pairs and clients that one Expire looks at, so that the lock is never held long
)

// Table holds pairs of a client and an address, with the names that the client was given the address for. A pair lives
// max(TTL, 60 s) + 10 min after the last answer, and as long as it is pinned. When the table is full, the client that holds most
// loses its oldest pair. The methods may be called by several goroutines at once.
type Table struct {
	clock func() time.Time
	max   int

	mu      sync.Mutex // guards below
	clients map[uint64]*holder
	order   byWeight
	pairs   int
}

// New returns a table for max pairs, or 65536 if max is 0. Nil as clock means time.Now.
func New(max int, clock func() time.Time) *Table {
	if max <= 0 {
		max = defaultMax
	}
	if clock == nil {
		clock = time.Now
	}
	return &Table{clock: clock, max: max, clients: map[uint64]*holder{}}
}

// holder is what one client holds.
type holder struct {
	client uint64
	free   *simplelru.LRU[[16]byte, *pair] // by address; those that may go when the table is full
	pinned map[[16]byte]*pair
	place  int // in Table.order
}

type pair struct {
	names []named // most recent first
	pins  int     // flows that hold the pair
}

type named struct {
	host   string
	expiry time.Time
}

// get returns the pair of an address, or nil, and leaves the order of use alone.
func (h *holder) get(addr [16]byte) *pair {
	if p, ok := h.free.Peek(addr); ok {
		return p
	}
	return h.pinned[addr]
}

// weight is how many pairs the client holds, if one of them can go.
func (h *holder) weight() int {
	if h.free.Len() == 0 {
		return 0
	}
	return h.free.Len() + len(h.pinned)
}

// byWeight is a heap with the client that holds most on top.
type byWeight []*holder

func (b byWeight) Len() int           { return len(b) }
func (b byWeight) Less(i, j int) bool { return b[i].weight() > b[j].weight() }
func (b byWeight) Swap(i, j int) {
	b[i], b[j] = b[j], b[i]
	b[i].place, b[j].place = i, j
}

// Push is for container/heap.
func (b *byWeight) Push(h any) {
	h.(*holder).place = len(*b)
	*b = append(*b, h.(*holder))
}

// Pop is for container/heap.
func (b *byWeight) Pop() any {
	last := (*b)[len(*b)-1]
	(*b)[len(*b)-1] = nil
	*b = (*b)[:len(*b)-1]
	return last
}

// Lookup returns the names that the client was given addr for, most recent first, as FromDNS names. It allocates only on a hit.
func (t *Table) Lookup(client uint64, addr netip.Addr) []policy.Name {
	if !addr.IsValid() {
		return nil
	}
	now, key := t.clock(), addr.As16()
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.clients[client]
	if h == nil {
		return nil
	}
	p, ok := h.free.Get(key)
	if !ok {
		if p = h.pinned[key]; p == nil {
			return nil
		}
	}
	var found []policy.Name
	for _, name := range p.names {
		if p.pins == 0 && !now.Before(name.expiry) {
			continue
		}
		if found == nil {
			found = make([]policy.Name, 0, len(p.names))
		}
		found = append(found, policy.Name{Host: name.host, From: policy.FromDNS})
	}
	return found
}

// Pin keeps the names of (client, addr) while a flow is open. The release func must be called when it ends, and does nothing the
// second time. Without names there is nothing to keep.
func (t *Table) Pin(client uint64, addr netip.Addr) (release func()) {
	if !addr.IsValid() {
		return func() {}
	}
	key := addr.As16()
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.clients[client]
	if h == nil {
		return func() {}
	}
	p := h.get(key)
	if p == nil {
		return func() {}
	}
	if p.pins++; p.pins == 1 {
		h.free.Remove(key)
		if h.pinned == nil {
			h.pinned = map[[16]byte]*pair{}
		}
		h.pinned[key] = p
		heap.Fix(&t.order, h.place)
	}
	return sync.OnceFunc(func() { t.unpin(h, key, p) })
}

func (t *Table) unpin(h *holder, key [16]byte, p *pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.pins--; p.pins > 0 || h.pinned[key] != p { // the client was forgotten meanwhile
		return
	}
	delete(h.pinned, key)
	h.free.Add(key, p)
	heap.Fix(&t.order, h.place)
	t.evictLocked()
}

// Add remembers that the client was given addrs for host, with a TTL. Host is kept. To renew a pair takes no memory.
func (t *Table) Add(client uint64, addrs []netip.Addr, host string, ttl time.Duration, now time.Time) {
	expiry := now.Add(max(ttl, floor) + grace)
	t.mu.Lock()
	defer t.mu.Unlock()
	h := t.clients[client]
	if h == nil {
		h = &holder{client: client}
		h.free, _ = simplelru.NewLRU[[16]byte, *pair](math.MaxInt, nil) // the bound is that of the table
		t.clients[client] = h
		heap.Push(&t.order, h)
	}
	before := h.free.Len()
	for _, addr := range addrs {
		key := addr.As16()
		p, ok := h.free.Get(key)
		if !ok {
			p = h.pinned[key]
		}
		if p == nil {
			p = &pair{}
			h.free.Add(key, p)
		}
		p.add(host, expiry)
	}
	if added := h.free.Len() - before; added > 0 {
		t.pairs += added
		heap.Fix(&t.order, h.place)
		t.evictLocked()
	}
}

func (p *pair) add(host string, expiry time.Time) {
	at := slices.IndexFunc(p.names, func(n named) bool { return n.host == host })
	switch {
	case at >= 0:
		host = p.names[at].host
	case len(p.names) < perPair:
		p.names = append(p.names, named{})
		at = len(p.names) - 1
	default:
		at = len(p.names) - 1
	}
	copy(p.names[1:at+1], p.names[:at])
	p.names[0] = named{host, expiry}
}

// Forget removes the names of a client, those that flows hold too.
func (t *Table) Forget(client uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if h := t.clients[client]; h != nil {
		t.pairs -= h.free.Len() + len(h.pinned)
		h.free.Purge()
		h.pinned = nil
		t.dropLocked(h)
	}
}

// Expire removes pairs that are over, a bounded number at a time.
func (t *Table) Expire() {
	now := t.clock()
	t.mu.Lock()
	defer t.mu.Unlock()
	left := expireAtOnce
	for _, h := range t.clients { // the order is another one each time
		before := h.free.Len()
		for left--; left > 0; left-- {
			_, oldest, ok := h.free.GetOldest()
			if !ok || now.Before(oldest.last()) {
				break
			}
			h.free.RemoveOldest()
		}
		t.removedLocked(h, before-h.free.Len())
		if left <= 0 {
			return
		}
	}
}

// last is when the last of the names is over.
func (p *pair) last() time.Time {
	var last time.Time
	for _, name := range p.names {
		if name.expiry.After(last) {
			last = name.expiry
		}
	}
	return last
}

// Len returns the number of pairs.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pairs
}

// evictLocked keeps the table in its bound. Pinned pairs stay: their number is that of the flows.
func (t *Table) evictLocked() {
	for t.pairs > t.max {
		h := t.order[0]
		if _, _, ok := h.free.RemoveOldest(); !ok {
			return
		}
		t.removedLocked(h, 1)
	}
}

// removedLocked notes that h lost n pairs.
func (t *Table) removedLocked(h *holder, n int) {
	t.pairs -= n
	switch {
	case h.free.Len() == 0 && len(h.pinned) == 0:
		t.dropLocked(h)
	case n > 0:
		heap.Fix(&t.order, h.place)
	}
}

func (t *Table) dropLocked(h *holder) {
	delete(t.clients, h.client)
	heap.Remove(&t.order, h.place)
}
