package dnsproxy

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"penstock/dnsproxy/cache"
	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// sight is what a peer may know about a name of a split zone. A peer reaches the hosts of a zone through us alone, so their names
// are for those who may reach one of their addresses; for others there are no such names. The zero value fails closed.
type sight uint8

const (
	hidden     sight = iota // there is no such name for the peer
	missing                 // there is none for anybody, although the question itself has failed
	unsure                  // upstreams have not said enough
	noSuchData              // the name exists, and this answer is not for the peer
	inSight
)

// aboutZone holds the types that describe a zone, and not a host that bears its name.
var aboutZone = []uint16{
	dns.TypeSOA, dns.TypeNS, dns.TypeDS, dns.TypeDNSKEY, dns.TypeNSEC, dns.TypeNSEC3PARAM, dns.TypeCDS, dns.TypeCDNSKEY, dns.TypeCSYNC, dns.TypeZONEMD,
}

// sight prepares the sighting of ex's name. It asks no upstreams.
func (r *resolver) sight(ex *exchange, st *state) *sighting {
	ex.sighting = sighting{resolver: r, ex: ex, st: st}
	return &ex.sighting
}

// asking lets s ask upstreams until ctx is done.
func (s *sighting) asking(ctx context.Context) *sighting {
	s.ctx = ctx
	return s
}

// sighting finds out what the peer that asks may know about its question's name. Addresses of both families count, whatever type
// was asked for, so there are more questions for the zone's upstreams. What they say is cached like all answers; the verdicts,
// which are those of one client, are kept nowhere.
type sighting struct {
	*resolver
	ctx context.Context // nil: upstreams are not asked
	ex  *exchange
	st  *state

	asides  []*aside
	failing bool        // the question itself has no answer
	refused bool        // the client is over its limits, so a question that counts was not asked
	zone    *cache.Zone // of the name, as far as answers told
	open    bool        // an address is open
	closed  netip.Addr  // one that is not
	why     policy.Verdict
}

// aside is one more question, which is asked at the same time.
type aside struct {
	labels int
	qtype  uint16
	done   chan struct{} // closed when entry is there
	entry  *cache.Entry  // nil if the client is gone or over its limits
}

// guarded reports whether the name is in a split zone and a peer asks. Others than peers, and the names outside of zones, may be
// reached in other ways than through us: a laptop's LAN, for example.
func (s *sighting) guarded() bool {
	return s.cfg.Policy != nil && s.ex.flow.Peer != "" && longest(s.st.zones, s.ex.q.Host()) != nil
}

// see judges the name of the question by the addresses that it has, of which e, the answer, may hold some. A failure is no reason to
// tell of a name that is closed as far as its addresses are known: what nobody has does not fail, either.
func (s *sighting) see(e *cache.Entry) sight {
	switch {
	case e.Missing() && s.refused: // or who fills his own places finds the names for which the others are needed
		return unsure
	case e.Missing():
		return inSight // there is nothing to hide
	}
	s.failing = e.Failure()
	s.note(e)
	if addr, ok := reverseOf(s.ex.q.Host()); ok {
		return s.reverse(e, addr)
	}
	if s.anyOpen(0, e.Addrs) {
		return inSight
	}
	labels, seen := s.host(), inSight
	if labels == 0 || isAddress(s.ex.q.Type) {
		seen = s.addresses(0)
	}
	if labels > 0 && !s.open && (seen == inSight || seen == unsure && s.ctx != nil) {
		if host := s.addresses(labels); seen == inSight || host == hidden {
			seen = host
		}
	}
	switch {
	case seen == hidden:
		return s.hide(labels)
	case seen == inSight && len(e.Addrs) > 0:
		return noSuchData // others of its addresses are open
	}
	return seen
}

// host returns how many labels at the start of the name belong to attributes of a host: who may not know the host may not know
// them. The domain of a zone is no host: what is said about its services is not for those alone who may reach its address.
func (s *sighting) host() (labels int) {
	labels = s.ex.q.Attributes()
	host := s.ex.q.HostBehind(labels)
	if labels == 0 || s.st.zones[host] != nil || longest(s.st.zones, host) == nil {
		return 0
	}
	return labels
}

// ownHost returns the entry of the host whose attributes the first labels are, if we know its addresses by ourselves, or nil.
func (s *sighting) ownHost(labels int) *records.Entry {
	if labels == 0 {
		return nil
	}
	own := s.st.settings.Records.Find(s.ex.q.HostBehind(labels))
	if own == nil || own.End().Alias != nil {
		return nil
	}
	return own.End()
}

// isAddress reports whether records of a type are addresses.
func isAddress(qtype uint16) bool { return qtype == dns.TypeA || qtype == dns.TypeAAAA }

