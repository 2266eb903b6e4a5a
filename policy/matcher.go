package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"penstock/policy/iprange"
)

// matcher is a compiled Match. It holds the conditions that the index cannot express. Every Not is a matcher of its own.
type matcher struct {
	not   int32 // matcher that must not match; -1 if none
	named bool  // a name learnt later can change whether it matches

	byName  bool // has a condition on a domain or category
	pauses  bool // a rule that a pause takes out of force
	inside  bool // has a condition on where the flow goes: a domain, a category or an address
	gateway bool // Match.Gateway
	peers   bool // Match.Peers
	network bool // has a condition on the address itself

	// residual reports whether a condition below, or gateway or peers, is set.
	residual bool
	program  *Match // the conditions on the program; nil: none
	user     []string
	signedIn *bool
	schedule []window
	seenIn   uint8 // bit 1<<Source for each; 0: no condition
	mismatch mismatch
}

// mismatch is a condition on whether the flow shows a name that DNS did not give.
type mismatch uint8

const (
	mismatchAny mismatch = iota
	mismatchYes
	mismatchNo
)

// domainKind says whether a pattern means a domain, its subdomains, or both.
type domainKind uint8

const (
	domainTree  domainKind = iota // the domain and its subdomains
	domainBelow                   // "*."
	domainExact                   // "="
)

func parseDomain(s string) (string, domainKind, error) {
	kind, name := domainTree, s
	if rest, ok := strings.CutPrefix(s, "*."); ok {
		kind, name = domainBelow, rest
	} else if rest, ok := strings.CutPrefix(s, "="); ok {
		kind, name = domainExact, rest
	}
	host, err := CanonicalName(name)
	if err != nil {
		return "", kind, fmt.Errorf("domain %q: %w", s, err)
	}
	return host, kind, nil
}

// parsePrefixes reads a prefix, an address, or the word "private". "private" does not include loopback and
// link-local addresses, which the metadata services of clouds use: only Match.Gateway opens those.
func parsePrefixes(s string) ([]netip.Prefix, error) {
	if s == "private" {
		return iprange.Private(), nil
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		addr = addr.Unmap()
		return []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err == nil && p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96) // flows are judged by the IPv4 address
	}
	if err == nil && p.Addr().Is4In6() {
		return nil, fmt.Errorf("cidr %q covers IPv4 and more: write the IPv4 network and the IPv6 network", s)
	}
	if err != nil {
		return nil, fmt.Errorf("cidr %q is not a prefix, an address or \"private\"", s)
	}
	if p != p.Masked() {
		return nil, fmt.Errorf("cidr %q has host bits set: write %s", s, p.Masked())
	}
	return []netip.Prefix{p}, nil
}

func containedBy(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// portRange is inclusive.
type portRange struct{ first, last uint16 }

func parsePorts(s string) (portRange, error) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	first, errA := strconv.ParseUint(a, 10, 16)
	last, errB := strconv.ParseUint(b, 10, 16)
	if errA != nil || errB != nil || first == 0 || last < first {
		return portRange{}, fmt.Errorf("port %q is not a port from 1 to 65535 or a range such as 8000-8999", s)
	}
	return portRange{uint16(first), uint16(last)}, nil
}

// protocol is a value that protocol conditions distinguish.
type protocol uint8

const (
	protocolUnknown protocol = iota
	protocolTCP
	protocolUDP
	protocolICMP
	protocolQUIC // also UDP
	protocols
)

var protocolNames = [...]string{protocolTCP: "tcp", protocolUDP: "udp", protocolICMP: "icmp", protocolQUIC: "quic"}

func parseProtocol(s string) (protocol, error) {
	for p, name := range protocolNames {
		if s == name && s != "" {
			return protocol(p), nil
		}
	}
	return 0, fmt.Errorf("protocol %q is unknown: use tcp, udp, icmp or quic", s)
}

func (f *Flow) protocol() protocol {
	switch f.Network {
	case TCP:
		return protocolTCP
	case UDP:
		if f.Dst.Port() == 443 {
			return protocolQUIC
		}
		return protocolUDP
	case ICMP:
		return protocolICMP
	}
	return protocolUnknown
}

var sourceNames = [...]string{FromNowhere: "none", FromQuestion: "question", FromDNS: "dns", FromSNI: "sni", FromHTTP: "http", FromQUIC: "quic"}

// String returns the source as rules, logs and explanations write it.
func (s Source) String() string {
	if int(s) < len(sourceNames) {
		return sourceNames[s]
	}
	return "unknown"
}

func (s Source) inFlow() bool { return s == FromSNI || s == FromHTTP || s == FromQUIC }

func parseSource(s string) (Source, error) {
	for i := FromDNS; i <= FromQUIC; i++ {
		if s == sourceNames[i] {
			return i, nil
		}
	}
	return 0, fmt.Errorf("seen_in %q is unknown: use dns, sni, http or quic", s)
}

// isZero reports whether m matches every flow.
func (m *Match) isZero() bool {
	return len(m.Domain) == 0 && len(m.Category) == 0 && len(m.CIDR) == 0 && len(m.Src) == 0 && len(m.Port) == 0 &&
		len(m.Protocol) == 0 && len(m.Peer) == 0 && len(m.Group) == 0 && len(m.User) == 0 && m.SignedIn == nil && programMatch(m) == nil &&
		len(m.Schedule) == 0 && len(m.SeenIn) == 0 && m.Mismatch == nil && !m.Gateway && !m.Peers && m.Not == nil
}
