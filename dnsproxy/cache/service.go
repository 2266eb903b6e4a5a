package cache

import (
	"net"
	"net/netip"
	"slices"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

// service returns the common part of HTTPS and SVCB records, or nil.
func service(rr dns.RR) *dns.SVCB {
	switch rr := rr.(type) {
	case *dns.HTTPS:
		return &rr.SVCB
	case *dns.SVCB:
		return rr
	}
	return nil
}

// hintsOf returns the addresses in a service record.
func hintsOf(svcb *dns.SVCB) []netip.Addr {
	var addrs []netip.Addr
	add := func(ips []net.IP) {
		for _, ip := range ips {
			if addr, ok := netip.AddrFromSlice(ip); ok {
				addrs = append(addrs, addr.Unmap())
			}
		}
	}
	for _, kv := range svcb.Value {
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			add(kv.Hint)
		case *dns.SVCBIPv6Hint:
			add(kv.Hint)
		}
	}
	return addrs
}

// filterHints leaves the hints for which keep is true and reports whether it removed any.
func filterHints(svcb *dns.SVCB, keep func(netip.Addr) bool) bool {
	changed := false
	drop := func(ip net.IP) bool {
		addr, ok := netip.AddrFromSlice(ip)
		gone := !ok || !keep(addr.Unmap())
		changed = changed || gone
		return gone
	}
	for _, kv := range slices.Clone(svcb.Value) {
		switch kv := kv.(type) {
		case *dns.SVCBIPv4Hint:
			if kv.Hint = slices.DeleteFunc(kv.Hint, drop); len(kv.Hint) == 0 {
				removeKey(svcb, dns.SVCB_IPV4HINT)
			}
		case *dns.SVCBIPv6Hint:
			if kv.Hint = slices.DeleteFunc(kv.Hint, drop); len(kv.Hint) == 0 {
				removeKey(svcb, dns.SVCB_IPV6HINT)
			}
		}
	}
	return changed
}

// removeKey takes a parameter out of a service record, and out of its list of mandatory ones: a client must ignore a record that
// lacks what it calls mandatory (RFC 9460 8).
func removeKey(svcb *dns.SVCB, key dns.SVCBKey) {
	svcb.Value = slices.DeleteFunc(svcb.Value, func(kv dns.SVCBKeyValue) bool {
		if m, is := kv.(*dns.SVCBMandatory); is {
			m.Code = slices.DeleteFunc(m.Code, func(k dns.SVCBKey) bool { return k == key })
			return len(m.Code) == 0
		}
		return kv.Key() == key
	})
}

// WithoutHints returns a copy of e that has only the hints for which keep is true. It is made for one client and not cached.
func (e *Entry) WithoutHints(keep func(netip.Addr) bool) (f *Entry, err error) {
	defer wire.Rescue(&err)
	msg := new(dns.Msg)
	if err := msg.Unpack(e.msg); err != nil {
		return nil, err
	}
	f = &Entry{Host: e.Host, Targets: e.Targets, Upstream: e.Upstream, rcode: e.rcode, stored: e.stored, ttl: e.ttl, note: e.note}
	for _, rr := range msg.Answer {
		if svcb := service(rr); svcb != nil {
			filterHints(svcb, keep)
		}
		f.learn(rr)
	}
	// Signatures over the changed records would only fail.
	msg.Answer = slices.DeleteFunc(msg.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG })
	return f, f.pack(msg)
}
