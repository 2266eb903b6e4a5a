package dnsproxy

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	"penstock/policy"
)

const (
	maxNames    = 65536
	namesFloor  = 60 * time.Second // a TTL below is taken for this: applications keep addresses longer than they should
	namesGrace  = 10 * time.Minute // and open flows to them later
	namesPerKey = 8                // sites of one client on one address; the one asked for least recently goes first
)

// Names remembers which names a client resolved to an address. Two clients, and two sites on one address, do not mix.
// An entry lives max(TTL, 60 s) + 10 min after the last answer, and as long as it is pinned.
type Names struct {
	clock func() time.Time
	max   int

	mu    sync.Mutex // guards below
	table *lru[namesKey, namesEntry]
}

type namesKey struct {
	client uint64
	addr   [16]byte
}

type namesEntry struct {
	names []namedUntil // most recent first
	pins  int          // flows that hold the entry; while there are any it is outside the ring
}

type namedUntil struct {
	host   string
	expiry time.Time
}

func newNames(max int, clock func() time.Time) *Names {
	if max <= 0 {
		max = maxNames
	}
	if clock == nil {
		clock = time.Now
	}
	return &Names{clock: clock, max: max, table: newLRU[namesKey, namesEntry]()}
}

func keyOf(client uint64, addr netip.Addr) namesKey { return namesKey{client, addr.As16()} }

// Lookup returns the names that client was given addr for, most recent first, as FromDNS names. It allocates only on a hit.
func (n *Names) Lookup(client uint64, addr netip.Addr) []policy.Name {
	if !addr.IsValid() {
		return nil
	}
	now := n.clock()
	n.mu.Lock()
	defer n.mu.Unlock()
	entry := n.table.get(keyOf(client, addr))
	if entry == nil {
		return nil
	}
	var found []policy.Name
	for _, name := range entry.value.names {
		if entry.value.pins == 0 && !now.Before(name.expiry) {
			continue
		}
		if found == nil {
			found = make([]policy.Name, 0, len(entry.value.names))
		}
		found = append(found, policy.Name{Host: name.host, From: policy.FromDNS})
	}
	if found != nil {
		n.table.touch(entry)
	}
	return found
}

// Pin keeps the names of (client, addr) while a flow is open. The release func must be called once when it ends.
// Without names there is nothing to keep, and release does nothing.
func (n *Names) Pin(client uint64, addr netip.Addr) (release func()) {
	if !addr.IsValid() {
		return func() {}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	entry := n.table.get(keyOf(client, addr))
	if entry == nil {
		return func() {}
	}
	if entry.value.pins++; entry.value.pins == 1 {
		n.table.unlink(entry)
	}
	return sync.OnceFunc(func() { n.unpin(entry) })
}

func (n *Names) unpin(entry *node[namesKey, namesEntry]) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if entry.value.pins--; entry.value.pins > 0 || n.table.get(entry.key) != entry { // forgotten meanwhile
		return
	}
	n.table.link(entry)
	n.evictLocked()
}

// forget removes the names of a client, those that flows hold too.
func (n *Names) forget(client uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, entry := range n.table.nodes {
		if key.client == client {
			entry.value.names = nil
			n.table.remove(entry)
		}
	}
}

// add remembers that client was given addrs for host, with a TTL. Host is kept. An entry that is there already is renewed without
// an allocation.
func (n *Names) add(client uint64, addrs []netip.Addr, host string, ttl time.Duration, now time.Time) {
	expiry := now.Add(max(ttl, namesFloor) + namesGrace)
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, addr := range addrs {
		key := keyOf(client, addr)
		entry := n.table.get(key)
		if entry == nil {
			entry = n.table.add(key, namesEntry{})
		}
		n.table.touch(entry)
		entry.value.add(host, expiry)
	}
	n.evictLocked()
}

func (e *namesEntry) add(host string, expiry time.Time) {
	at := slices.IndexFunc(e.names, func(n namedUntil) bool { return n.host == host })
	switch {
	case at >= 0:
		host = e.names[at].host
	case len(e.names) < namesPerKey:
		e.names = append(e.names, namedUntil{})
		at = len(e.names) - 1
	default:
		at = len(e.names) - 1
	}
	copy(e.names[1:at+1], e.names[:at])
	e.names[0] = namedUntil{host, expiry}
}

// expire removes entries that are over. It looks at a bounded number of them, oldest first, so that the lock is never held long.
func (n *Names) expire() {
	now := n.clock()
	n.mu.Lock()
	defer n.mu.Unlock()
	for range 1024 {
		oldest := n.table.oldest()
		if oldest == nil || now.Before(oldest.value.last()) {
			return
		}
		n.table.remove(oldest)
	}
}

// last is when the last of the names is over.
func (e *namesEntry) last() time.Time {
	var last time.Time
	for _, name := range e.names {
		if name.expiry.After(last) {
			last = name.expiry
		}
	}
	return last
}

func (n *Names) len() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.table.len()
}

// evictLocked keeps the table in its bound. Pinned entries are outside the ring and stay: their number is that of the flows.
func (n *Names) evictLocked() {
	for n.table.len() > n.max {
		oldest := n.table.oldest()
		if oldest == nil {
			return
		}
		n.table.remove(oldest)
	}
}
