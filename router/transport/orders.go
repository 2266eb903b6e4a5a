package transport

import (
	"sync"
	"time"
)

// orders are what others want of a tunnel. They write them at any time; the tunnel's goroutine reads them when it is
// kicked. The last word counts, not how often it was said.
type orders struct {
	kick chan struct{} // capacity 1: there is something to read

	mu    sync.Mutex // guards below
	notes notes
	turn  *time.Timer // kicks when notes.until has come; nil if that is zero
}

// notes are one reading of the orders.
type notes struct {
	down     bool      // the user wants it down
	until    time.Time // when down turns into its opposite; zero: never
	quiesced bool
	noPath   bool
	wanted   int  // dials that wait for the transport
	signIn   bool // the attempt under way waits for the user to sign in
	// What follows is acted on once.
	redo Reason // make a new session
	path Reason // the path is new, or the machine woke: rebind and probe
	slow bool   // the machine slept for long: don't trust the old session
	lost error  // the driver says that the session is over
}

// interrupts reports that a session must not go on.
func (n notes) interrupts() bool { return n.down || n.quiesced || n.noPath }

func newOrders() *orders { return &orders{kick: make(chan struct{}, 1)} }

// change changes the notes and kicks.
func (o *orders) change(f func(*notes)) {
	o.mu.Lock()
	o.passLocked(time.Now())
	f(&o.notes)
	o.mu.Unlock()
	o.wake()
}

// steer sets whether the transport is wanted, for good or, if d is positive, for d. It replaces what was set before, and
// its time with it.
func (o *orders) steer(down bool, d time.Duration) {
	o.change(func(n *notes) {
		o.stopLocked()
		n.down = down
		if !down {
			n.redo = ReasonManual
		}
		if d > 0 {
			n.until = time.Now().Add(d)
			o.turn = time.AfterFunc(d, o.wake) // it only wakes the reader: the clock decides, so a late one does no harm
		}
	})
}

func (o *orders) wake() {
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// passLocked turns down into its opposite if its time is over.
func (o *orders) passLocked(now time.Time) {
	n := &o.notes
	if n.until.IsZero() || now.Before(n.until) {
		return
	}
	o.stopLocked()
	n.down = !n.down
	if !n.down {
		n.redo = ReasonManual
	}
}

func (o *orders) stopLocked() {
	if o.turn != nil {
		o.turn.Stop()
	}
	o.turn, o.notes.until = nil, time.Time{}
}

// read returns the notes and leaves them.
func (o *orders) read() notes {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passLocked(time.Now())
	return o.notes
}

// take returns the notes and removes what is acted on once.
func (o *orders) take() notes {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.passLocked(time.Now())
	n := o.notes
	o.notes.redo, o.notes.path, o.notes.slow, o.notes.lost = "", "", false, nil
	return n
}

// close stops the timer.
func (o *orders) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stopLocked()
}