// addresses judges the addresses of the name without its first labels, except those in the answer at hand. A name without an address
// hides nothing. One with closed addresses is hidden even if the servers do not give those of the other family, which might be open:
// else the failure would tell that it exists.
func (s *sighting) addresses(labels int) sight {
	if own := s.ownHost(labels); own != nil {
		switch {
		case s.anyOpen(labels, own.V4), s.anyOpen(labels, own.V6), !s.closed.IsValid():
			return inSight
		}
		return hidden
	}
	failed, gone := false, false
	for _, qtype := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		if labels == 0 && qtype == s.ex.q.Type {
			continue
		}
		other := s.entry(labels, qtype)
		switch {
		case other == nil && s.ctx == nil:
			return unsure
		case other == nil, other.Failure():
			failed = true
			continue
		case s.anyOpen(labels, other.Addrs):
			return inSight
		}
		s.note(other)
		gone = gone || other.Missing()
	}
	switch {
	case s.refused:
		return unsure
	case s.closed.IsValid():
		return hidden
	case gone && s.failing: // and nothing below it, either (RFC 8020)
		return missing
	case failed:
		return unsure
	}
	return inSight
}

// anyOpen reports whether a flow of the peer may go to one of some addresses of the name without its first labels.
func (s *sighting) anyOpen(labels int, addrs []netip.Addr) bool {
	for _, addr := range addrs {
		if s.judge(s.ex.q.HostBehind(labels), addr) {
			return true
		}
	}
	return false
}

// judge reports whether a flow of the peer may go to an address of host.
func (s *sighting) judge(host string, addr netip.Addr) bool {
	v := s.decideAddr(s.ex, host, addr)
	if v.Action == policy.Forward {
		s.open = true
		return true
	}
	if !s.closed.IsValid() || addr.Is6() == (s.ex.q.Type == dns.TypeAAAA) { // tell of one that was asked for
		s.closed, s.why = addr, v
	}
	return false
}

// reverse judges the name of an address, which is closed as the names are that it leads to.
func (s *sighting) reverse(e *cache.Entry, addr netip.Addr) sight {
	if s.ex.q.Type != dns.TypePTR {
		if e = s.entry(0, dns.TypePTR); e == nil || e.Failure() {
			return unsure
		}
		if s.note(e); e.Missing() && s.failing {
			return missing
		}
	}
	if len(e.Pointers) == 0 {
		return inSight
	}
	for _, host := range e.Pointers {
		if s.judge(host, addr) {
			return inSight
		}
	}
	return s.hide(0)
}

// note remembers where an answer comes from.
func (s *sighting) note(e *cache.Entry) {
	if s.zone == nil {
		s.zone = e.Zone
	}
}

// hide decides in which way a name whose addresses are all closed is hidden. Labels at its start are attributes of a host.
func (s *sighting) hide(labels int) sight {
	for _, at := range [...]int{0, s.domain()} { // if the server of the name fails, that of the zone may not
		if s.zone != nil {
			break
		}
		e := s.entry(at, dns.TypeSOA)
		if e == nil && s.ctx == nil {
			return unsure
		}
		if e != nil {
			s.zone = e.Zone
		}
	}
	if s.refused {
		return unsure
	}
	q := &s.ex.q
	isZone := s.st.zones[q.Host()] != nil || s.zone != nil && (s.zone.Name == q.Key() || s.zone.Name == q.KeyBehind(labels))
	switch {
	case !isZone:
		return hidden
	case labels > 0, slices.Contains(aboutZone, q.Type): // these are a zone's, and no host's
		return inSight
	}
	// Whoever is told that there is no such zone believes that there is nothing in it (RFC 8020), and cannot verify what there is.
	return noSuchData
}

// domain returns how many labels of the name are before the domain of the zone that it is in; 0 if that is the root.
func (s *sighting) domain() (labels int) {
	for host := s.ex.q.Host(); host != ""; labels++ {
		if s.st.zones[host] != nil {
			return labels
		}
		_, host, _ = strings.Cut(host, ".")
	}
	return 0
}

// answer writes an answer other than e.
func (s *sighting) answer(what sight) {
	ex, q := s.ex, &s.ex.q
	if what == unsure {
		why := wire.EDE{Code: dns.ExtendedErrorCodeNoReachableAuthority, Prefix: "upstreams did not tell all addresses"}
		ex.settle(resultFailed, wire.AppendEmpty(ex.out[:0], q, dns.RcodeServerFailure, why))
		return
	}
	if what == missing {
		ex.settle(resultForwarded, s.noSuchName())
		return
	}
	ex.verdict, ex.decided, ex.withheld, ex.absent = s.why, q.Host(), s.closed, what == hidden
	s.tell(ex)
	if what == noSuchData {
		why := wire.EDE{Code: dns.ExtendedErrorCodeBlocked, Prefix: "its addresses are blocked by rule ", Detail: s.why.Rule}
		ex.settle(resultBlocked, wire.AppendNegative(ex.out[:0], q, dns.RcodeSuccess, s.st.block(s.why).TTL, why))
		return
	}
	ex.settle(resultBlocked, s.noSuchName())
}

