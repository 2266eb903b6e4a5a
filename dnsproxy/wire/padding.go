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

// AnswersPaddedTo is the block size for the padding of answers, octets (RFC 8467 4.1).
const AnswersPaddedTo = 468

// PadAnswer appends a padding option to the OPT record of an answer, which must be its last record. An answer without an OPT
// record, or one that would become too long, stays as it is.
func PadAnswer(msg []byte) []byte {
	opt := 0 // offset of the type of the last record, if that is an OPT
	end := eachRecord(msg, func(_, fixed, _ int) {
		if opt = 0; binary.BigEndian.Uint16(msg[fixed:]) == dns.TypeOPT {
			opt = fixed
		}
	})
	pad := (AnswersPaddedTo - (len(msg)+4)%AnswersPaddedTo) % AnswersPaddedTo
	if opt == 0 || end != len(msg) || len(msg)+4+pad > dns.MaxMsgSize {
		return msg
	}
	length := binary.BigEndian.Uint16(msg[opt+8:])
	binary.BigEndian.PutUint16(msg[opt+8:], length+uint16(4+pad))
	msg = binary.BigEndian.AppendUint16(msg, dns.EDNS0PADDING)
	msg = binary.BigEndian.AppendUint16(msg, uint16(pad))
	return append(msg, make([]byte, pad)...)
}
