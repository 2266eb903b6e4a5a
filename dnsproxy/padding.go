package dnsproxy

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// paddedTo is what the length of an encrypted query is a multiple of, in octets, so that it says little of the name (RFC 8467 4.1).
const paddedTo = 128

// padded returns a copy of query with a padding option in its OPT record, which must be the last record and empty.
func padded(query []byte) []byte {
	pad := (paddedTo - (len(query)+4)%paddedTo) % paddedTo
	out := append(make([]byte, 0, len(query)+4+pad), query...)
	binary.BigEndian.PutUint16(out[len(out)-2:], uint16(4+pad))
	out = binary.BigEndian.AppendUint16(out, dns.EDNS0PADDING)
	out = binary.BigEndian.AppendUint16(out, uint16(pad))
	return out[:cap(out)]
}
