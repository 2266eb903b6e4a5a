package blocklist

import (
	"encoding/binary"
	"runtime"
)

// words is a row of 64-bit words as they lie in a cache file, little-endian: a file is read in place and not converted.
// On most machines at is one load.
type words []byte

// outsideFrom is the size in bytes from which words lie outside the garbage collector's heap. Within, it would let as much
// garbage pile up beside a large table as the table takes, though there is nothing in one that it has to look at.
const outsideFrom = 1 << 20

// makeWords makes words that live as long as s. Who uses them keeps s alive.
func (s *Set) makeWords(n int) words {
	if 8*n < outsideFrom {
		return make(words, 8*n)
	}
	b, free := outside(8 * n)
	if free != nil {
		runtime.AddCleanup(s, func(free func()) { free() }, free)
	}
	return b
}

func (w words) len() int { return len(w) / 8 }

func (w words) at(i uint64) uint64 { return binary.LittleEndian.Uint64(w[8*i:]) }

func (w words) put(i, x uint64) { binary.LittleEndian.PutUint64(w[8*i:], x) }
