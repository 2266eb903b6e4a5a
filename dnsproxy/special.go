package dnsproxy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"

	"penstock/dnsproxy/wire"
)

// localTTL is the TTL of answers that the server makes up itself.
const localTTL = time.Hour

// local answers questions that must not reach an upstream, and reports whether it did.
func (ex *exchange) local(st *state) bool {
	q := &ex.q
	switch {
	case q.Type == dns.TypeOPT:
		ex.settle(resultMalformed, wire.AppendEmpty(ex.out, q, dns.RcodeFormatError, wire.EDE{}))
		return true
	case q.Class != dns.ClassINET, q.Type >= dns.TypeTKEY && q.Type < dns.TypeANY: // transfers and other meta types
		ex.settle(resultLocal, wire.AppendEmpty(ex.out, q, dns.RcodeRefused, wire.EDE{Code: dns.ExtendedErrorCodeNotSupported}))
		return true
	}
	return ex.own == nil && q.Type != dns.TypeANY && ex.special(st) // limited answers ANY, for names of our own and others alike
}

// limited answers what the policy forwards but the server does not: ANY, and AAAA where the egress has no IPv6.
func (r *resolver) limited(ex *exchange) bool {
	q := &ex.q
	switch {
	case q.Type == dns.TypeANY: // RFC 8482 4.2
		out := wire.AppendRecord(wire.Begin(ex.out, q, dns.RcodeSuccess), 1, dns.TypeHINFO, localTTL, []byte("\x07RFC8482\x00"))
		ex.settle(resultLocal, wire.AppendOPT(out, q, dns.RcodeSuccess, wire.EDE{}))
	case q.Type == dns.TypeAAAA && r.noIPv6(ex.verdict.Egress):
		why := wire.EDE{Code: dns.ExtendedErrorCodeFiltered, Prefix: "no IPv6 on the way there"}
		ex.settle(resultLocal, wire.AppendNegative(ex.out, q, dns.RcodeSuccess, blockTTL, why))
	default:
		return false
	}
	return true
}

// special answers special-use names (RFC 6761 and its successors), and the canary names by which programs ask whether they may
// bypass the network's resolver. For most of them a configured zone takes precedence.
func (ex *exchange) special(st *state) bool {
	host := ex.q.Host()
	last := host[strings.LastIndexByte(host, '.')+1:]
	switch last {
	case "localhost": // RFC 6761 6.3
		ex.oneOf(netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
		return true
	case "net":
		if host == "use-application-dns.net" { // Firefox: support.mozilla.org/kb/canary-domain-use-application-dnsnet
			ex.nothing(dns.RcodeNameError)
			return true
		}
		return false
	case "com":
		if strings.HasPrefix(host, "mask") && strings.HasSuffix(host, ".icloud.com") && strings.Count(host, ".") == 2 { // iCloud Private Relay
			ex.nothing(dns.RcodeNameError)
			return true
		}
		return false
	case "test", "invalid", "onion", "alt", "local", "arpa": // RFC 6761, 7686, 9476, 6762
	default:
		return false
	}
	if longest(st.zones, host) != nil {
		return false
	}
	if last == "arpa" {
		return ex.arpa(host)
	}
	ex.nothing(dns.RcodeNameError)
	return true
}

// arpa answers the names below arpa that describe the local network.
func (ex *exchange) arpa(host string) bool {
	switch {
	case below(host, "resolver.arpa"): // RFC 9462 6.4
		ex.nothing(dns.RcodeSuccess)
	case host == "ipv4only.arpa": // RFC 8880: the answer without NAT64
		ex.oneOf(netip.AddrFrom4([4]byte{192, 0, 0, 170}), netip.Addr{})
	case below(host, "home.arpa"), privateReverse(host): // RFC 8375, RFC 6303
		ex.nothing(dns.RcodeNameError)
	default:
		return false
	}
	return true
}

// nothing answers that the name does not exist, or with NOERROR that it has no such data.
func (ex *exchange) nothing(rcode int) {
	ex.settle(resultLocal, wire.AppendNegative(ex.out, &ex.q, rcode, localTTL, wire.EDE{}))
}

// oneOf answers with the address that fits the type of the question.
func (ex *exchange) oneOf(v4, v6 netip.Addr) {
	q := &ex.q
	addr := v4
	if q.Type == dns.TypeAAAA {
		addr = v6
	}
	if q.Type != dns.TypeA && q.Type != dns.TypeAAAA || !addr.IsValid() {
		ex.nothing(dns.RcodeSuccess)
		return
	}
	out := wire.AppendAddr(wire.Begin(ex.out, q, dns.RcodeSuccess), addr, localTTL)
	ex.settle(resultLocal, wire.AppendOPT(out, q, dns.RcodeSuccess, wire.EDE{}))
}

// below reports whether host is domain or a name in it.
func below(host, domain string) bool {
	return strings.HasSuffix(host, domain) && (len(host) == len(domain) || host[len(host)-len(domain)-1] == '.')
}

// privateZones are the reverse zones to answer locally according to RFC 6303 and 7793. Those with a range of labels are in
// privateReverse.
var privateZones = []string{
	"0.in-addr.arpa", "10.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "168.192.in-addr.arpa",
	"2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa", "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
	"c.f.ip6.arpa", "d.f.ip6.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
	"0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
	"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa",
}

// privateReverse reports whether host is the reverse name of a private address.
func privateReverse(host string) bool {
	for _, zone := range privateZones {
		if below(host, zone) {
			return true
		}
	}
	return ranged(host, ".172.in-addr.arpa", 16, 31) || ranged(host, ".100.in-addr.arpa", 64, 127)
}

// ranged reports whether the label before suffix is a number from first to last.
func ranged(host, suffix string, first, last int) bool {
	rest, ok := strings.CutSuffix(host, suffix)
	label := rest[strings.LastIndexByte(rest, '.')+1:]
	if !ok || label == "" || len(label) > 3 || label[0] == '0' {
		return false
	}
	n := 0
	for _, c := range []byte(label) {
		if c < '0' || c > '9' {
			return false
		}
		n = 10*n + int(c-'0')
	}
	return first <= n && n <= last
}
