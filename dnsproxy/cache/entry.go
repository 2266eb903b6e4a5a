package cache

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

const (
	staleTTL = 30 * time.Second // RFC 8767 4
	staleFor = time.Hour        // how long after its expiry an answer may still be used when upstreams fail
	hotAfter = 3                // uses that make an entry worth renewing before it expires
	hotTTL   = 10 * time.Second // shorter lives are not worth it
)

// Entry is an answer in wire format, cleaned of everything that no client may see. Its methods may be called by several goroutines
// at once.
type Entry struct {
	Host     string       // the name that was asked for
	Targets  []string     // the names behind it: CNAME, DNAME, HTTPS and SVCB targets
	Addrs    []netip.Addr // all addresses in it
	Hints    []netip.Addr // those of them that are hints in HTTPS and SVCB records
	Pointers []string     // the names in PTR records
	Zone     *Zone        // where a negative answer, or the SOA record in it, comes from; nil if that is not known
	Upstream string       // name of the upstream that gave it

	msg    []byte   // header, question and records, without OPT
	ttls   []uint16 // where the TTL of each record is in msg
	ad     bool     // the upstream validated it
	rcode  int
	stored time.Time
	ttl    time.Duration // until expiry, counted from stored
	failed bool
	note   wire.EDE // sent along with the answer

	uses     atomic.Uint32
	renewing atomic.Bool  // somebody is asking for its successor
	retry    atomic.Int64 // nanoseconds since stored: until then an expired entry is used without asking again
}

// Zone is what a SOA record tells.
type Zone struct {
	Name string        // in wire form, lower case
	Data []byte        // of the record
	TTL  time.Duration // of negative answers
}

// NewFailure returns an entry that answers with rcode and why for some time. Query is the message that upstreams were asked.
func NewFailure(query []byte, host string, rcode int, why wire.EDE, ttl time.Duration, now time.Time) *Entry {
	msg := slices.Clone(query[:wire.SkipName(query, wire.HeaderLen)+4]) // header and question, without the OPT record
	msg[11] = 0
	return &Entry{msg: msg, rcode: rcode, Host: host, stored: now, ttl: ttl, failed: true, note: why}
}

func (e *Entry) age(now time.Time) time.Duration { return max(now.Sub(e.stored), 0) }

// Fresh reports that e has not expired.
func (e *Entry) Fresh(now time.Time) bool { return e.age(now) < e.ttl }

// Storable reports that e may be kept at all.
func (e *Entry) Storable() bool { return e.ttl > 0 }

// Failure reports that e comes from NewFailure: it says nothing about the name itself.
func (e *Entry) Failure() bool { return e.failed }

// Missing reports that there is no such name.
func (e *Entry) Missing() bool { return e.rcode == dns.RcodeNameError }

// usable reports whether an expired entry may stand in for an upstream that fails.
func (e *Entry) usable(now time.Time) bool { return e.age(now) < e.ttl+staleFor && !e.failed }

// StandsIn reports that e may be used although it has expired, when upstreams fail (RFC 8767). It is false for nil.
func (e *Entry) StandsIn(now time.Time) bool { return e != nil && e.usable(now) }

// KeepStale makes Stale true until a time.
func (e *Entry) KeepStale(until time.Time) { e.retry.Store(int64(until.Sub(e.stored))) }

// Stale reports that upstreams failed a moment ago, so that e is the answer without asking them again.
func (e *Entry) Stale(now time.Time) bool {
	return e.usable(now) && int64(now.Sub(e.stored)) < e.retry.Load()
}

// Use counts a use of e. It reports true if the caller should ask for a successor: e is in steady use, and only a tenth of its life
// is left. One caller gets true, until Renewed.
func (e *Entry) Use(now time.Time) bool {
	return e.uses.Add(1) >= hotAfter && !e.failed && e.ttl >= hotTTL && e.Left(now) <= e.ttl/10 && e.renewing.CompareAndSwap(false, true)
}

// Renewed lets Use report true again.
func (e *Entry) Renewed() { e.renewing.Store(false) }

