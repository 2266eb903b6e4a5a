package link

import (
	"encoding/binary"
	"math/bits"
)

// sum adds b to a running Internet checksum (RFC 1071) as 16-bit big-endian words, odd tail padded with zero.
func sum(b []byte, acc uint64) uint64 {
	var carry uint64
	for len(b) >= 32 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[8:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[16:]), carry)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b[24:]), carry)
		acc += carry
		b = b[32:]
	}
	for len(b) >= 8 {
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(b), 0)
		acc += carry
		b = b[8:]
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		acc, carry = bits.Add64(acc, binary.BigEndian.Uint64(tail[:]), 0)
		acc += carry
	}
	return acc
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
