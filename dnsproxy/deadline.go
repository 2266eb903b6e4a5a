package dnsproxy

import (
	"sync"
	"time"
)

// deadline is a channel that is closed when a time has passed that can be set anew.
type deadline struct {
	mu    sync.Mutex // guards below
	timer *time.Timer
	over  chan struct{}
}

func newDeadline() *deadline { return &deadline{over: make(chan struct{})} }

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// set sets the time; the zero time never passes. Reads that wait already hear of it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() || isClosed(d.over) {
		d.over = make(chan struct{}) // the old one is closed, or is about to be
	}
	d.timer = nil
	over := d.over
	switch left := time.Until(t); {
	case t.IsZero():
	case left <= 0:
		close(over)
	default:
		d.timer = time.AfterFunc(left, func() { close(over) })
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
