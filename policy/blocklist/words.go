package blocklist

import (
	"encoding/binary"
	"runtime"
)

// words is an array of 64-bit words in little-endian order, as in a cache file, so that reading a file needs no conversion.
// On most machines the method at is one load.
type words []byte

// outsideFrom is the size in bytes from which words are allocated outside the Go heap. On the heap, a large table would
// let the collector accumulate as much garbage as the table is large. The table holds no pointers, so the collector does
// not need to see it.
const outsideFrom = 1 << 20

// makeWords allocates words that live as long as s. Callers must keep s alive while they use them.
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
