package cache

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
	"penstock/policy/iprange"
)

const (
	maxTTL      = 24 * time.Hour
	maxNegative = time.Hour // RFC 2308 5 allows up to three
	reboundTTL  = 30 * time.Second
	maxChain    = 16 // names from the question to the last target
)

// Cleaning says what is taken out of answers.
type Cleaning struct {
	Private  bool           // internal addresses may stay: see iprange.IsInternal
	Within   []netip.Prefix // with Private: only internal addresses in these networks; empty means all
	Only     bool           // addresses outside Within do not stay either, internal or not
	Own      []netip.Addr   // may stay in any case
	StripECH bool           // ech goes from HTTPS and SVCB records
}

// Clean turns an upstream's answer to the question for host into an entry: only the records that belong to the question's chain, no
// internal addresses for public names, no ech, TTLs within bounds. Msg is changed.
func Clean(msg *dns.Msg, host, upstream string, how Cleaning, now time.Time) (e *Entry, err error) {
	defer wire.Rescue(&err)
	if len(msg.Question) != 1 {
		return nil, fmt.Errorf("answer with %d questions", len(msg.Question))
	}
	q := &msg.Question[0]
	q.Name = strings.ToLower(q.Name)
	e = &Entry{Host: host, Upstream: upstream, stored: now, rcode: msg.Rcode, ad: msg.AuthenticatedData}

	names := chain(q.Name, msg.Answer)
	msg.Answer = slices.DeleteFunc(msg.Answer, func(rr dns.RR) bool { return !belongs(rr, names) })
	records := len(msg.Answer)
	msg.Answer = slices.DeleteFunc(msg.Answer, func(rr dns.RR) bool { return !how.allows(rr) })
	rebound := len(msg.Answer) != records
	changed := rebound
	for _, rr := range msg.Answer {
		if how.strip(rr) {
			changed = true
		}
		e.learn(rr)
	}
	for _, name := range names[1:] {
		e.Targets = appendHost(e.Targets, name)
	}
	if changed { // the signatures no longer match, and the answer is not the validated one
		e.ad = false
		msg.Answer = slices.DeleteFunc(msg.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG })
	}
	msg.Ns = slices.DeleteFunc(msg.Ns, func(rr dns.RR) bool { return !proof(rr, names[len(names)-1]) })
	msg.Extra = nil
	e.ttl = lifetime(msg)
	e.Zone = zoneOf(msg)
	if rebound && !answers(msg) {
		e.ttl = reboundTTL
		e.note = wire.EDE{Code: dns.ExtendedErrorCodeBlocked, Prefix: "private address for a public name"}
	}
	return e, e.pack(msg)
}

// pack writes msg as the wire format of e.
func (e *Entry) pack(msg *dns.Msg) error {
	msg.MsgHdr = dns.MsgHdr{Response: true}
	msg.Compress = true
	var err error
	if e.msg, err = msg.Pack(); err != nil {
		return fmt.Errorf("pack the answer for %s: %w", e.Host, err)
	}
	if len(e.msg) > dns.MaxMsgSize-512 || !e.index() {
		return fmt.Errorf("the answer for %s cannot be stored", e.Host)
	}
	return nil
}

// chain follows CNAME and DNAME records from name and returns all names on the way, name first.
func chain(name string, records []dns.RR) []string {
	names := []string{name}
	for len(names) < maxChain {
		next := follow(names[len(names)-1], records)
		if next == "" || slices.Contains(names, next) {
			break
		}
		names = append(names, next)
	}
	return names
}

func follow(name string, records []dns.RR) string {
	for _, rr := range records {
		if c, is := rr.(*dns.CNAME); is && strings.EqualFold(c.Hdr.Name, name) {
			return strings.ToLower(c.Target)
		}
	}
	for _, rr := range records {
		d, is := rr.(*dns.DNAME)
		if !is || len(d.Hdr.Name) >= len(name) || !dns.IsSubDomain(d.Hdr.Name, name) {
			continue
		}
		return name[:len(name)-len(d.Hdr.Name)] + strings.ToLower(d.Target)
	}
	return ""
}

// belongs reports whether a record of the answer section is about one of the names. Other records would poison the
// cache.
func belongs(rr dns.RR, names []string) bool {
	owner := rr.Header().Name
	for _, name := range names {
		if strings.EqualFold(owner, name) {
			return true
		}
		covers := rr.Header().Rrtype
		if sig, is := rr.(*dns.RRSIG); is {
			covers = sig.TypeCovered
		}
		if covers == dns.TypeDNAME && dns.IsSubDomain(owner, name) {
			return true
		}
	}
	return false
}

// proof reports whether a record of the authority section belongs to a negative answer about name. Others are left out: an answer
// is complete without them.
func proof(rr dns.RR, name string) bool {
	covers := rr.Header().Rrtype
	if sig, is := rr.(*dns.RRSIG); is {
		covers = sig.TypeCovered
	}
	switch covers {
	case dns.TypeSOA:
		return dns.IsSubDomain(rr.Header().Name, name)
	case dns.TypeNSEC, dns.TypeNSEC3:
		return true
	}
	return false
}

