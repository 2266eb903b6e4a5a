package sniff

// reader reads fields from the front of a slice. It returns subslices, where cryptobyte fills variables through pointers, so
// that the results can stay on the stack.
type reader struct{ rest []byte }

// bytes reads n bytes.
func (r *reader) bytes(n uint64) ([]byte, bool) {
	if n > uint64(len(r.rest)) {
		return nil, false
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b, true
}

// uint reads a big-endian number of size bytes.
func (r *reader) uint(size uint64) (uint64, bool) {
	b, ok := r.bytes(size)
	v := uint64(0)
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v, ok
}

// vector reads a length of size bytes, and then as many bytes as it says (RFC 8446 3.4).
func (r *reader) vector(size uint64) ([]byte, bool) {
	n, ok := r.uint(size)
	if !ok {
		return nil, false
	}
	return r.bytes(n)
}

// varint reads a number in QUIC's variable-length encoding (RFC 9000 16).
func (r *reader) varint() (uint64, bool) {
	if len(r.rest) == 0 {
		return 0, false
	}
	size := 1 << (r.rest[0] >> 6)
	v, ok := r.uint(uint64(size))
	return v &^ (3 << (8*size - 2)), ok
}