// Left returns the largest TTL in an answer made of e now.
func (e *Entry) Left(now time.Time) time.Duration {
	if left := e.ttl - e.age(now); left > 0 {
		return left
	}
	return staleTTL
}

// size is the memory that the cache counts for e: its slices, and about 430 octets for the structs and the place in the table.
func (e *Entry) size() int {
	n := 430 + len(e.msg) + 2*len(e.ttls) + 2*len(e.Host) + 24*(len(e.Addrs)+len(e.Hints))
	for _, t := range e.Targets {
		n += 16 + len(t)
	}
	for _, p := range e.Pointers {
		n += 16 + len(p)
	}
	if e.Zone != nil {
		n += 64 + len(e.Zone.Name) + len(e.Zone.Data)
	}
	return n
}

// Append writes the answer to q: the client's id, bits and spelling, TTLs less the age, whole records up to limit octets. The
// answer of an expired entry says that it is stale.
func (e *Entry) Append(out []byte, q *wire.Question, now time.Time, limit int) []byte {
	why := e.note
	if !e.failed && !e.Fresh(now) && e.ttl > 0 {
		why = wire.EDE{Code: dns.ExtendedErrorCodeStaleAnswer, Prefix: "upstreams failed"}
	}
	room := limit - wire.OPTLen(q, why)
	end, counts, truncated := e.fit(room)
	start := len(out)
	out = append(out, e.msg[:end]...)
	flags := wire.FlagQR | wire.FlagRA | q.Flags&(wire.FlagRD|wire.FlagCD) | uint16(e.rcode&0xf)
	if truncated {
		flags |= wire.FlagTC
	}
	if e.ad && (q.DO || q.Flags&wire.FlagAD != 0) { // RFC 6840 5.8
		flags |= wire.FlagAD
	}
	msg := out[start:]
	binary.BigEndian.PutUint16(msg, q.ID)
	binary.BigEndian.PutUint16(msg[2:], flags)
	for i, n := range counts {
		binary.BigEndian.PutUint16(msg[6+2*i:], n)
	}
	copy(msg[wire.HeaderLen:], q.Name())
	e.setTTLs(msg, now)
	return wire.AppendOPT(out, q, e.rcode, why)
}

// fit finds how much of msg goes into room octets: the end of the last whole record and the counts of the three sections.
func (e *Entry) fit(room int) (end int, counts [3]uint16, truncated bool) {
	for i := range counts {
		counts[i] = binary.BigEndian.Uint16(e.msg[6+2*i:])
	}
	if len(e.msg) <= room {
		return len(e.msg), counts, false
	}
	end = wire.HeaderLen + len(e.name()) + 4
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

func (e *Entry) setTTLs(msg []byte, now time.Time) {
	age := e.age(now)
	stale := e.ttl > 0 && age >= e.ttl
	for _, at := range e.ttls {
		if int(at)+4 > len(msg) {
			return
		}
		ttl := uint32(staleTTL / time.Second)
		if !stale {
			ttl = binary.BigEndian.Uint32(msg[at:])
			ttl -= min(ttl, uint32(age/time.Second))
		}
		binary.BigEndian.PutUint32(msg[at:], ttl)
	}
}

// name is the name in the question of msg, in wire form and lower case.
func (e *Entry) name() []byte { return e.msg[wire.HeaderLen:wire.SkipName(e.msg, wire.HeaderLen)] }

// index fills ttls from msg, which must be a well-formed message with one question.
func (e *Entry) index() bool {
	records := 0
	for i := range 3 {
		records += int(binary.BigEndian.Uint16(e.msg[6+2*i:]))
	}
	off := wire.SkipName(e.msg, wire.HeaderLen) + 4
	e.ttls = make([]uint16, 0, records)
	for range records {
		off = wire.SkipName(e.msg, off)
		if off == 0 || off+10 > len(e.msg) {
			return false
		}
		e.ttls = append(e.ttls, uint16(off+4))
		off += 10 + int(binary.BigEndian.Uint16(e.msg[off+8:]))
	}
	return off == len(e.msg)
}
