// Package deadline is a point in time that can be moved while goroutines wait for it, like the deadline of a net.Conn.
//
// It does not interrupt I/O by itself: a goroutine that waits for something else selects on the deadline too.
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
	done  chan struct{} // closed when the deadline has passed; nil until Passed or Set needs it
}

// Passed returns a channel that is closed when the deadline passes. A later Set also moves the deadline of those who
// wait on the channel already. Once the channel is closed it stays closed, and after the next Set Passed returns a new one.
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
	passed := isClosed(d.done)
	if t.IsZero() {
		if passed {
			d.done = nil
		}
		return
	}
	if passed {
		d.done = make(chan struct{})
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
