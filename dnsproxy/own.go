package dnsproxy

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/records"
	"penstock/dnsproxy/wire"
	"penstock/policy"
)

// ours is an exchange about a name that we know by ourselves.
type ours struct {
	*resolver
	ex *exchange
	st *state

	leftOut map[string]bool // hosts whose records the client is not told; nil means none
}

// reply answers ex and takes ownership of it: if it takes names that others know, they are asked first.
func (o ours) reply(ctx context.Context) {
	e := o.ex.own
	o.ex.source = e.From
	v4, v6, ok := o.visible(e.End())
	switch {
	case !ok:
		o.tell(o.ex)
		o.hide(ctx)
		return
	case o.ex.outside:
		o.leftOut = o.ex.internalHosts(o.st)
	case o.cfg.Policy != nil && o.ex.flow.Peer != "":
		if l := o.lookout(v4, v6); l != nil {
			l.start(ctx)
			return
		}
	}
	o.tellOf(ctx, v4, v6)
}

// tellOf answers ex with what we know about its name, of which v4 and v6 may be told, and with what others know behind an alias.
func (o ours) tellOf(ctx context.Context, v4, v6 []netip.Addr) {
	if outside := o.write(v4, v6); outside != "" {
		o.askBehind(ctx, outside, o.ex.q.Type, o.ex.verdict, alias{o, ctx})
		return
	}
	o.finish(ctx, o.ex)
}

// visible returns the addresses of a name that the client may be told, and false if the name is not for it: a peer learns nothing
// about a name if no flow of its may go to any of the addresses. Unlike in an answer of an upstream, they are all there, so the
// peer is told that there is no such name. Whoever is no peer may have another way there.
func (o ours) visible(e *records.Entry) (v4, v6 []netip.Addr, ok bool) {
	ex := o.ex
	if o.cfg.Policy == nil || ex.flow.Peer == "" {
		return e.V4, e.V6, true
	}
	host := ex.q.Host()
	if e.Reverse.IsValid() {
		host = e.Owner
	}
	closed := netip.Addr{}
	var why policy.Verdict
	open := func(addr netip.Addr) bool {
		v := o.decideAddr(ex, host, addr)
		if v.Action != policy.Forward && (!closed.IsValid() || addr.Is6() == (ex.q.Type == dns.TypeAAAA)) { // tell of one that was asked for
			closed, why = addr, v
		}
		return v.Action == policy.Forward
	}
	v4, v6 = only(e.V4, open), only(e.V6, open)
	all := len(e.V4) + len(e.V6)
	if all > 0 && len(v4)+len(v6) > 0 || all == 0 && (!e.Reverse.IsValid() || open(e.Reverse)) {
		return v4, v6, true
	}
	ex.verdict, ex.decided, ex.withheld = why, ex.q.Host(), closed
	return nil, nil, false
}

// only returns the addresses that are open: addrs itself if all are.
func only(addrs []netip.Addr, open func(netip.Addr) bool) []netip.Addr {
	for i, addr := range addrs {
		if open(addr) {
			continue
		}
		rest := append([]netip.Addr(nil), addrs[:i]...)
		for _, addr := range addrs[i+1:] {
			if open(addr) {
				rest = append(rest, addr)
			}
		}
		return rest
	}
	return addrs
}

// write settles ex with what we know about its name, of which v4 and v6 may be told, or returns the name that others have to be
// asked for.
func (o ours) write(v4, v6 []netip.Addr) (outside string) {
	ex, q, e := o.ex, &o.ex.q, o.ex.own
	rcode := dns.RcodeSuccess
	if e.Missing || e.End().Missing && q.Type != dns.TypeCNAME {
		rcode = dns.RcodeNameError
	}
	out, owner, found := wire.Begin(ex.out, q, rcode), wire.HeaderLen, false
	for e.Alias != nil && !found {
		if !ex.verdict.ByName && o.targetRefused(ex, o.st, e.Target) {
			return ""
		}
		out = wire.AppendRecordOf(out, owner, 1, dns.TypeCNAME, e.TTL, e.Alias)
		owner = len(out) - len(e.Alias)
		switch {
		case q.Type == dns.TypeCNAME:
			found = true
		case e.Next == nil:
			return e.Target
		default:
			e = e.Next
		}
	}
	var addrs []netip.Addr
	switch q.Type {
	case dns.TypeA:
		addrs = v4
	case dns.TypeAAAA:
		addrs = v6
	}
	for _, addr := range addrs {
		out = wire.AppendAddrOf(out, owner, addr, e.TTL)
	}
	set := e.Set(q.Type)
	for i, data := range set.Data {
		if set.Hosts != nil && o.leftOut[set.Hosts[i]] {
			continue
		}
		out = wire.AppendRecordOf(out, owner, 1, q.Type, e.TTL, data)
		found = true
	}
	switch {
	case !found && len(addrs) == 0:
		out = wire.AppendSOA(out, e.TTL)
	case len(out)+wire.OPTLen(q, wire.EDE{}) > ex.limit():
		out = wire.Begin(out[:0], q, rcode)
		out[2] |= wire.FlagTC >> 8
	}
	ex.settle(resultLocal, authoritative(wire.AppendOPT(out, q, rcode, wire.EDE{})))
	o.remember(addrs, e.TTL)
	return ""
}

