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

	versionDraft = 0xff000000 // plus the number of a draft of version 1
	versionMS1   = 0xabcd0000 // MsQuic's, which is that of draft 29
)

// packetKind is the type of a long header packet, as version 1 numbers it.
type packetKind uint8

const (
	packetInitial packetKind = iota
	packetZeroRTT
	packetHandshake
	packetRetry
)

// packet is a long header packet of a version that is read, still protected.
type packet struct {
	kind    packetKind
	version uint32
	dcid    []byte
	scid    []byte
	raw     []byte // the whole packet
	number  int    // where in raw the packet number starts
}

// parsePacket parses the long header packet at the start of b and returns its size in bytes. Other packets may follow it in
// b. On failure p.version is still set if b contains it.
func parsePacket(b []byte) (p packet, size int, ok bool) {
	r := reader{b}
	head, ok := r.bytes(5)
	if !ok {
		return p, 0, false
	}
	p.version = binary.BigEndian.Uint32(head[1:])
	kind := head[0] >> 4 & 3
	if _, ok = saltOf(p.version); !ok {
		return p, 0, false
	}
	if p.version == version2 {
		kind = (kind - 1) & 3 // Initial is 1, and so on (RFC 9369 3.2)
	}
	if p.kind = packetKind(kind); p.kind == packetRetry {
		return p, 0, false // servers send it, and it has no length
	}
	if p.dcid, ok = connectionID(&r); !ok {
		return p, 0, false
	}
	if p.scid, ok = connectionID(&r); !ok {
		return p, 0, false
	}
	if p.kind == packetInitial {
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

// connectionID reads a connection ID.
func connectionID(r *reader) ([]byte, bool) {
	b, ok := r.vector(1)
	return b, ok && len(b) <= maxCID
}
