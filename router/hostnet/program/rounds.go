package program

import (
	"sync"
	"time"
)

// rounds makes a costly search for all who wait: whoever comes while one runs waits for the next, which they share. So there is
// never more than one at a time, however many wait.
type rounds struct {
	search func()
	rest   time.Duration // at least, between two searches; a long one is followed by a longer rest

	mu   sync.Mutex // guards next
	next *round     // which has not begun; nil if nobody waits

	turn sync.Mutex // held during a search; guards over and took
	over time.Time
	took time.Duration
}

type round struct{ done chan struct{} }

const (
	restFactor  = 4           // so that searches take a fifth of one processor at most,
	longestRest = time.Second // unless each takes more than a quarter of this
)

// wait returns when a search that began after the call is over.
func (r *rounds) wait() {
	r.mu.Lock()
	mine, first := r.next, false
	if mine == nil {
		mine, first = &round{make(chan struct{})}, true
		r.next = mine
	}
	r.mu.Unlock()
	if !first {
		<-mine.done
		return
	}
	r.turn.Lock()
	defer r.turn.Unlock()
	defer close(mine.done)
	rest := min(max(r.rest, restFactor*r.took), max(r.rest, longestRest))
	if left := rest - time.Since(r.over); !r.over.IsZero() && left > 0 {
		time.Sleep(left)
	}
	r.mu.Lock()
	r.next = nil
	r.mu.Unlock()
	begun := time.Now()
	r.search()
	r.over = time.Now()
	r.took = r.over.Sub(begun)
}

// budget bounds the time that is spent on something to a fifth of one processor. It is done once at a time.
type budget struct {
	turn sync.Mutex // held meanwhile; guards below
	left time.Duration
	last time.Time
}

const mostSaved = 200 * time.Millisecond

// spend does something, unless it is being done or the budget is used up.
func (b *budget) spend(do func()) {
	if !b.turn.TryLock() {
		return
	}
	defer b.turn.Unlock()
	begun := time.Now()
	if b.last.IsZero() {
		b.left = mostSaved
	}
	b.left = min(b.left+begun.Sub(b.last)/(restFactor+1), mostSaved)
	b.last = begun
	if b.left <= 0 {
		return
	}
	do()
	b.left -= time.Since(begun)
}
