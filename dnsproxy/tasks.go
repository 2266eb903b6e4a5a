package dnsproxy

import (
	"context"
	"sync"
)

// tasks counts the goroutines of a server, so that it can end them and wait for them.
type tasks struct {
	wg sync.WaitGroup

	mu      sync.Mutex // guards below
	over    bool
	next    int
	cancels map[int]context.CancelFunc
}

// begin enters a goroutine that was not started by another task, unless the server is closing. Each begin needs an end.
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

// context returns a context that also ends when the tasks are closed.
func (t *tasks) context(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(parent)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		cancel()
		return ctx, cancel
	}
	id := t.next
	t.next++
	if t.cancels == nil {
		t.cancels = map[int]context.CancelFunc{}
	}
	t.cancels[id] = cancel
	return ctx, func() {
		t.mu.Lock()
		delete(t.cancels, id)
		t.mu.Unlock()
		cancel()
	}
}

// close lets nobody in any more and ends the contexts of those inside.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	for _, cancel := range t.cancels {
		cancel()
	}
}

func (t *tasks) wait() { t.wg.Wait() }