// authoritative marks an answer as that of somebody who knows.
func authoritative(out []byte) []byte {
	out[2] |= wire.FlagAA >> 8
	return out
}

// remember notes that the client was given addresses for the name that it asked for, so that the flow which follows is judged by
// that name.
func (o ours) remember(addrs []netip.Addr, ttl time.Duration) {
	ex := o.ex
	if len(addrs) == 0 || ex.dry {
		return
	}
	host := ex.own.Name
	if host == "" { // of a wildcard
		host = strings.Clone(ex.q.Host())
	}
	o.names.Add(ex.flow.Client, addrs, host, ttl, ex.begun)
}

// askBehind asks for a name that others know as the client itself would. If the rule of a verdict has the name in question as a
// condition, it means target as well. To answers ex with what comes back.
func (o ours) askBehind(ctx context.Context, target string, qtype uint16, verdict policy.Verdict, to answerer) {
	ex := o.ex
	msg := new(dns.Msg).SetQuestion(target+".", qtype).SetEdns0(wire.MaxUDP, ex.q.DO)
	msg.CheckingDisabled = ex.q.Flags&wire.FlagCD != 0
	query, err := msg.Pack()
	if err != nil {
		query = nil // impossible: the name is canonical
	}
	inner := o.start(ex.client, &ex.flow, to)
	inner.stream, inner.outside, inner.dry, inner.inner, inner.verdict = true, ex.outside, ex.dry, true, verdict
	_, inner.quiet = to.(aboutHost)
	o.serve(ctx, inner, query)
}

// alias takes the answer for the name behind an alias.
type alias struct {
	ours
	ctx context.Context
}

func (a alias) answer(inner *exchange) error {
	ex := a.ex
	ex.result, ex.verdict, ex.withheld = inner.result, inner.verdict, inner.withheld
	ex.decided, ex.upstream, ex.cache = strings.Clone(inner.decided), inner.upstream, inner.cache
	if inner.absent {
		a.hide(a.ctx)
		return nil
	}
	out, addrs, err := ex.through(inner)
	if err != nil {
		ex.result, out = resultFailed, wire.AppendEmpty(ex.out, &ex.q, dns.RcodeServerFailure, wire.EDE{})
	}
	ex.out = out
	a.remember(addrs, ex.own.TTL)
	a.finish(a.ctx, ex)
	return nil
}

// through returns the answer of inner as one to ex, with the aliases before it, and the addresses in it. Silence stays silence.
func (ex *exchange) through(inner *exchange) (out []byte, addrs []netip.Addr, err error) {
	if len(inner.out) == 0 {
		return ex.out[:0], nil, nil
	}
	msg := new(dns.Msg)
	if err := msg.Unpack(inner.out); err != nil {
		return nil, nil, err
	}
	name := ex.q.Host() + "."
	msg.Id, msg.RecursionDesired, msg.Compress = ex.q.ID, ex.q.Flags&wire.FlagRD != 0, true
	msg.Question[0].Name = name
	addrs = addressesIn(msg)
	if msg.Rcode == dns.RcodeSuccess || msg.Rcode == dns.RcodeNameError {
		var aliases []dns.RR
		for e := ex.own; e != nil; e = e.Next {
			head := dns.RR_Header{Name: name, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: uint32(e.TTL / time.Second)}
			name = e.Target + "."
			aliases = append(aliases, &dns.CNAME{Hdr: head, Target: name})
		}
		msg.Answer = append(aliases, msg.Answer...)
	}
	if !ex.q.EDNS {
		msg.Extra = nil
	}
	msg.Truncate(ex.limit())
	if out, err = msg.PackBuffer(ex.out[:cap(ex.out)]); err == nil {
		copy(out[wire.HeaderLen:], ex.q.Name()) // in the client's spelling
	}
	return out, addrs, err
}
