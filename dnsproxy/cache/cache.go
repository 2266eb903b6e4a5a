// Package cache holds DNS answers in wire format: cleaned of everything that no client may see, ready to be copied out, and
// bounded in octets and in number.
//
// It asks no upstream, judges no name, and does not know whose answers it holds.
package cache

import (
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	defaultBytes   = 16 << 20
	defaultEntries = 65536
)

// Key tells answers apart.
type Key struct {
	Name string // wire form, lower case
	View uint64 // who was asked, and what was taken out of the answer
	Type uint16
	Bits uint16 // flags of the query that answers depend on
}

// Cache holds entries, bounded in octets and in number; the least recently used go first. Its methods may be called by several
// goroutines at once.
type Cache struct {
	maxBytes, maxEntries int

	mu    sync.Mutex // guards below
	table *simplelru.LRU[Key, *Entry]
	bytes int
}

// New returns a cache with room for so many octets and entries. 0 means 16 MiB and 65536, negative means no cache.
func New(bytes, entries int) *Cache {
	if bytes == 0 {
		bytes = defaultBytes
	}
	if entries == 0 {
		entries = defaultEntries
	}
	c := &Cache{maxBytes: bytes, maxEntries: entries}
	// The callback runs for every entry that leaves the table, but not for one that is replaced.
	c.table, _ = simplelru.NewLRU(max(entries, 1), func(_ Key, e *Entry) { c.bytes -= e.size() })
	return c
}

// Get returns the entry of key, expired or not, or nil. The name in key may be a view of a buffer.
func (c *Cache) Get(key Key) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.table.Get(key)
	return e
}

// Peek is Get, but leaves the order of use alone.
func (c *Cache) Peek(key Key) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, _ := c.table.Peek(key)
	return e
}

// Put stores e in place of what is there. An entry larger than an eighth of the cache is not kept.
func (c *Cache) Put(key Key, e *Entry) {
	if e.size() > c.maxBytes/8 || c.maxEntries < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if old, ok := c.table.Peek(key); ok {
		c.bytes -= old.size()
	} else {
		key.Name = strings.Clone(key.Name)
	}
	c.bytes += e.size()
	c.table.Add(key, e)
	for c.bytes > c.maxBytes {
		c.table.RemoveOldest()
	}
}

// Expire removes useless entries, least recently used first, a bounded number at a time.
func (c *Cache) Expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 1024 {
		_, oldest, ok := c.table.GetOldest()
		if !ok || oldest.Fresh(now) || oldest.usable(now) {
			return
		}
		c.table.RemoveOldest()
	}
}

// Flush removes all entries.
func (c *Cache) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Purge()
}

// Sizes returns the number of entries and the octets that they take.
func (c *Cache) Sizes() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.Len(), c.bytes
}
