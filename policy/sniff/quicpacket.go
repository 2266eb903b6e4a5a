package sniff

import (
	"encoding/binary"
)

// Long header packets (RFC 9000 17.2).
const (
	longHeader = 0x80 // bit of the first byte
	maxCID     = 20   // bytes
	version1   = 1
	version2   = 0x6b3343cf // RFC 9369 3.1
)

// packet is a long header packet of version 1 or 2, still protected.
type packet struct {
	initial bool
	version uint32
	dcid    []byte
	raw     []byte // the whole packet
	number  int    // where in raw the packet number starts
}

// parsePacket reads the long header packet that starts b and returns its size in bytes. Others may follow it in b.
func parsePacket(b []byte) (p packet, size int, ok bool) {
	r := varints{b}
	head, ok := r.bytes(5)
	if !ok {
		return p, 0, false
	}
	p.version = binary.BigEndian.Uint32(head[1:])
	kind := head[0] >> 4 & 3
	switch p.version {
	case version1:
	case version2:
		kind = (kind - 1) & 3 // Initial is 1, and so on (RFC 9369 3.2)
	default:
		return p, 0, false
	}
	if kind == 3 {
		return p, 0, false // Retry: servers send it, and it has no length
	}
	p.initial = kind == 0
	if p.dcid, ok = r.connectionID(); !ok {
		return p, 0, false
	}
	if _, ok = r.connectionID(); !ok {
		return p, 0, false
	}
	if p.initial {
		token, ok := r.varint()
		if !ok {
			return p, 0, false
		}
		if _, ok = r.bytes(token); !ok {
			return p, 0, false
		}
	}
	length, ok := r.varint()
	if !ok {
		return p, 0, false
	}
	p.number = len(b) - len(r.rest)
	if _, ok = r.bytes(length); !ok {
		return p, 0, false
	}
	size = len(b) - len(r.rest)
	p.raw = b[:size]
	return p, size, true
}

// varints reads QUIC's variable-length integers (RFC 9000 16) and what they measure.
type varints struct{ rest []byte }

func (r *varints) varint() (uint64, bool) {
	if len(r.rest) == 0 {
		return 0, false
	}
	size := 1 << (r.rest[0] >> 6)
	if len(r.rest) < size {
		return 0, false
	}
	v := uint64(r.rest[0] & 0x3f)
	for _, c := range r.rest[1:size] {
		v = v<<8 | uint64(c)
	}
	r.rest = r.rest[size:]
	return v, true
}

func (r *varints) bytes(n uint64) ([]byte, bool) {
	if n > uint64(len(r.rest)) {
		return nil, false
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b, true
}

func (r *varints) connectionID() ([]byte, bool) {
	n, ok := r.bytes(1)
	if !ok || n[0] > maxCID {
		return nil, false
	}
	return r.bytes(uint64(n[0]))
}
