package control

import (
	"errors"
	"time"
)

// table is the negotiations of a session.
type table struct {
	negotiations [8]*Negotiation // by key id
	current      *Negotiation    // the newest that is done
	previous     *Negotiation    // the one before, whose key still opens packets
	pending      *Negotiation    // the one under way
}

// Pending is the negotiation under way, nil for none.
func (t *table) Pending() *Negotiation { return t.pending }

// Current is the newest negotiation that is done, nil for none.
func (t *table) Current() *Negotiation { return t.current }

// next counts key ids from 1 to 7 and starts over: 0 is only ever the first.
func (t *table) next() uint8 { return t.current.keyID%7 + 1 }

func (t *table) add(n *Negotiation) {
	t.negotiations[n.keyID] = n
	t.pending = n
}

// Finish makes n the current negotiation. The one before the current is retired.
func (t *table) Finish(n *Negotiation, now time.Time) (retired uint8, ok bool) {
	retired, ok = t.Retire()
	t.previous, t.current, t.pending = t.current, n, nil
	n.DoneAt = now
	return retired, ok
}

// Retire forgets the negotiation before the current one, and says which key goes with it.
func (t *table) Retire() (keyID uint8, ok bool) {
	n := t.previous
	if n == nil {
		return 0, false
	}
	t.previous = nil
	t.negotiations[n.keyID] = nil
	n.pipe.Fail(errRetired)
	return n.keyID, true
}

var errRetired = errors.New("the negotiation was replaced")
