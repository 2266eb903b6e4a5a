// Package wire reads DNS queries from octets and writes answers to octets, without an allocation: a server that answers most
// queries by itself spends its time here.
//
// It knows no server, cache or upstream, and leaves whole messages with many records to a DNS library.
package wire

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"github.com/miekg/dns"
)

// Sizes, in octets.
const (
	HeaderLen = 12
	maxName   = 255  // octets on the wire, RFC 1035 3.1
	maxHost   = 1024 // a name of 255 octets with each escaped as \DDD
	plainUDP  = 512  // octets of a UDP answer without EDNS, RFC 1035 4.2.1
	MaxUDP    = 1232 // and with it: fits a 1280 byte IPv6 packet (DNS flag day 2020)
)

// Bits in the second pair of octets of the header.
const (
	FlagQR = 1 << 15
	FlagAA = 1 << 10
	FlagTC = 1 << 9
	FlagRD = 1 << 8
	FlagRA = 1 << 7
	FlagAD = 1 << 5
	FlagCD = 1 << 4
)

// Question is what a server needs of a query.
type Question struct {
	ID          uint16
	Flags       uint16 // the second pair of octets of the header
	Type, Class uint16
	EDNS        bool // it has an OPT record
	DO          bool
	Padding     bool // it has a padding option, so the answer may be padded too (RFC 7830 4)

	wire  [maxName]byte // the name as the client wrote it, which the answer repeats
	lower [maxName]byte // the name in lower case, the key of the cache
	len   int           // octets in wire and lower; 0 if the question could not be read
	text  [maxHost]byte // lower in text, without the trailing dot
	chars int           // octets in text

	udpSize uint16
}

// Reading is what came of reading a query.
type Reading uint8

// Readings.
const (
	NotQuery Reading = iota // too short, or itself an answer: send nothing
	BadQuery                // answer with the response code that Read returned
	GoodQuery
)

// Read takes the query apart. It keeps nothing of msg. The response code comes with BadQuery.
func (q *Question) Read(msg []byte) (Reading, int) {
	q.len, q.chars, q.Type, q.Class, q.EDNS, q.DO, q.Padding, q.udpSize = 0, 0, 0, 0, false, false, false, plainUDP
	if len(msg) < HeaderLen {
		return NotQuery, 0
	}
	q.ID = binary.BigEndian.Uint16(msg)
	q.Flags = binary.BigEndian.Uint16(msg[2:])
	switch {
	case q.Flags&FlagQR != 0:
		return NotQuery, 0
	case q.Flags>>11&0xf != dns.OpcodeQuery:
		return BadQuery, dns.RcodeNotImplemented
	case binary.BigEndian.Uint16(msg[4:]) != 1:
		return BadQuery, dns.RcodeFormatError
	}
	off := q.readName(msg)
	if off == 0 || len(msg) < off+4 {
		q.len = 0
		return BadQuery, dns.RcodeFormatError
	}
	q.Type = binary.BigEndian.Uint16(msg[off:])
	q.Class = binary.BigEndian.Uint16(msg[off+2:])
	return q.readOPT(msg, off+4)
}

