package blocklist

import (
	"crypto/rand"
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// seed is the key of a Set's hash. It is random, so that nobody can search for names that collide.
type seed struct {
	start uint64 // state before the first label from the right
	addr  uint64 // state before an address
	chunk uint64 // multiplier inside a label
	label uint64 // multiplier at the end of a label
}

func newSeed() seed {
	var b [32]byte
	rand.Read(b[:]) // never fails: crypto/rand since Go 1.24
	return seed{
		start: binary.LittleEndian.Uint64(b[0:]),
		addr:  binary.LittleEndian.Uint64(b[8:]),
		chunk: binary.LittleEndian.Uint64(b[16:]) | 1,
		label: binary.LittleEndian.Uint64(b[24:]) | 1,
	}
}

// mix xors both halves of a product, so that every bit of state affects every bit of the result.
func mix(state, key uint64) uint64 {
	hi, lo := bits.Mul64(state, key)
	return hi ^ lo
}

// fingerprintMask selects the bits of a hash that the table stores.
const fingerprintMask = ^uint64(0xffff)

// A label is hashed from its end to its start, in words of eight bytes. The last word has zero to seven bytes and a one bit
// above them, so that "a" and "a\x00" differ. It is mixed with a different key than a full word.

// hashName returns the fingerprint of a whole canonical name, in the upper 48 bits.
func hashName[T string | []byte](k *seed, name T) uint64 {
	h := k.start
	for end := len(name); end > 0; end-- { // the dot
		h, end = hashLabel(k, h, name, end)
	}
	return h & fingerprintMask
}

// hashLabel adds one label to the state h: the label of name that ends before byte end. It returns the new state and where
// the label starts.
func hashLabel[T string | []byte](k *seed, h uint64, name T, end int) (state uint64, start int) {
	for {
		v := wordBefore(name, end)
		dots := dotsIn(v)
		if dots == 0 {
			h = mix(h^v, k.chunk)
			end -= 8
			continue
		}
		n := bits.LeadingZeros64(dots) / 8 // bytes after the last dot
		v = v>>1>>(63-8*n) | 1<<(8*n)
		return mix(h^v, k.label), end - n
	}
}

// wordBefore returns the eight bytes before end, the first in the lowest byte. It pads the front of the name with dots.
func wordBefore[T string | []byte](name T, end int) uint64 {
	if end >= 8 {
		s := name[end-8 : end]
		return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
	}
	v := uint64(dots8)
	if len(name) >= 8 {
		s := name[:8]
		head := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		return v>>(8*end) | head<<1<<(63-8*end)
	}
	for i := range end {
		v = v>>8 | uint64(name[i])<<56
	}
	return v
}

// dots8 is eight dots.
const (
	ones8 = 0x0101010101010101
	dots8 = '.' * ones8
)

// dotsIn sets the high bit of every byte that is a dot, and no other bit.
func dotsIn(v uint64) uint64 {
	v ^= dots8
	return ^((v&(0x7f*ones8) + 0x7f*ones8) | v | 0x7f*ones8)
}

// hashWireLabel adds a label of a wire name to the state h. Upper and lower case give the same state.
func hashWireLabel(k *seed, h uint64, label []byte) uint64 {
	end := len(label)
	for ; end >= 8; end -= 8 {
		h = mix(h^lowerWord(binary.LittleEndian.Uint64(label[end-8:end])), k.chunk)
	}
	var v uint64
	if len(label) >= 8 {
		v = binary.LittleEndian.Uint64(label) & (1<<(8*end) - 1)
	} else {
		for i := end - 1; i >= 0; i-- {
			v = v<<8 | uint64(label[i])
		}
	}
	return mix(h^(lowerWord(v)|1<<(8*end)), k.label)
}

// lowerWord turns the ASCII capitals among eight bytes into lower case.
func lowerWord(v uint64) uint64 {
	low := v & (0x7f * ones8)
	fromA := low + (0x80-'A')*ones8
	aboveZ := low + (0x7f-'Z')*ones8
	capitals := (fromA ^ aboveZ) &^ v & (0x80 * ones8)
	return v | capitals>>2
}

// hashAddr returns the fingerprint of an address. An IPv4 address and its mapped form have the same one.
func hashAddr(k *seed, addr netip.Addr) uint64 {
	b := addr.As16()
	h := mix(k.addr^binary.LittleEndian.Uint64(b[:8]), k.chunk)
	return mix(h^binary.LittleEndian.Uint64(b[8:]), k.label) & fingerprintMask
}
