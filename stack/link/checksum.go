package link

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b to a running Internet checksum (RFC 1071) as 16-bit big-endian words, odd tail padded with zero.
//
// It adds words of 64 bits in the order that costs no swap on most machines: the checksum of swapped words is the swapped checksum.
func sum(b []byte, acc uint64) uint64 {
	acc = bits.ReverseBytes64(acc)
	var carry uint64
	for len(b) >= 64 {
		w := (*[64]byte)(b)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[0:]), 0)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[8:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[16:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[24:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[32:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[40:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[48:]), carry)
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(w[56:]), carry)
		acc += carry
		b = b[64:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.LittleEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	var tail uint64 // fewer than 8 bytes
	if len(b) >= 4 {
		tail = uint64(binary.LittleEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		tail += uint64(binary.LittleEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		tail += uint64(b[0])
	}
	acc, carry = bits.Add64(acc, tail, 0)
	return bits.ReverseBytes64(acc + carry)
}

// fold turns a running sum into 16 bits, not complemented.
func fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// Checksum is the finished Internet checksum of b with initial, a sum that was not complemented (a pseudo-header's, or 0).
func Checksum(b []byte, initial uint16) uint16 {
	return ^fold(sum(b, uint64(initial)))
}

// PseudoHeader is the sum, not complemented, of the IPv4 or IPv6 pseudo-header: src and dst are 4 or 16 bytes each.
func PseudoHeader(proto uint8, src, dst []byte, length int) uint16 {
	var tail [4]byte
	binary.BigEndian.PutUint32(tail[:], uint32(length)) // the upper half is zero for IPv4
	acc := sum(src, 0)
	acc = sum(dst, uint64(fold(acc)))
	acc = uint64(fold(acc)) + uint64(fold(sum(tail[:], 0))) + uint64(proto)
	return fold(acc)
}
