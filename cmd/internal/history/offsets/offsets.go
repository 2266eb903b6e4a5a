// Package offsets has sets of small numbers: the places of records within a span. One number is stored as it is, and several as the
// differences between them, in bytes.
//
// It does not know what the numbers are of.
package offsets

import "encoding/binary"

// Most is how many numbers there are: 0 to Most - 1.
const Most = 1 << Bits

// Bits is how many bits a number has.
const Bits = 13

// Pack returns what is stored of numbers that grow, which are the low bits of those in list: an int64, or bytes appended to buf.
func Pack(buf []byte, list []uint64) (value any, rest []byte) {
	if len(list) == 1 {
		return int64(list[0] % Most), buf
	}
	start, last := len(buf), uint64(0)
	for _, n := range list {
		n %= Most
		buf = binary.AppendUvarint(buf, n-last)
		last = n
	}
	return buf[start:len(buf):len(buf)], buf
}

// Set is a set of numbers. The zero Set is empty.
type Set [Most / 64]uint64

// Add adds the numbers that Pack has packed. What is beyond them is ignored.
func (s *Set) Add(value any) {
	switch v := value.(type) {
	case int64:
		s.add(uint64(v))
	case []byte:
		for n := uint64(0); len(v) > 0; {
			d, size := binary.Uvarint(v)
			if size <= 0 {
				return
			}
			n += d
			s.add(n)
			v = v[size:]
		}
	}
}

func (s *Set) add(n uint64) {
	if n < Most {
		s[n/64] |= 1 << (n % 64)
	}
}

// And leaves the numbers that are in both sets, and reports whether there are any.
func (s *Set) And(other *Set) (some bool) {
	for i := range s {
		s[i] &= other[i]
		some = some || s[i] != 0
	}
	return some
}

// Has tells whether a number is in the set.
func (s *Set) Has(n int64) bool { return n >= 0 && n < Most && s[n/64]&(1<<(n%64)) != 0 }
