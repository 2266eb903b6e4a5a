package dnsproxy

import (
	"strings"
	"sync"
	"time"
)

const (
	cacheBytes   = 16 << 20
	cacheEntries = 65536
)

// cacheKey tells answers apart. View stands for the upstreams that the name is sent to and for what is taken out of their
// answers, so that after a change of configuration no answer of the old one is used.
type cacheKey struct {
	name string // wire form, lower case
	view uint64
	kind uint16 // query type
	bits uint16 // DO and CD: class is always IN
}

// cache holds answers, bounded in octets and in number; the least recently used go first.
type cache struct {
	maxBytes, maxEntries int

	mu    sync.Mutex // guards below
	table *lru[cacheKey, *entry]
	bytes int
}

func newCache(bytes, entries int) *cache {
	if bytes == 0 {
		bytes = cacheBytes
	}
	if entries == 0 {
		entries = cacheEntries
	}
	return &cache{maxBytes: bytes, maxEntries: entries, table: newLRU[cacheKey, *entry]()}
}

// get returns the entry of key, expired or not, or nil. The name in key may be a view of a buffer.
func (c *cache) get(key cacheKey) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.table.get(key)
	if n == nil {
		return nil
	}
	c.table.touch(n)
	return n.value
}

// peek is get, but leaves the order of use alone.
func (c *cache) peek(key cacheKey) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.table.get(key); n != nil {
		return n.value
	}
	return nil
}

// put stores e in place of what is there. An entry larger than an eighth of the cache is not kept.
func (c *cache) put(key cacheKey, e *entry) {
	if e.size() > c.maxBytes/8 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.table.get(key); n != nil {
		c.bytes += e.size() - n.value.size()
		n.value = e
		c.table.touch(n)
	} else {
		key.name = strings.Clone(key.name)
		c.table.add(key, e)
		c.bytes += e.size()
	}
	for c.bytes > c.maxBytes || c.table.len() > c.maxEntries {
		if !c.removeOldestLocked() {
			return
		}
	}
}

// expire removes entries at the old end that are of no use any more, a bounded number at a time.
func (c *cache) expire(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for range 1024 {
		oldest := c.table.oldest()
		if oldest == nil || oldest.value.fresh(now) || oldest.value.usable(now) {
			return
		}
		c.removeOldestLocked()
	}
}

func (c *cache) removeOldestLocked() bool {
	oldest := c.table.oldest()
	if oldest == nil {
		return false
	}
	c.bytes -= oldest.value.size()
	c.table.remove(oldest)
	return true
}

func (c *cache) flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table, c.bytes = newLRU[cacheKey, *entry](), 0
}

func (c *cache) sizes() (entries, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.len(), c.bytes
}
