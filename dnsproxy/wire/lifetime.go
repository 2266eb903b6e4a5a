package wire

import (
	"encoding/binary"
	"time"

	"github.com/miekg/dns"
)

// Lifetime returns how long an answer may be kept: the shortest TTL in its answer section, or else what its SOA says about
// negative answers (RFC 2308 5). It is 0 for an answer with neither.
func Lifetime(msg []byte) time.Duration {
	const none = ^uint32(0)
	shortest, negative := none, none
	eachRecord(msg, func(section, fixed, next int) {
		ttl := binary.BigEndian.Uint32(msg[fixed+4:])
		switch {
		case section == 1:
			shortest = min(shortest, ttl)
		case section == 2 && binary.BigEndian.Uint16(msg[fixed:]) == dns.TypeSOA && next-fixed >= 10+4:
			negative = min(negative, ttl, binary.BigEndian.Uint32(msg[next-4:]))
		}
	})
	switch {
	case shortest != none:
		return time.Duration(shortest) * time.Second
	case negative != none:
		return time.Duration(negative) * time.Second
	}
	return 0
}

// Shorten lets no record of an answer live longer than ttl, except the OPT record, whose TTL is none.
func Shorten(msg []byte, ttl time.Duration) {
	eachRecord(msg, func(_, fixed, _ int) {
		if at := msg[fixed+4:]; binary.BigEndian.Uint16(msg[fixed:]) != dns.TypeOPT {
			binary.BigEndian.PutUint32(at, min(binary.BigEndian.Uint32(at), uint32(ttl/time.Second)))
		}
	})
}

// eachRecord calls f with the section of each record of a message, 1 to 3, the offset behind its name and that of what
// follows it. It returns the offset behind the last record, or 0 if the message cannot be read so far.
func eachRecord(msg []byte, f func(section, fixed, next int)) (end int) {
	if len(msg) < HeaderLen {
		return 0
	}
	off := HeaderLen
	for range binary.BigEndian.Uint16(msg[4:]) {
		if off = SkipName(msg, off); off == 0 || len(msg) < off+4 {
			return 0
		}
		off += 4
	}
	for section := 1; section <= 3; section++ {
		for range binary.BigEndian.Uint16(msg[4+2*section:]) {
			fixed := SkipName(msg, off)
			if fixed == 0 || len(msg) < fixed+10 {
				return 0
			}
			next := fixed + 10 + int(binary.BigEndian.Uint16(msg[fixed+8:]))
			if next > len(msg) {
				return 0
			}
			f(section, fixed, next)
			off = next
		}
	}
	return off
}

// IsQuery reports whether a message is long enough for a query, and no answer.
func IsQuery(msg []byte) bool {
	return len(msg) >= HeaderLen && binary.BigEndian.Uint16(msg[2:])&FlagQR == 0
}
