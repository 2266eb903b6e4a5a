package stack

import (
	"sync"
	"time"
)

// deadline is a settable point in time to select on. The zero deadline never comes and costs nothing.
type deadline struct {
	mu    sync.Mutex // guards below
	timer *time.Timer
	done  chan struct{} // closed when the deadline has passed; nil while none was ever set
}

// expired returns a channel that is closed once the deadline has passed. A later set does not reach whoever waits on it
// already, except by expiring it.
func (d *deadline) expired() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.done == nil {
		d.done = make(chan struct{})
	}
	return d.done
}

// set moves the deadline; the zero time takes it away.
func (d *deadline) set(t time.Time) {
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
	select {
	case <-d.done:
		d.done = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	done := d.done
	wait := time.Until(t)
	if wait <= 0 {
		close(done)
		return
	}
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.done != done {
			return
		}
		select {
		case <-done:
		default:
			close(done)
		}
	})
}
