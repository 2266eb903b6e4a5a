package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// soaTail is the data of the SOA in negative answers up to its last field, the minimum TTL: without one nobody may cache them (RFC 2308 5).
var soaTail = []byte("\x08penstock\x07invalid\x00" + "\x00" + // server, mailbox
	"\x00\x00\x00\x01" + "\x00\x00\x0e\x10" + "\x00\x00\x02\x58" + "\x00\x01\x51\x80") // serial, refresh, retry, expire

// maxEDEText bounds the text of an extended error, so that an answer with it fits 512 octets whatever the name.
const maxEDEText = 64

// EDE is an extended DNS error (RFC 8914). Its text is Prefix followed by Detail. The zero EDE stands for none.
type EDE struct {
	Code           uint16
	Prefix, Detail string
}

func (e EDE) text() (prefix, detail string) {
	prefix = e.Prefix[:min(len(e.Prefix), maxEDEText)]
	return prefix, e.Detail[:min(len(e.Detail), maxEDEText-len(prefix))]
}

// Begin appends header and question of an answer to q.
func Begin(out []byte, q *Question, rcode int) []byte {
	flags := FlagQR | FlagRA | q.Flags&(FlagRD|FlagCD|0x7800) | uint16(rcode&0xf)
	out = binary.BigEndian.AppendUint16(out, q.ID)
	out = binary.BigEndian.AppendUint16(out, flags)
	if q.len == 0 {
		return append(out, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	out = append(out, 0, 1, 0, 0, 0, 0, 0, 0)
	out = append(out, q.Name()...)
	out = binary.BigEndian.AppendUint16(out, q.Type)
	return binary.BigEndian.AppendUint16(out, q.Class)
}

// count adds one to a section count of the answer in out. Sections are 1 answer, 2 authority, 3 additional.
func count(out []byte, section int) {
	at := out[4+2*section:]
	binary.BigEndian.PutUint16(at, binary.BigEndian.Uint16(at)+1)
}

// AppendRecord appends a record of the question's own name.
func AppendRecord(out []byte, section int, rtype uint16, ttl time.Duration, data ...[]byte) []byte {
	return AppendRecordOf(out, HeaderLen, section, rtype, ttl, data...)
}

// AppendRecordOf appends a record of the name that stands at an offset of the answer, below 16384.
func AppendRecordOf(out []byte, owner, section int, rtype uint16, ttl time.Duration, data ...[]byte) []byte {
	count(out, section)
	size := 0
	for _, d := range data {
		size += len(d)
	}
	if out[owner] == 0 { // the root is shorter than a pointer
		out = append(out, 0)
	} else {
		out = binary.BigEndian.AppendUint16(out, 0xc000|uint16(owner))
	}
	out = binary.BigEndian.AppendUint16(out, rtype)
	out = binary.BigEndian.AppendUint16(out, dns.ClassINET)
	out = binary.BigEndian.AppendUint32(out, uint32(ttl/time.Second))
	out = binary.BigEndian.AppendUint16(out, uint16(size))
	for _, d := range data {
		out = append(out, d...)
	}
	return out
}

// AppendSOA appends the SOA of the question's own name that makes a negative answer cacheable for ttl.
func AppendSOA(out []byte, ttl time.Duration) []byte {
	var minimum [4]byte
	binary.BigEndian.PutUint32(minimum[:], uint32(ttl/time.Second))
	return AppendRecord(out, 2, dns.TypeSOA, ttl, soaTail, minimum[:])
}

// AppendZoneSOA appends the SOA of a zone that the question's name is in, so that a negative answer is cacheable for ttl. Zone is a
// name in wire form and lower case, and data the record's, with its names in full. It reports whether the name is in the zone; if not,
// out is as it was. Names in data are compressed as the library for whole messages does it: an answer of ours must not be told from
// one of an upstream by its length, or by the case of its names.
func AppendZoneSOA(out []byte, q *Question, zone string, data []byte, ttl time.Duration) ([]byte, bool) {
	off := 0
	for q.Key()[off:] != zone {
		if q.lower[off] == 0 {
			return out, false
		}
		off += 1 + int(q.lower[off])
	}
	server := SkipName(data, 0)
	mailbox := SkipName(data, server)
	if server == 0 || mailbox == 0 {
		return out, false
	}
	out = AppendRecordOf(out, HeaderLen+off, 2, dns.TypeSOA, ttl)
	start := len(out)
	out = appendName(out, q, data[:server], nil, 0)
	out = appendName(out, q, data[server:mailbox], data[:server], start)
	out = append(out, data[mailbox:]...)
	binary.BigEndian.PutUint16(out[start-2:], uint16(len(out)-start))
	return out, true
}

// appendName appends a name in wire form, with a pointer in the place of its longest part that is in the question's name in lower case,
// or in another name that stands at an offset of the answer.
func appendName(out []byte, q *Question, name, other []byte, at int) []byte {
	for len(name) > 1 {
		for off := 0; off+1 < q.len; off += 1 + int(q.lower[off]) {
			if q.Key()[off:] == string(name) {
				return binary.BigEndian.AppendUint16(out, 0xc000|uint16(HeaderLen+off))
			}
		}
		for off := 0; off+1 < len(other); off += 1 + int(other[off]) {
			if bytes.Equal(other[off:], name) { // the part in full: a shorter one that is a pointer there is found in the question
				return binary.BigEndian.AppendUint16(out, 0xc000|uint16(at+off))
			}
		}
		label := 1 + int(name[0])
		out = append(out, name[:label]...)
		name = name[label:]
	}
	return append(out, 0)
}

// AppendAddr appends an A or AAAA record of the question's own name.
func AppendAddr(out []byte, addr netip.Addr, ttl time.Duration) []byte {
	return AppendAddrOf(out, HeaderLen, addr, ttl)
}

// AppendAddrOf appends an A or AAAA record of the name that stands at an offset of the answer.
func AppendAddrOf(out []byte, owner int, addr netip.Addr, ttl time.Duration) []byte {
	if addr.Is4() {
		a := addr.As4()
		return AppendRecordOf(out, owner, 1, dns.TypeA, ttl, a[:])
	}
	a := addr.As16()
	return AppendRecordOf(out, owner, 1, dns.TypeAAAA, ttl, a[:])
}

// OPTLen is the size of the OPT record that AppendOPT appends.
func OPTLen(q *Question, e EDE) int {
	if !q.EDNS {
		return 0
	}
	if e == (EDE{}) {
		return 11
	}
	prefix, detail := e.text()
	return 11 + 6 + len(prefix) + len(detail)
}

// AppendOPT ends an answer: only a query that had an OPT record gets one (RFC 6891 7).
func AppendOPT(out []byte, q *Question, rcode int, e EDE) []byte {
	if !q.EDNS {
		return out
	}
	count(out, 3)
	do := byte(0)
	if q.DO {
		do = 0x80
	}
	out = append(out, 0, 0, byte(dns.TypeOPT), MaxUDP>>8, MaxUDP&0xff, byte(rcode>>4), 0, do, 0)
	if e == (EDE{}) {
		return append(out, 0, 0)
	}
	prefix, detail := e.text()
	n := uint16(2 + len(prefix) + len(detail))
	out = binary.BigEndian.AppendUint16(out, 4+n)
	out = binary.BigEndian.AppendUint16(out, dns.EDNS0EDE)
	out = binary.BigEndian.AppendUint16(out, n)
	out = binary.BigEndian.AppendUint16(out, e.Code)
	out = append(out, prefix...)
	return append(out, detail...)
}

// AppendEmpty writes a whole answer without records.
func AppendEmpty(out []byte, q *Question, rcode int, e EDE) []byte {
	return AppendOPT(Begin(out, q, rcode), q, rcode, e)
}

// AppendNegative writes a whole negative answer with an SOA: NXDOMAIN, or no data with NOERROR.
func AppendNegative(out []byte, q *Question, rcode int, ttl time.Duration, e EDE) []byte {
	return AppendOPT(AppendSOA(Begin(out, q, rcode), ttl), q, rcode, e)
}
