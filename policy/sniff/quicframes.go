package sniff

// Frames that a client may send in an Initial packet (RFC 9000 12.4).
const (
	framePadding = 0x00
	framePing    = 0x01
	frameACK     = 0x02
	frameACKECN  = 0x03
	frameCrypto  = 0x06
	frameClose   = 0x1c
)

// frames iterates over the CRYPTO frames of an Initial packet.
type frames struct {
	rest   []byte
	offset uint64 // where data starts in the handshake
	data   []byte
	broken bool // found a frame that is not allowed here, or a truncated one
}

// next moves on to the next CRYPTO frame, if there is one.
func (f *frames) next() bool {
	r := reader{f.rest}
	for len(r.rest) > 0 {
		kind, ok := r.varint()
		if !ok {
			break
		}
		switch kind {
		case framePadding, framePing:
			continue
		case frameACK, frameACKECN:
			if skipACK(&r, kind == frameACKECN) {
				continue
			}
		case frameCrypto:
			if f.crypto(&r) {
				f.rest = r.rest
				return true
			}
		case frameClose:
			f.rest = nil
			return false // the client closed the connection; its reason does not matter
		}
		f.broken = true
		return false
	}
	f.broken = len(r.rest) > 0
	f.rest = nil
	return false
}

func (f *frames) crypto(r *reader) bool {
	offset, ok := r.varint()
	if !ok {
		return false
	}
	size, ok := r.varint()
	if !ok {
		return false
	}
	f.offset = offset
	f.data, ok = r.bytes(size)
	return ok
}

// skipACK skips an acknowledgement (RFC 9000 19.3).
func skipACK(r *reader, ecn bool) bool {
	var ranges uint64
	for i := range 4 { // largest, delay, count of ranges, first range
		v, ok := r.varint()
		if !ok {
			return false
		}
		if i == 2 {
			ranges = v
		}
	}
	if ranges > uint64(len(r.rest)) {
		return false
	}
	rest := 2 * ranges // a gap and a length each
	if ecn {
		rest += 3
	}
	for range rest {
		if _, ok := r.varint(); !ok {
			return false
		}
	}
	return true
}

// assembly reassembles a handshake message. Its pieces arrive in any order and may overlap.
type assembly struct {
	data []byte
	have []uint64 // a bit for each byte of data
	n    int      // bytes without a gap from the start
}

// write adds a piece. It fails if the piece extends beyond MaxBytes or contradicts an earlier one: servers differ in which of
// the two they keep.
func (a *assembly) write(offset uint64, piece []byte) bool {
	if offset > MaxBytes || offset+uint64(len(piece)) > MaxBytes {
		return false
	}
	end := int(offset) + len(piece)
	if end > len(a.data) {
		a.data = append(a.data, make([]byte, end-len(a.data))...)
		a.have = append(a.have, make([]uint64, (end+63)/64-len(a.have))...)
	}
	for i, c := range piece {
		at := int(offset) + i
		if !a.has(at) {
			a.data[at] = c
			a.have[at/64] |= 1 << (at % 64)
		} else if a.data[at] != c {
			return false
		}
	}
	for a.n < len(a.data) && a.has(a.n) {
		a.n++
	}
	return true
}

func (a *assembly) has(at int) bool { return a.have[at/64]>>(at%64)&1 != 0 }

// prefix returns the bytes received without a gap from the start.
func (a *assembly) prefix() []byte { return a.data[:a.n] }
