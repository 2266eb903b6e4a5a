package door

import (
	"sync"
	"time"
)

// callLasts is more than an initiation waits for its answer: the device makes a new one after 5 s, and then knows the old one no more.
const callLasts = 15 * time.Second

// calls has the indices that the device has given in its initiations and responses, to which an answer may come. They are random, so that
// who answers without having been asked hits none. Otherwise answers of nobody would fill the queue of the device's handshakes.
type calls struct {
	mu          sync.RWMutex // guards below
	now, before map[uint32]struct{}
	since       time.Time // of now
}

func newCalls() *calls { return &calls{now: make(map[uint32]struct{})} }

// sent notes an index for callLasts, or twice as long.
func (c *calls) sent(index uint32, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at.Sub(c.since) >= callLasts {
		c.before, c.now, c.since = c.now, make(map[uint32]struct{}), at
	}
	c.now[index] = struct{}{}
}

// wait reports whether the device waits for an answer.
func (c *calls) wait(index uint32) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if _, waits := c.now[index]; waits {
		return true
	}
	_, waits := c.before[index]
	return waits
}
