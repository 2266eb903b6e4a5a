package dnsproxy

import (
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"time"
)

const (
	staleTTL = 30 * time.Second // RFC 8767 4
	staleFor = time.Hour        // how long after its expiry an answer may still be used when upstreams fail
)

// entry is an answer in wire format, cleaned of all that no client may see. It does not change once it is made, except for the
// atomic fields, and may be read by many.
type entry struct {
	msg    []byte   // header, question and records, without OPT
	ttls   []uint16 // where the TTL of each record is in msg
	ad     bool     // the upstream validated it
	rcode  int
	stored time.Time
	ttl    time.Duration // until expiry, counted from stored

	host     string       // the name that was asked for
	targets  []string     // the names behind it: CNAME, DNAME, HTTPS and SVCB targets
	addrs    []netip.Addr // all addresses in it, for the names table
	hints    []netip.Addr // those of them that are hints in HTTPS and SVCB records
	upstream string
	trouble  ede // why it is a failure, with SERVFAIL
	note     ede // what clients are told about a good answer

	hits     atomic.Uint32
	renewing atomic.Bool  // somebody asks for its successor
	retry    atomic.Int64 // Unix nanoseconds: until then an expired entry is used without asking again
}

func (e *entry) age(now time.Time) time.Duration { return max(now.Sub(e.stored), 0) }

func (e *entry) fresh(now time.Time) bool { return e.age(now) < e.ttl }

// usable says whether an expired entry may stand in for an upstream that fails.
func (e *entry) usable(now time.Time) bool { return e.age(now) < e.ttl+staleFor && !e.failure() }

func (e *entry) failure() bool { return e.trouble != noEDE }

// left is the TTL that clients are told at most.
func (e *entry) left(now time.Time) time.Duration {
	if left := e.ttl - e.age(now); left > 0 {
		return left
	}
	return staleTTL
}

// size is the memory that the cache accounts for: the slices, and about 400 octets for the structs and their place in the map.
func (e *entry) size() int {
	n := 400 + len(e.msg) + 2*len(e.ttls) + 2*len(e.host) + 24*(len(e.addrs)+len(e.hints))
	for _, t := range e.targets {
		n += 16 + len(t)
	}
	return n
}

// append writes the answer to q: the client's id, bits and spelling, TTLs less the age, whole records up to limit octets.
func (e *entry) append(out []byte, q *question, now time.Time, limit int, why ede) []byte {
	room := limit - optLen(q, why)
	end, counts, truncated := e.fit(room)
	out = append(out, e.msg[:end]...)
	flags := bitQR | bitRA | q.flags&(bitRD|bitCD) | uint16(e.rcode&0xf)
	if truncated {
		flags |= bitTC
	}
	if e.ad && (q.do || q.flags&bitAD != 0) { // RFC 6840 5.8
		flags |= bitAD
	}
	binary.BigEndian.PutUint16(out, q.id)
	binary.BigEndian.PutUint16(out[2:], flags)
	for i, n := range counts {
		binary.BigEndian.PutUint16(out[6+2*i:], n)
	}
	copy(out[headerLen:], q.wire[:q.len])
	e.setTTLs(out, now)
	return appendOPT(out, q, e.rcode, why)
}

// fit finds how much of msg goes into room octets: the end of the last whole record and the counts of the three sections.
func (e *entry) fit(room int) (end int, counts [3]uint16, truncated bool) {
	for i := range counts {
		counts[i] = binary.BigEndian.Uint16(e.msg[6+2*i:])
	}
	if len(e.msg) <= room {
		return len(e.msg), counts, false
	}
	end = headerLen + len(e.key()) + 4
	kept, n := [3]uint16{}, 0
	for section := range counts {
		for range counts[section] {
			at := int(e.ttls[n])
			next := at + 6 + int(binary.BigEndian.Uint16(e.msg[at+4:]))
			if next > room {
				return end, kept, true
			}
			end = next
			kept[section]++
			n++
		}
	}
	return end, kept, false
}

func (e *entry) setTTLs(out []byte, now time.Time) {
	age := e.age(now)
	stale := age >= e.ttl
	for _, at := range e.ttls {
		if int(at)+4 > len(out) {
			return
		}
		ttl := uint32(staleTTL / time.Second)
		if !stale {
			ttl = binary.BigEndian.Uint32(out[at:])
			ttl -= min(ttl, uint32(age/time.Second))
		}
		binary.BigEndian.PutUint32(out[at:], ttl)
	}
}

// key is the name in the question of msg, in wire form and lower case.
func (e *entry) key() []byte { return e.msg[headerLen:skipName(e.msg, headerLen)] }

// index fills ttls from msg, which must be a well-formed message with one question.
func (e *entry) index() bool {
	records := 0
	for i := range 3 {
		records += int(binary.BigEndian.Uint16(e.msg[6+2*i:]))
	}
	off := skipName(e.msg, headerLen) + 4
	e.ttls = make([]uint16, 0, records)
	for range records {
		off = skipName(e.msg, off)
		if off == 0 || off+10 > len(e.msg) {
			return false
		}
		e.ttls = append(e.ttls, uint16(off+4))
		off += 10 + int(binary.BigEndian.Uint16(e.msg[off+8:]))
	}
	return off == len(e.msg)
}
