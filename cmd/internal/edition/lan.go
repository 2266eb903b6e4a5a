package edition

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/policy/blocklist"
	"penstock/router/clients"
)

// LAN is what the host's own network says about names. It is empty unless always_on.lan is allow.
type LAN struct {
	Servers  []netip.Addr   // resolvers in Networks
	Search   []string       // domains of the network
	Networks []netip.Prefix // networks that the host shares with the resolvers
}

// isLAN reports whether a zone is one of lanZones. No other zone limits its answers.
func isLAN(z dnsproxy.Zone) bool { return len(z.Within) > 0 }

// lanZones returns the zones that the LAN's own resolvers answer: its domains, and the reverse zones of its networks. A LAN
// can be hostile, so it gets no name that the public could register under, none that a rule or a zone in s takes elsewhere, and
// none of a network behind a transport. Its answers hold no internal addresses but its own.
func (e *Edition) lanZones(lan LAN, s dnsproxy.Settings) []dnsproxy.Zone {
	within := slices.DeleteFunc(slices.Clone(lan.Networks), func(n netip.Prefix) bool {
		return slices.ContainsFunc(e.Egress.Prefixes(), n.Overlaps)
	})
	var upstreams []dnsproxy.Upstream
	for _, server := range lan.Servers {
		u := dnsproxy.Upstream{Name: "lan " + server.String(), Address: server.String(), Via: policy.EgressDirect}
		_, err := dnsproxy.Compile(dnsproxy.Settings{Self: s.Self, Upstreams: []dnsproxy.Upstream{u}})
		if err == nil && len(upstreams) < mostLANServers { // an error: it leads back to us
			upstreams = append(upstreams, u)
		}
	}
	if len(within) == 0 || len(upstreams) == 0 {
		return nil
	}
	all := dnsproxy.Zone{Upstreams: upstreams, Within: within}
	own := dnsproxy.Zone{Upstreams: upstreams, Within: within, Only: true} // these names open something
	for _, domain := range lan.Search {
		name, err := policy.CanonicalName(domain)
		if err != nil || !isLANDomain(name) || slices.Contains(all.Domains, name) || slices.Contains(own.Domains, name) || IsSplit(name, s) {
			continue
		}
		switch opens, inside := e.ruled(name); {
		case inside:
		case opens:
			own.Domains = append(own.Domains, name)
		case len(all.Domains) < mostLANDomains:
			all.Domains = append(all.Domains, name)
		}
	}
	for _, n := range within {
		for _, name := range reverseZones(n) {
			if !IsSplit(name, s) && !slices.Contains(all.Domains, name) {
				all.Domains = append(all.Domains, name)
			}
		}
	}
	return slices.DeleteFunc([]dnsproxy.Zone{all, own}, func(z dnsproxy.Zone) bool { return len(z.Domains) == 0 })
}

// What a network may name. A DHCP server can send more.
const (
	mostLANServers = 4
	mostLANDomains = 16
)

// isLANDomain reports whether a LAN may have a domain as its own.
func isLANDomain(name string) bool {
	switch name[strings.LastIndexByte(name, '.')+1:] {
	case "localhost", "invalid", "onion", "alt": // nobody may answer these: RFC 6761, 7686, 9476
		return false
	case "arpa":
		return name == "home.arpa" || strings.HasSuffix(name, ".home.arpa") // reverse zones follow from the networks
	}
	return !blocklist.IsPublicSuffix(name)
}

// ruled reports whether a rule by name sends something at, above or below a domain to a transport, or lets it out directly.
func (e *Edition) ruled(domain string) (opens, inside bool) {
	count := func(do config.Do) {
		switch do.Action {
		case "via":
			inside = true
		case "direct":
			opens = true
		}
	}
	for _, r := range e.Config.Rules {
		if r.Match == nil {
			continue
		}
		for _, d := range r.Match.Domain {
			name, err := policy.CanonicalName(strings.TrimLeft(d, "*.="))
			if err == nil && (isBelow(name, domain) || isBelow(domain, name)) {
				count(r.Do)
			}
		}
	}
	if e.Policy == nil { // Compile checks DNS although the rules have faults
		return opens, inside
	}
	v := e.Policy.DecideName(policy.Flow{Client: clients.Machine, Time: time.Now(), Names: []policy.Name{{Host: domain, From: policy.FromQuestion}}})
	if v.ByName && v.Action == policy.Forward { // also by a category
		opens = opens || v.Egress == policy.EgressDirect
		inside = inside || v.Egress != policy.EgressDirect
	}
	return opens, inside
}

// isBelow reports whether name is domain or in it.
func isBelow(name, domain string) bool {
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// reverseZones returns the domains that hold the names of exactly the addresses in a network: one, or several if the network
// does not end at a label.
func reverseZones(n netip.Prefix) []string {
	width, suffix := 8, "in-addr.arpa"
	if n.Addr().Is6() {
		width, suffix = 4, "ip6.arpa"
	}
	labels := (n.Bits() + width - 1) / width
	if labels == 0 {
		return nil
	}
	var zones []string
	for i := range 1 << (labels*width - n.Bits()) {
		name := suffix
		for at := range labels {
			label := labelAt(n.Masked().Addr(), at, width)
			if at == labels-1 {
				label += i
			}
			if width == 4 {
				name = fmt.Sprintf("%x.%s", label, name)
			} else {
				name = fmt.Sprintf("%d.%s", label, name)
			}
		}
		zones = append(zones, name)
	}
	return zones
}

// labelAt returns the number in the label of an address: an octet of IPv4, half an octet of IPv6.
func labelAt(a netip.Addr, at, width int) int {
	octets := a.AsSlice()
	if width == 8 {
		return int(octets[at])
	}
	return int(octets[at/2] >> (4 * (1 - at%2)) & 15)
}