// readName reads the name behind the header and returns the offset after it, or 0 if it is not a plain name.
func (q *Question) readName(msg []byte) int {
	chars := 0
	for off := HeaderLen; off < len(msg); {
		n := int(msg[off])
		end := off + 1 + n
		if n > 63 || end > len(msg) || end-HeaderLen > maxName-1 && n != 0 {
			return 0
		}
		if n == 0 {
			q.len = end - HeaderLen
			copy(q.wire[:], msg[HeaderLen:end])
			q.lower[q.len-1] = 0
			if chars == 0 { // the root
				q.text[0], chars = '.', 1
			}
			q.chars = chars
			return end
		}
		if chars > 0 {
			q.text[chars] = '.'
			chars++
		}
		q.lower[off-HeaderLen] = byte(n)
		for i := off + 1; i < end; i++ {
			c := msg[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[i-HeaderLen] = c
			if c <= ' ' || c >= 0x7f || c == '.' || c == '\\' {
				chars += copy(q.text[chars:], []byte{'\\', '0' + c/100, '0' + c/10%10, '0' + c%10})
				continue
			}
			q.text[chars] = c
			chars++
		}
		off = end
	}
	return 0
}

// readOPT looks for the OPT record among the records behind the question.
func (q *Question) readOPT(msg []byte, off int) (Reading, int) {
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range records {
		fixed := SkipName(msg, off)
		if fixed == 0 || len(msg) < fixed+10 {
			return BadQuery, dns.RcodeFormatError
		}
		next := fixed + 10 + int(binary.BigEndian.Uint16(msg[fixed+8:]))
		if next > len(msg) {
			return BadQuery, dns.RcodeFormatError
		}
		if binary.BigEndian.Uint16(msg[fixed:]) == dns.TypeOPT {
			if q.EDNS || msg[off] != 0 { // RFC 6891 6.1.1: one, at the root
				return BadQuery, dns.RcodeFormatError
			}
			q.EDNS = true
			q.udpSize = max(binary.BigEndian.Uint16(msg[fixed+2:]), plainUDP)
			q.DO = msg[fixed+6]&0x80 != 0
			q.Padding = hasOption(msg[fixed+10:next], dns.EDNS0PADDING)
			if version := msg[fixed+5]; version != 0 {
				return BadQuery, dns.RcodeBadVers
			}
		}
		off = next
	}
	return GoodQuery, 0
}

// hasOption reports whether the data of an OPT record holds an option.
func hasOption(data []byte, code uint16) bool {
	for len(data) >= 4 {
		if binary.BigEndian.Uint16(data) == code {
			return true
		}
		data = data[min(4+int(binary.BigEndian.Uint16(data[2:])), len(data)):]
	}
	return false
}

// SkipName returns the offset behind the name at off, or 0 if there is none.
func SkipName(msg []byte, off int) int {
	for off < len(msg) {
		switch n := int(msg[off]); {
		case n == 0:
			return off + 1
		case n >= 0xc0:
			if off+2 > len(msg) {
				return 0
			}
			return off + 2
		case n > 63:
			return 0
		default:
			off += 1 + n
		}
	}
	return 0
}

// Host returns the name as text: lower case, no trailing dot, odd octets as \DDD. The string shares memory with q: the
// next Read overwrites it.
func (q *Question) Host() string { return unsafe.String(&q.text[0], q.chars) }

// Key returns the name in wire form and lower case. It shares memory with q too.
func (q *Question) Key() string { return unsafe.String(&q.lower[0], q.len) }

// Name returns the name in wire form as the client wrote it, or nothing if the question could not be read. It shares memory with q
// too.
func (q *Question) Name() []byte { return q.wire[:q.len] }

// Limit returns the size of the largest UDP answer that client and path can take, octets.
func (q *Question) Limit() int {
	if !q.EDNS {
		return plainUDP
	}
	return int(min(q.udpSize, MaxUDP))
}

// Attributes returns how many labels at the start of the name begin with an underscore: such names hold attributes of the host
// behind them (RFC 8552).
func (q *Question) Attributes() (labels int) {
	for off := 0; q.lower[off] != 0 && q.lower[off+1] == '_'; off += 1 + int(q.lower[off]) {
		labels++
	}
	return labels
}

// HostBehind returns the name without so many labels at its start, as Host does; "" if nothing but the root is left.
func (q *Question) HostBehind(labels int) string {
	host := q.Host()
	for range labels {
		_, host, _ = strings.Cut(host, ".")
	}
	return host
}

// KeyBehind returns the name without so many labels at its start, as Key does.
func (q *Question) KeyBehind(labels int) string {
	off := 0
	for range labels {
		off += 1 + int(q.lower[off])
	}
	return q.Key()[off:]
}

// Other returns the question of the same client about the name without so many labels at its start, and about another type.
func (q *Question) Other(labels int, qtype uint16) *Question {
	other := *q
	cut := q.len - len(q.KeyBehind(labels))
	other.Type, other.len = qtype, q.len-cut
	copy(other.wire[:], q.wire[cut:q.len])
	copy(other.lower[:], q.lower[cut:q.len])
	if other.chars = copy(other.text[:], q.HostBehind(labels)); other.chars == 0 { // the root
		other.text[0], other.chars = '.', 1
	}
	return &other
}