// noSuchName writes the answer of the zone's server for a name that nobody has.
func (s *sighting) noSuchName() []byte {
	q, ttl := &s.ex.q, s.st.settings.Block.TTL
	out, ok := wire.Begin(s.ex.out[:0], q, dns.RcodeNameError), false
	if s.zone != nil {
		out, ok = wire.AppendZoneSOA(out, q, s.zone.Name, s.zone.Data, min(ttl, s.zone.TTL))
	}
	if !ok {
		out = wire.AppendSOA(out, ttl)
	}
	return wire.AppendOPT(out, q, dns.RcodeNameError, wire.EDE{})
}

// ahead asks for what see will want to know, so that a name that is hidden takes no longer than one that does not exist.
func (s *sighting) ahead(q *wire.Question) {
	if !s.guarded() {
		return
	}
	if _, ok := reverseOf(q.Host()); ok {
		if q.Type != dns.TypePTR {
			s.start(0, dns.TypePTR)
		}
		return
	}
	labels := 0
	if !isAddress(q.Type) {
		labels = s.host()
	}
	if s.ownHost(labels) != nil {
		return
	}
	for _, qtype := range [...]uint16{dns.TypeA, dns.TypeAAAA} {
		if labels > 0 || qtype != q.Type {
			s.start(labels, qtype)
		}
	}
}

// entry returns the answer to the question for another type, and for the name without its first labels: nil if it is not at hand
// and nobody may be asked, or nobody can be.
func (s *sighting) entry(labels int, qtype uint16) *cache.Entry {
	for _, a := range s.asides {
		if a.labels == labels && a.qtype == qtype {
			<-a.done
			return a.entry
		}
	}
	switch e := s.peek(labels, qtype); {
	case e != nil:
		return e
	case s.ctx == nil:
		return nil
	case s.ex.dry:
		q := s.ex.q.Other(labels, qtype)
		e, _, _ = s.tryOne(s.ctx, q, s.st, s.st.view(q.Host()), s.ex.begun)
		return e
	}
	s.start(labels, qtype)
	last := s.asides[len(s.asides)-1]
	<-last.done
	return last.entry
}

// peek returns an answer that the cache holds and that may be used, or nil.
func (s *sighting) peek(labels int, qtype uint16) *cache.Entry {
	key := keyFor(&s.ex.q, s.st.view(s.ex.q.HostBehind(labels)))
	key.Name, key.Type = s.ex.q.KeyBehind(labels), qtype
	if e := s.cache.Get(key); e != nil && (e.Fresh(s.ex.begun) || e.Stale(s.ex.begun)) {
		return e
	}
	return nil
}

// start asks the upstreams, unless the cache holds the answer.
func (s *sighting) start(labels int, qtype uint16) {
	a := &aside{labels: labels, qtype: qtype, done: make(chan struct{})}
	s.asides = append(s.asides, a)
	if a.entry = s.peek(labels, qtype); a.entry != nil {
		close(a.done)
		return
	}
	q := s.ex.q.Other(labels, qtype)
	v := s.st.view(q.Host())
	w := newWork(q, s.st, v, s.cache.Get(keyFor(q, v)))
	if s.admit(s.ctx, s.ex.flow.Client, s.ex.begun, s.st, w) != admitted {
		s.refused = true
		close(a.done)
		return
	}
	ask := s.asker // the exchange may be over before the answer comes
	ask.tasks.spawn(func() {
		defer w.release()
		defer close(a.done)
		a.entry, _ = ask.fetch(w)
	})
}

// reverseOf returns the address that a reverse name is about.
func reverseOf(host string) (netip.Addr, bool) {
	if v4, ok := strings.CutSuffix(host, ".in-addr.arpa"); ok {
		labels := strings.Split(v4, ".")
		slices.Reverse(labels)
		addr, err := netip.ParseAddr(strings.Join(labels, "."))
		return addr, err == nil && addr.Is4()
	}
	v6, ok := strings.CutSuffix(host, ".ip6.arpa")
	if !ok || len(v6) != 2*32-1 {
		return netip.Addr{}, false
	}
	var a [16]byte
	for i, label := range strings.Split(v6, ".") {
		n, err := strconv.ParseUint(label, 16, 4)
		if err != nil || len(label) != 1 {
			return netip.Addr{}, false
		}
		a[15-i/2] |= byte(n) << (4 * (i % 2))
	}
	return netip.AddrFrom16(a), true
}
