// Package deadline is a point in time that can be moved while others wait for it, as the deadlines of a net.Conn can.
//
// It does not interrupt anything itself: who waits selects on it.
package deadline

import (
	"sync"
	"time"
)

// Deadline is a settable point in time to select on. The zero Deadline never comes and costs nothing. Its methods may be
// called by several goroutines at once.
type Deadline struct {
	mu    sync.Mutex // guards below
	timer *time.Timer
	done  chan struct{} // closed when the deadline has passed; nil while nobody asked
}

// Passed returns a channel that is closed when the deadline passes. Who waits on it meets every later Set too, unless the
// deadline had passed before: then the channel stays closed, and the next call returns a new one.
func (d *Deadline) Passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

// Set moves the deadline. One in the past passes at once; the zero time takes it away.
func (d *Deadline) Set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if d.done == nil {
		if t.IsZero() {
			return
		}
		d.done = make(chan struct{})
	}
	if isClosed(d.done) {
		d.done = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	done, left := d.done, time.Until(t)
	if left <= 0 {
		close(done)
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.timer == timer { // not moved while this waited for the lock
			close(done)
			d.timer = nil
		}
	})
	d.timer = timer
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
