package router

import (
	"errors"
	"slices"
	"sync"
)

// errCrowded ends a flow whose first bytes would exceed Config.SniffMemory.
var errCrowded = errors.New("no memory left for flows that have not shown a name yet")

// firstHead is the first allocation for a head, in bytes. Most hellos and requests fit.
const firstHead = 2 << 10

// heads limits the memory for flows that have not shown a name yet, in all and per client. A client that starts many hellos
// and finishes none runs into its own limit.
type heads struct {
	limit int // bytes; one client gets half

	mu      sync.Mutex // guards below
	total   int
	clients map[uint64]int
}

// take reserves n bytes for a client.
func (h *heads) take(client uint64, n int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.total+n > h.limit || h.clients[client]+n > h.limit/2 {
		return false
	}
	h.total += n
	h.clients[client] += n
	return true
}

func (h *heads) give(client uint64, n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.total -= n
	if h.clients[client] -= n; h.clients[client] <= 0 {
		delete(h.clients, client)
	}
}

// head holds the first bytes of a flow in a buffer that grows as needed.
type head struct {
	heads  *heads
	client uint64
	max    int // bytes
	b      []byte
}

// room returns the space for the next bytes. It is empty if the head has its full size, and nil if there is no memory left.
func (h *head) room() []byte {
	if len(h.b) < cap(h.b) {
		return h.b[len(h.b):cap(h.b)]
	}
	size := min(max(firstHead, 4*cap(h.b)), h.max)
	if size == cap(h.b) {
		return h.b[size:]
	}
	if !h.heads.take(h.client, size-cap(h.b)) {
		return nil
	}
	grown := make([]byte, len(h.b), size)
	copy(grown, h.b)
	h.b = grown
	return h.b[len(h.b):size]
}

// release returns the memory. It may be called twice.
func (h *head) release() {
	if h.b != nil {
		h.heads.give(h.client, cap(h.b))
		h.b = nil
	}
}

// hold appends bytes that a filter must keep until they show a name.
func (h *head) hold(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if need := len(h.b) + len(b); need > cap(h.b) {
		grown := slices.Grow(h.b, len(b))
		if !h.heads.take(h.client, cap(grown)-cap(h.b)) {
			return errCrowded
		}
		h.b = grown
	}
	h.b = append(h.b, b...)
	return nil
}
