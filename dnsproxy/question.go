package dnsproxy

import (
	"encoding/binary"
	"unsafe"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	maxName   = 255  // octets on the wire, RFC 1035 3.1
	maxHost   = 1024 // a name of 255 octets with each escaped as \DDD
	plainUDP  = 512  // octets of a UDP answer without EDNS, RFC 1035 4.2.1
	maxUDP    = 1232 // and with it: fits a 1280 byte IPv6 packet (DNS flag day 2020)
)

// Bits in the second pair of octets of the header.
const (
	bitQR = 1 << 15
	bitAA = 1 << 10
	bitTC = 1 << 9
	bitRD = 1 << 8
	bitRA = 1 << 7
	bitAD = 1 << 5
	bitCD = 1 << 4
)

// question is a query as far as the server needs it, read from the wire without an allocation.
type question struct {
	id            uint16
	flags         uint16
	qtype, qclass uint16

	wire  [maxName]byte // the name as the client wrote it, to be given back
	lower [maxName]byte // the name in lower case, the key of the cache
	len   int           // octets in wire and lower; 0 if the question could not be read
	text  [maxHost]byte // lower in text, without the trailing dot
	chars int           // octets in text

	edns    bool
	do      bool
	udpSize uint16
}

// reading is what came of reading a query.
type reading uint8

const (
	notQuery reading = iota // too short or itself an answer: not worth an answer
	badQuery                // answered with the response code that came with it
	goodQuery
)

// read takes the query apart. It keeps nothing of msg.
func (q *question) read(msg []byte) (reading, int) {
	q.len, q.chars, q.qtype, q.qclass, q.edns, q.do, q.udpSize = 0, 0, 0, 0, false, false, plainUDP
	if len(msg) < headerLen {
		return notQuery, 0
	}
	q.id = binary.BigEndian.Uint16(msg)
	q.flags = binary.BigEndian.Uint16(msg[2:])
	switch {
	case q.flags&bitQR != 0:
		return notQuery, 0
	case q.flags>>11&0xf != dns.OpcodeQuery:
		return badQuery, dns.RcodeNotImplemented
	case binary.BigEndian.Uint16(msg[4:]) != 1:
		return badQuery, dns.RcodeFormatError
	}
	off := q.readName(msg)
	if off == 0 || len(msg) < off+4 {
		q.len = 0
		return badQuery, dns.RcodeFormatError
	}
	q.qtype = binary.BigEndian.Uint16(msg[off:])
	q.qclass = binary.BigEndian.Uint16(msg[off+2:])
	return q.readOPT(msg, off+4)
}

// readName reads the name behind the header and returns the offset after it, or 0 if it is not a plain name.
func (q *question) readName(msg []byte) int {
	chars := 0
	for off := headerLen; off < len(msg); {
		n := int(msg[off])
		end := off + 1 + n
		if n > 63 || end > len(msg) || end-headerLen > maxName-1 && n != 0 {
			return 0
		}
		if n == 0 {
			q.len = end - headerLen
			copy(q.wire[:], msg[headerLen:end])
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
		q.lower[off-headerLen] = byte(n)
		for i := off + 1; i < end; i++ {
			c := msg[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.lower[i-headerLen] = c
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
func (q *question) readOPT(msg []byte, off int) (reading, int) {
	records := int(binary.BigEndian.Uint16(msg[6:])) + int(binary.BigEndian.Uint16(msg[8:])) + int(binary.BigEndian.Uint16(msg[10:]))
	for range records {
		fixed := skipName(msg, off)
		if fixed == 0 || len(msg) < fixed+10 {
			return badQuery, dns.RcodeFormatError
		}
		next := fixed + 10 + int(binary.BigEndian.Uint16(msg[fixed+8:]))
		if next > len(msg) {
			return badQuery, dns.RcodeFormatError
		}
		if binary.BigEndian.Uint16(msg[fixed:]) == dns.TypeOPT {
			if q.edns || msg[off] != 0 { // RFC 6891 6.1.1: one, at the root
				return badQuery, dns.RcodeFormatError
			}
			q.edns = true
			q.udpSize = max(binary.BigEndian.Uint16(msg[fixed+2:]), plainUDP)
			q.do = msg[fixed+6]&0x80 != 0
			if version := msg[fixed+5]; version != 0 {
				return badQuery, dns.RcodeBadVers
			}
		}
		off = next
	}
	return goodQuery, 0
}

// skipName returns the offset behind the name at off, or 0 if there is none.
func skipName(msg []byte, off int) int {
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

// host is the name as text. The string is a view that the next read overwrites.
func (q *question) host() string { return unsafe.String(&q.text[0], q.chars) }

// key is the name in wire form and lower case, as a view likewise.
func (q *question) key() string { return unsafe.String(&q.lower[0], q.len) }

// limit is the size of the largest UDP answer that the client and the path take.
func (q *question) limit() int {
	if !q.edns {
		return plainUDP
	}
	return int(min(q.udpSize, maxUDP))
}
