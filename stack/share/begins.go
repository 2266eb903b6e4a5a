package share

import "sync"

// Begins counts the handlers of flows that have begun and do not wait for their client yet. A handler may outlast its flow, which newer
// ones have pushed out, so the bound of flows does not bound handlers: a client that begins flows faster than they are judged would fill
// the memory with them, and the processor with nothing else.
//
// One client may have as many as there is room left. So a flood of n clients leaves one part in n+1 to the others. Methods may be called
// by several goroutines at once.
type Begins struct {
	Limit int

	mu      sync.Mutex // guards below
	all     int
	clients map[uint64]int
}

// Add counts one more of a client, if there is room for it.
func (b *Begins) Add(client uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.clients[client] >= b.Limit-b.all {
		return false
	}
	if b.clients == nil {
		b.clients = make(map[uint64]int)
	}
	b.all++
	b.clients[client]++
	return true
}

// Done ends what Add began.
func (b *Begins) Done(client uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all--
	if b.clients[client]--; b.clients[client] == 0 {
		delete(b.clients, client)
	}
}
