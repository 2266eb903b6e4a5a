package blocklist

import "encoding/binary"

// words is a row of 64-bit words as they lie in a cache file, little-endian: a file is read in place and not converted.
// On most machines at is one load.
type words []byte

func makeWords(n int) words { return make(words, 8*n) }

func (w words) len() int { return len(w) / 8 }

func (w words) at(i uint64) uint64 { return binary.LittleEndian.Uint64(w[8*i:]) }

func (w words) put(i, x uint64) { binary.LittleEndian.PutUint64(w[8*i:], x) }
