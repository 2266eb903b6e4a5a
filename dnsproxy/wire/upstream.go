package wire

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// UpstreamQuery returns the message that asks upstreams for q. It has an OPT record of our own and no
// option of the client: cookies, subnets and padding are hop by hop. The AD bit asks whether the answer was validated (RFC 6840 5.7).
func UpstreamQuery(q *Question) []byte {
	out := make([]byte, HeaderLen, HeaderLen+q.len+4+optLen)
	binary.BigEndian.PutUint16(out[2:], FlagRD|FlagAD|q.Flags&FlagCD)
	out[5], out[11] = 1, 1
	out = append(out, q.lower[:q.len]...)
	out = binary.BigEndian.AppendUint16(out, q.Type)
	out = binary.BigEndian.AppendUint16(out, q.Class)
	do := byte(0)
	if q.DO {
		do = 0x80
	}
	return append(out, 0, 0, byte(dns.TypeOPT), MaxUDP>>8, MaxUDP&0xff, 0, 0, do, 0, 0, 0)
}

// optLen is the length of the OPT record that UpstreamQuery writes, octets.
const optLen = 11

// WithoutOPT returns a message of UpstreamQuery without EDNS.
func WithoutOPT(query []byte) []byte {
	plain := append([]byte(nil), query[:len(query)-optLen]...)
	plain[11] = 0
	return plain
}

// Matches reports whether msg answers query: id, opcode and question. An error may lack the question: old servers that cannot read
// a query answer with the header alone.
func Matches(query, msg []byte) bool {
	if len(msg) < HeaderLen || msg[0] != query[0] || msg[1] != query[1] {
		return false
	}
	flags := binary.BigEndian.Uint16(msg[2:])
	if flags&FlagQR == 0 || flags>>11&0xf != dns.OpcodeQuery {
		return false
	}
	switch binary.BigEndian.Uint16(msg[4:]) {
	case 0:
		bare := len(msg) == HeaderLen && [6]byte(msg[6:]) == [6]byte{}
		switch flags & 0xf {
		case dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNotImplemented, dns.RcodeRefused:
			return bare
		}
		return false
	case 1:
	default:
		return false
	}
	end := SkipName(query, HeaderLen) + 4
	if len(msg) < end {
		return false
	}
	for i := HeaderLen; i < end; i++ { // our name is in lower case; length octets, type and class are below 'A' or the same
		if c := msg[i]; c != query[i] && (i >= end-4 || c < 'A' || c > 'Z' || c+'a'-'A' != query[i]) {
			return false
		}
	}
	return true
}
