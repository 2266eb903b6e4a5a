package wire

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// PaddedTo is the block size for padding, octets: the length of an encrypted query must not reveal the name (RFC 8467 4.1).
const PaddedTo = 128

// Padded returns a copy of query with a padding option in its OPT record, which must be the last record and empty.
func Padded(query []byte) []byte {
	pad := (PaddedTo - (len(query)+4)%PaddedTo) % PaddedTo
	out := append(make([]byte, 0, len(query)+4+pad), query...)
	binary.BigEndian.PutUint16(out[len(out)-2:], uint16(4+pad))
	out = binary.BigEndian.AppendUint16(out, dns.EDNS0PADDING)
	out = binary.BigEndian.AppendUint16(out, uint16(pad))
	return out[:cap(out)]
}
