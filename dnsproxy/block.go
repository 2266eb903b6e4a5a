package dnsproxy

import (
	"net/netip"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

// append writes a whole block answer to q.
func (b BlockAnswer) append(out []byte, q *wire.Question, e wire.EDE) []byte {
	ttl := b.TTL
	switch b.Mode {
	case BlockRefused:
		return wire.AppendEmpty(out, q, dns.RcodeRefused, e)
	case BlockNull:
		switch q.Type {
		case dns.TypeA:
			return wire.AppendOPT(wire.AppendAddr(wire.Begin(out, q, 0), netip.IPv4Unspecified(), ttl), q, 0, e)
		case dns.TypeAAAA:
			return wire.AppendOPT(wire.AppendAddr(wire.Begin(out, q, 0), netip.IPv6Unspecified(), ttl), q, 0, e)
		}
		return wire.AppendNegative(out, q, dns.RcodeSuccess, ttl, e)
	case BlockAddress:
		return b.appendAddrs(out, q, e)
	}
	return wire.AppendNegative(out, q, dns.RcodeNameError, ttl, e)
}

func (b BlockAnswer) appendAddrs(out []byte, q *wire.Question, e wire.EDE) []byte {
	start, found := len(out), false
	out = wire.Begin(out, q, dns.RcodeSuccess)
	for _, addr := range b.Addrs {
		if addr.Is4() && q.Type == dns.TypeA || addr.Is6() && q.Type == dns.TypeAAAA {
			out = wire.AppendAddr(out, addr, b.TTL)
			found = true
		}
	}
	if !found {
		return wire.AppendNegative(out[:start], q, dns.RcodeSuccess, b.TTL, e)
	}
	return wire.AppendOPT(out, q, dns.RcodeSuccess, e)
}