// allows reports whether an address record may reach clients.
func (how Cleaning) allows(rr dns.RR) bool {
	switch rr := rr.(type) {
	case *dns.A:
		return how.allowsAddr(rr.A)
	case *dns.AAAA:
		return how.allowsAddr(rr.AAAA)
	}
	return true
}

func (how Cleaning) allowsAddr(ip []byte) bool {
	addr, ok := netip.AddrFromSlice(ip)
	switch {
	case !ok:
		return false
	case slices.Contains(how.Own, addr.Unmap()):
		return true
	case how.Private && slices.ContainsFunc(how.Within, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) }):
		return true
	case how.Only:
		return false
	}
	return how.Private && len(how.Within) == 0 || !iprange.IsInternal(addr)
}

// strip removes what clients must not see from an HTTPS or SVCB record and reports whether there was any.
func (how Cleaning) strip(rr dns.RR) bool {
	svcb := service(rr)
	if svcb == nil {
		return false
	}
	changed := filterHints(svcb, func(addr netip.Addr) bool { return how.allowsAddr(addr.AsSlice()) })
	if how.StripECH && slices.ContainsFunc(svcb.Value, func(kv dns.SVCBKeyValue) bool { return kv.Key() == dns.SVCB_ECHCONFIG }) {
		removeKey(svcb, dns.SVCB_ECHCONFIG)
		changed = true
	}
	return changed
}

// learn notes the addresses and service targets of a record.
func (e *Entry) learn(rr dns.RR) {
	switch rr := rr.(type) {
	case *dns.A:
		e.learnAddr(rr.A)
	case *dns.AAAA:
		e.learnAddr(rr.AAAA)
	case *dns.PTR:
		e.Pointers = appendHost(e.Pointers, rr.Ptr)
	}
	svcb := service(rr)
	if svcb == nil {
		return
	}
	e.Targets = appendHost(e.Targets, svcb.Target)
	for _, addr := range hintsOf(svcb) {
		e.Addrs = append(e.Addrs, addr)
		e.Hints = append(e.Hints, addr)
	}
}

func (e *Entry) learnAddr(ip []byte) {
	e.Addrs = appendIP(e.Addrs, ip)
}

// appendIP appends the address in the data of an A or AAAA record.
func appendIP(addrs []netip.Addr, ip []byte) []netip.Addr {
	if addr, ok := netip.AddrFromSlice(ip); ok {
		addrs = append(addrs, addr.Unmap())
	}
	return addrs
}

// appendHost appends a name in presentation form as a host, once. The root says "the owner itself" in service records.
func appendHost(hosts []string, name string) []string {
	host := strings.ToLower(strings.TrimSuffix(name, "."))
	if host == "" || slices.Contains(hosts, host) {
		return hosts
	}
	return append(hosts, host)
}

// lifetime bounds the TTLs of a message and returns how long it may be cached; 0 means not at all.
func lifetime(msg *dns.Msg) time.Duration {
	ttl := maxTTL
	for _, rr := range slices.Concat(msg.Answer, msg.Ns) {
		h := rr.Header()
		if h.Ttl > 1<<31 { // RFC 2181 8
			h.Ttl = 0
		}
		h.Ttl = min(h.Ttl, uint32(maxTTL/time.Second))
		ttl = min(ttl, time.Duration(h.Ttl)*time.Second)
	}
	if msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError {
		return 0
	}
	if msg.Rcode == dns.RcodeSuccess && answers(msg) {
		return ttl
	}
	for _, rr := range msg.Ns {
		if soa, is := rr.(*dns.SOA); is {
			ttl = min(ttl, time.Duration(soa.Minttl)*time.Second, maxNegative)
			soa.Hdr.Ttl = uint32(ttl / time.Second)
			return ttl
		}
	}
	return 0 // RFC 2308 5: without an SOA a negative answer is not cached
}

// zoneOf returns what the first SOA record of a message tells, or nil. The TTLs are within bounds.
func zoneOf(msg *dns.Msg) *Zone {
	for _, rr := range slices.Concat(msg.Answer, msg.Ns) {
		soa, is := rr.(*dns.SOA)
		if !is {
			continue
		}
		buf := make([]byte, dns.Len(soa)+1)
		end, err := dns.PackRR(soa, buf, 0, nil, false)
		if err != nil {
			return nil
		}
		name := wire.SkipName(buf, 0)
		ttl := min(time.Duration(soa.Hdr.Ttl)*time.Second, time.Duration(soa.Minttl)*time.Second, maxNegative)
		return &Zone{Name: strings.ToLower(string(buf[:name])), Data: buf[name+10 : end], TTL: ttl}
	}
	return nil
}

// answers reports whether the answer section has a record of the type that was asked for.
func answers(msg *dns.Msg) bool {
	asked := msg.Question[0].Qtype
	return slices.ContainsFunc(msg.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == asked })
}
