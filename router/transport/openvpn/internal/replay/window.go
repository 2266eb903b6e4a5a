// Package replay remembers which packet counters were seen.
//
// It does not authenticate: mark a counter only after its packet did.
package replay

const (
	wordBits = 64
	words    = 64
	size     = (words - 1) * wordBits // counters that a late packet may lag behind
)

// Window accepts every counter once, in any order within 4032 of the highest. The zero value is ready; counter 0 is never fresh.
type Window struct {
	top  uint64
	bits [words]uint64
}

// Fresh reports whether counter was not seen and is not too old.
func (w *Window) Fresh(counter uint64) bool {
	switch {
	case counter == 0:
		return false
	case counter > w.top:
		return true
	case w.top-counter >= size:
		return false
	}
	return w.bits[counter/wordBits%words]&(1<<(counter%wordBits)) == 0
}

// Mark notes a counter as seen.
func (w *Window) Mark(counter uint64) {
	if counter > w.top {
		first, last := w.top/wordBits+1, counter/wordBits
		for i := first; i <= last && i < first+words; i++ {
			w.bits[i%words] = 0
		}
		w.top = counter
	} else if w.top-counter >= size {
		return
	}
	w.bits[counter/wordBits%words] |= 1 << (counter % wordBits)
}
