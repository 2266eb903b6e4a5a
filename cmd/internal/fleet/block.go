package fleet

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"time"

	"penstock/router/transport/wireguard"
)

// A gateway tells of its sessions in blocks. A block has those that are new, renewed, moved or over since the block before, so a gateway
// with 1,000 peers writes one value each second and not eight, and one value and not a thousand when the store has lost them all. No
// block is written twice. It is gone from the store when the sessions in it carry no more; those that still do are in a later one.
//
// A block is the byte blockFormat, and then for each session the key of the peer, what (1 byte), the age of the handshake in
// milliseconds (4 bytes), the endpoint: 16 bytes, IPv4 as in RFC 4291 2.5.5.2, and 2 of the port, and the mark of the gateway that the
// peer is offered to (8 bytes). Numbers are big-endian.
const (
	blockFormat = 1
	blockEntry  = 32 + 1 + 4 + 16 + 2 + 8
	// mostInBlock bounds the sessions in a block. With all of them it has 258 KB, less than half of store.MaxValue.
	mostInBlock = 4096
)

// What a block says of a session.
const (
	carries = iota
	moved   // record.Moved
	over    // record.Over
)

// appendRecord adds a session to a block. A block begins with blockFormat.
func appendRecord(block []byte, peer wireguard.PublicKey, r record) []byte {
	what := byte(carries)
	switch {
	case r.Over:
		what = over
	case r.Moved:
		what = moved
	}
	block = append(append(block, peer[:]...), what)
	block = binary.BigEndian.AppendUint32(block, uint32(min(max(r.Age.Milliseconds(), 0), 1<<32-1)))
	var addr [16]byte
	var port uint16
	if at := r.Endpoint.Addr(); at.IsValid() && at.Zone() == "" { // a zone means nothing to others
		addr, port = at.As16(), r.Endpoint.Port()
	}
	block = binary.BigEndian.AppendUint16(append(block, addr[:]...), port)
	return binary.BigEndian.AppendUint64(block, uint64(r.To))
}

// mark stands for the name of a gateway in a block.
type mark uint64

// markOf returns the mark of a gateway. It is not 0 in practice.
func markOf(gateway string) mark {
	sum := sha256.Sum256([]byte(gateway))
	return mark(binary.BigEndian.Uint64(sum[:]))
}

var errNoBlock = errors.New("not a block of sessions")

// records calls each with the sessions of a block. The error is for what is no block; then each was not called.
func records(block []byte, each func(wireguard.PublicKey, record)) error {
	if len(block)%blockEntry != 1 || block[0] != blockFormat {
		return errNoBlock
	}
	for entry := block[1:]; len(entry) > 0; entry = entry[blockEntry:] {
		peer, rest := wireguard.PublicKey(entry), entry[len(wireguard.PublicKey{}):]
		r := record{
			Moved: rest[0] == moved, Over: rest[0] != moved && rest[0] != carries,
			Age: time.Duration(binary.BigEndian.Uint32(rest[1:])) * time.Millisecond,
			To:  mark(binary.BigEndian.Uint64(rest[23:])),
		}
		if port := binary.BigEndian.Uint16(rest[21:]); port > 0 {
			r.Endpoint = netip.AddrPortFrom(netip.AddrFrom16([16]byte(rest[5:])).Unmap(), port)
		}
		each(peer, r)
	}
	return nil
}

// blockKey returns the key of a block in the store. The name of the block is its gateway's alone.
func blockKey(site, gateway, name string) string {
	return strings.Join([]string{site, gateway, name}, ".")
}

// writerOf returns the gateway that has written a block. ok is false for a key that is none of a block.
func writerOf(site, key string) (gateway string, ok bool) {
	words := strings.Split(key, ".")
	if len(words) != 3 || words[0] != site {
		return "", false
	}
	return words[1], true
}
