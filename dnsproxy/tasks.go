package dnsproxy

import (
	"context"
	"sync"
)

// tasks tracks the goroutines of a server, so that it can stop them and wait for them.
type tasks struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards below
	over    bool
	next    int
	cancels map[task]context.CancelFunc
}

// task is a context that the tasks can end.
type task struct {
	client uint64
	id     int
}

// begin counts in a goroutine that no other task started, unless the server is closing. Each successful begin needs an end.
func (t *tasks) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return false
	}
	t.wg.Add(1)
	return true
}

func (t *tasks) end() { t.wg.Done() }

// spawn starts a goroutine from within a task.
func (t *tasks) spawn(f func()) { t.wg.Go(f) }

// context returns a context that also ends when the client or all tasks are closed.
func (t *tasks) context(parent context.Context, client uint64) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		cancel()
		return ctx, cancel
	}
	key := task{client, t.next}
	t.next++
	if t.cancels == nil {
		t.cancels = map[task]context.CancelFunc{}
	}
	t.cancels[key] = cancel
	return ctx, func() {
		t.mu.Lock()
		delete(t.cancels, key)
		t.mu.Unlock()
		cancel()
	}
}

// closeClient ends the contexts of one client.
func (t *tasks) closeClient(client uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, cancel := range t.cancels {
		if key.client == client {
			cancel()
		}
	}
}

// close makes begin fail from now on and ends all contexts.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for _, cancel := range t.cancels {
		cancel()
	}
}

func (t *tasks) wait() { t.wg.Wait() }
