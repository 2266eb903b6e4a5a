package record

import (
	"sync"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/control"
)

const (
	// remembered is how many records a watcher may have missed, and how many wait for one that is slow.
	remembered = 1024
	// linger is for how long records are remembered after the last watcher has left: a page that is loaded again misses none.
	linger = 2 * time.Minute
)

// Watchers are those who see records as they come. The zero Watchers has none.
type Watchers struct {
	until atomic.Int64 // records are remembered until then, in nanoseconds since 1970

	mu       sync.Mutex // guards below
	last     int64      // ID of the newest record
	ring     []control.Record
	watching map[*watcher]struct{}
}

// watcher implements control.Watcher.
type watcher struct {
	wake chan struct{} // capacity 1
	all  *Watchers
	seen int64
}

// Watch returns a watcher of the records after one, or of those that come from now on if after is 0. Close ends it.
func (w *Watchers) Watch(after int64) control.Watcher {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.watching == nil {
		w.watching = make(map[*watcher]struct{})
	}
	one := &watcher{wake: make(chan struct{}, 1), all: w, seen: w.last}
	if 0 < after && after < w.last {
		one.seen = after
		one.wake <- struct{}{}
	}
	w.watching[one] = struct{}{}
	w.until.Store(int64(1)<<62 - 1)
	return one
}

// Wake has a token when there may be records.
func (o *watcher) Wake() <-chan struct{} { return o.wake }

// Next returns the records that the watcher has not seen, oldest first, and how many others it has missed because it was slow.
func (o *watcher) Next() (list []control.Record, missed int64) {
	w := o.all
	w.mu.Lock()
	defer w.mu.Unlock()
	fresh := min(w.last-o.seen, remembered)
	missed = w.last - o.seen - fresh
	for id := w.last - fresh + 1; id <= w.last; id++ {
		list = append(list, w.ring[id%remembered])
	}
	o.seen = w.last
	return list, missed
}

// Close ends the watcher.
func (o *watcher) Close() {
	w := o.all
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watching, o)
	if len(w.watching) == 0 {
		w.until.Store(time.Now().Add(linger).UnixNano())
	}
}

// watch reports whether records are wanted.
func (w *Watchers) watch() bool {
	until := w.until.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// tell numbers a record and keeps it for the watchers.
func (w *Watchers) tell(r control.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ring == nil {
		w.ring = make([]control.Record, remembered)
	}
	w.last++
	r.ID = w.last
	w.ring[r.ID%remembered] = r
	for one := range w.watching {
		select {
		case one.wake <- struct{}{}:
		default: // it knows
		}
	}
}
