package dnsproxy

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Answers that need no upstream are written here octet by octet: a list with a million names makes them the most frequent kind.

// soaTail is the data of the SOA in negative answers up to its last field, the minimum TTL: RFC 2308 wants one to cache them by.
var soaTail = []byte("\x08penstock\x07invalid\x00" + "\x00" + // server, mailbox
	"\x00\x00\x00\x01" + "\x00\x00\x0e\x10" + "\x00\x00\x02\x58" + "\x00\x01\x51\x80") // serial, refresh, retry, expire

// maxEDEText bounds the text of an extended error, so that an answer with it fits 512 octets whatever the name.
const maxEDEText = 64

// ede is an extended DNS error (RFC 8914). Text is prefix and detail put together.
type ede struct {
	code           uint16
	prefix, detail string
}

// noEDE stands for no extended error: code 0 is "other", which is of no use to anybody.
var noEDE = ede{}

func (e ede) text() (prefix, detail string) {
	prefix = e.prefix[:min(len(e.prefix), maxEDEText)]
	return prefix, e.detail[:min(len(e.detail), maxEDEText-len(prefix))]
}

// begin appends header and question of an answer to q.
func begin(out []byte, q *question, rcode int) []byte {
	flags := bitQR | bitRA | q.flags&(bitRD|bitCD|0x7800) | uint16(rcode&0xf)
	out = binary.BigEndian.AppendUint16(out, q.id)
	out = binary.BigEndian.AppendUint16(out, flags)
	if q.len == 0 {
		return append(out, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	out = append(out, 0, 1, 0, 0, 0, 0, 0, 0)
	out = append(out, q.wire[:q.len]...)
	out = binary.BigEndian.AppendUint16(out, q.qtype)
	return binary.BigEndian.AppendUint16(out, q.qclass)
}

// count adds one to a section count of the answer that starts out. Sections are 1 answer, 2 authority, 3 additional.
func count(out []byte, section int) {
	at := out[4+2*section:]
	binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+1)
}

// appendRecord appends a record of the question's own name.
func appendRecord(out []byte, section int, rtype uint16, ttl time.Duration, data ...[]byte) []byte {
	count(out, section)
	size := 0
	for _, d := range data {
		size += len(d)
	}
	out = append(out, 0xc0, headerLen)
	out = binary.BigEndian.AppendUint16(out, rtype)
	out = binary.BigEndian.AppendUint16(out, dns.ClassINET)
	out = binary.BigEndian.AppendUint32(out, uint32(ttl/time.Second))
	out = binary.BigEndian.AppendUint16(out, uint16(size))
	for _, d := range data {
		out = append(out, d...)
	}
	return out
}

// appendSOA appends the SOA that makes a negative answer cacheable for ttl.
func appendSOA(out []byte, ttl time.Duration) []byte {
	var minimum [4]byte
	binary.BigEndian.PutUint32(minimum[:], uint32(ttl/time.Second))
	return appendRecord(out, 2, dns.TypeSOA, ttl, soaTail, minimum[:])
}

// appendAddr appends an A or AAAA record.
func appendAddr(out []byte, addr netip.Addr, ttl time.Duration) []byte {
	if addr.Is4() {
		a := addr.As4()
		return appendRecord(out, 1, dns.TypeA, ttl, a[:])
	}
	a := addr.As16()
	return appendRecord(out, 1, dns.TypeAAAA, ttl, a[:])
}

// optLen is the size of the OPT record that appendOPT appends.
func optLen(q *question, e ede) int {
	if !q.edns {
		return 0
	}
	if e == noEDE {
		return 11
	}
	prefix, detail := e.text()
	return 11 + 6 + len(prefix) + len(detail)
}

// appendOPT ends an answer: only a query that had an OPT record gets one (RFC 6891 7).
func appendOPT(out []byte, q *question, rcode int, e ede) []byte {
	if !q.edns {
		return out
	}
	count(out, 3)
	do := byte(0)
	if q.do {
		do = 0x80
	}
	out = append(out, 0, 0, byte(dns.TypeOPT), maxUDP>>8, maxUDP&0xff, byte(rcode>>4), 0, do, 0)
	if e == noEDE {
		return append(out, 0, 0)
	}
	prefix, detail := e.text()
	n := uint16(2 + len(prefix) + len(detail))
	out = binary.BigEndian.AppendUint16(out, 4+n)
	out = binary.BigEndian.AppendUint16(out, dns.EDNS0EDE)
	out = binary.BigEndian.AppendUint16(out, n)
	out = binary.BigEndian.AppendUint16(out, e.code)
	out = append(out, prefix...)
	return append(out, detail...)
}

// appendEmpty writes a whole answer without records.
func appendEmpty(out []byte, q *question, rcode int, e ede) []byte {
	return appendOPT(begin(out, q, rcode), q, rcode, e)
}

// appendNegative writes a whole negative answer with an SOA: NXDOMAIN, or no data with NOERROR.
func appendNegative(out []byte, q *question, rcode int, ttl time.Duration, e ede) []byte {
	return appendOPT(appendSOA(begin(out, q, rcode), ttl), q, rcode, e)
}

// append writes a whole block answer to q.
func (b BlockAnswer) append(out []byte, q *question, e ede) []byte {
	ttl := b.TTL
	switch b.Mode {
	case BlockRefused:
		return appendEmpty(out, q, dns.RcodeRefused, e)
	case BlockNull:
		switch q.qtype {
		case dns.TypeA:
			return appendOPT(appendAddr(begin(out, q, 0), netip.IPv4Unspecified(), ttl), q, 0, e)
		case dns.TypeAAAA:
			return appendOPT(appendAddr(begin(out, q, 0), netip.IPv6Unspecified(), ttl), q, 0, e)
		}
		return appendNegative(out, q, dns.RcodeSuccess, ttl, e)
	case BlockAddress:
		return b.appendAddrs(out, q, e)
	}
	return appendNegative(out, q, dns.RcodeNameError, ttl, e)
}

func (b BlockAnswer) appendAddrs(out []byte, q *question, e ede) []byte {
	start, found := len(out), false
	out = begin(out, q, dns.RcodeSuccess)
	for _, addr := range b.Addrs {
		if addr.Is4() && q.qtype == dns.TypeA || addr.Is6() && q.qtype == dns.TypeAAAA {
			out = appendAddr(out, addr, b.TTL)
			found = true
		}
	}
	if !found {
		return appendNegative(out[:start], q, dns.RcodeSuccess, b.TTL, e)
	}
	return appendOPT(out, q, dns.RcodeSuccess, e)
}
