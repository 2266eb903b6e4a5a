package edition

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/egress"
	"penstock/dnsproxy"
	"penstock/policy"
	"penstock/policy/iprange"
)

// Access is what the network that the host is in resolves.
type Access struct {
	Portal *PortalZone // nil: no captive portal is open
	LAN    LAN
}

// PortalZone is the name of a captive portal and the servers of the access network that resolve it.
type PortalZone struct {
	Host    string
	Servers []netip.Addr
}

// DNS returns the settings of the DNS server: those of the configuration, with the servers that transports name. access
// may be nil.
func (e *Edition) DNS(naming []egress.Naming, access *Access) dnsproxy.Settings {
	cfg := e.Config
	s := dnsproxy.Settings{
		Clients:         cfg.DNS.Clients,
		Select:          selections[cfg.DNS.Select],
		Self:            ownResolvers(cfg),
		Block:           blockAnswer(cfg.DNS.Block),
		BlockCategories: make(map[string]dnsproxy.BlockAnswer),
		StripECH:        judgesNames(cfg),
		AllowPrivate:    cfg.DNS.AllowPrivate,
		Timeout:         cfg.DNS.Timeout,
		MaxInFlight:     cfg.Limits.DNSQueries,
		Upstreams:       upstreams(cfg.DNS.Upstreams),
		Records:         e.Names,
	}
	if len(s.Clients) == 0 {
		s.Clients = iprange.Near() // attackers could use an open resolver to flood others
	}
	for name, b := range cfg.DNS.BlockCategory {
		s.BlockCategories[name] = blockAnswer(b)
	}
	for _, split := range cfg.DNS.Split {
		s.Zones = append(s.Zones, dnsproxy.Zone{Domains: split.Domains, Upstreams: upstreams(split.Upstream)})
	}
	local := addNamed(&s, cfg, naming)
	if access == nil {
		access = new(Access)
	}
	if portal := access.Portal; portal != nil {
		z := dnsproxy.Zone{Domains: []string{portal.Host}}
		for _, server := range portal.Servers {
			z.Upstreams = append(z.Upstreams, dnsproxy.Upstream{Name: "captive-portal", Address: server.String(), Via: policy.EgressDirect})
		}
		s.Zones = append(s.Zones, z)
	}
	taken := s.Zones
	if len(local.Domains) > 0 { // who has a company's resolver means the company's .local
		taken = append(slices.Clone(taken), dnsproxy.Zone{Domains: []string{"local", "test"}})
	}
	lan := e.lanZones(access.LAN, dnsproxy.Settings{Self: s.Self, Zones: taken})
	s.Zones = append(s.Zones, lan...)
	local.Domains = slices.DeleteFunc(local.Domains, func(domain string) bool { // the LAN is nearer than a company that may use them
		return slices.ContainsFunc(lan, func(z dnsproxy.Zone) bool { return slices.Contains(z.Domains, domain) })
	})
	if len(local.Domains) > 0 {
		s.Zones = append(s.Zones, local)
	}
	return s
}

// IsSplit reports whether a split zone answers for a host. The zones of the LAN are none.
func IsSplit(host string, s dnsproxy.Settings) bool {
	return slices.ContainsFunc(s.Zones, func(z dnsproxy.Zone) bool {
		return !isLAN(z) && slices.ContainsFunc(z.Domains, func(domain string) bool {
			domain = strings.TrimPrefix(domain, "*.")
			return host == domain || strings.HasSuffix(host, "."+domain)
		})
	})
}

// CompileDNS compiles the settings that DNS returns. If the servers that transports push cannot be used, it compiles those of
// the configuration alone, and the error pushed says why.
func (e *Edition) CompileDNS(naming []egress.Naming, access *Access) (p *dnsproxy.Plan, s dnsproxy.Settings, pushed error) {
	s = e.DNS(naming, access)
	p, pushed = dnsproxy.Compile(s)
	if pushed == nil {
		return p, s, nil
	}
	s = e.DNS(e.Egress.Naming(), nil)
	p, err := dnsproxy.Compile(s)
	if err != nil {
		panic("an edition's own DNS was compiled before: " + err.Error()) // impossible: Compile and After check it
	}
	return p, s, pushed
}

// ServersVia returns the plain DNS servers that the configuration asks through an egress.
func (e *Edition) ServersVia(via string) []netip.AddrPort {
	var servers []netip.AddrPort
	for _, u := range e.Config.DNS.Upstreams {
		if u.Via != via {
			continue
		}
		address := strings.TrimPrefix(strings.TrimPrefix(u.Address, "udp://"), "tcp://")
		if a, err := netip.ParseAddrPort(address); err == nil {
			servers = append(servers, a)
		} else if a, err := netip.ParseAddr(address); err == nil {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers
}

// checkDNS returns the faults in the DNS settings of the edition, each with its position.
func (e *Edition) checkDNS() error {
	var errs []error
	naming := e.Egress.Naming()
	all := e.DNS(naming, nil)
	try := func(pos config.Position, what string, s dnsproxy.Settings) (ok bool) {
		s.Self = all.Self
		_, err := dnsproxy.Compile(s)
		for _, one := range unjoined(err) {
			errs = append(errs, fmt.Errorf("%s: %s: %w", pos, what, one))
		}
		return err == nil
	}
	for _, u := range e.Config.DNS.Upstreams {
		try(u.Pos, "dns.upstreams", dnsproxy.Settings{Upstreams: upstreams([]config.Upstream{u})})
	}
	for i, domain := range e.Config.DNS.AllowPrivate {
		try(e.Config.Position(fmt.Sprintf("dns.allow_private[%d]", i)), "dns.allow_private", dnsproxy.Settings{AllowPrivate: []string{domain}})
	}
	var zones []dnsproxy.Zone // those without a fault so far
	for _, split := range e.Config.DNS.Split {
		z := dnsproxy.Zone{Domains: split.Domains, Upstreams: upstreams(split.Upstream)}
		if try(split.Pos, "dns.split", dnsproxy.Settings{Zones: append(zones[:len(zones):len(zones)], z)}) {
			zones = append(zones, z)
		}
	}
	for _, n := range naming {
		if len(errs) == 0 {
			try(e.Config.Transports[n.Transport].Pos, "transport "+n.Transport, e.DNS([]egress.Naming{n}, nil))
		}
	}
	if len(errs) == 0 {
		try(e.Config.Position("dns"), "dns", all) // faults that show only in combination
	}
	return errors.Join(errs...)
}

func upstreams(list []config.Upstream) []dnsproxy.Upstream {
	var out []dnsproxy.Upstream
	for _, u := range list {
		out = append(out, dnsproxy.Upstream{Name: u.Name, Address: u.Address, Via: u.Via, Bootstrap: u.Bootstrap})
	}
	return out
}

var selections = map[string]dnsproxy.Selection{
	"ordered": dnsproxy.Ordered, "fastest": dnsproxy.Fastest, "parallel": dnsproxy.Parallel,
}

func blockAnswer(b config.BlockAnswer) dnsproxy.BlockAnswer {
	answer := dnsproxy.BlockAnswer{TTL: b.TTL, Addrs: b.Addresses}
	switch b.Answer {
	case "null":
		answer.Mode = dnsproxy.BlockNull
	case "refused":
		answer.Mode = dnsproxy.BlockRefused
	case "address":
		answer.Mode = dnsproxy.BlockAddress
	}
	return answer
}

// ownResolvers returns the addresses that lead to our DNS server: its own, and that of the host's stub resolver if the stub
// forwards to us.
func ownResolvers(cfg *config.Config) []netip.AddrPort {
	var own []netip.AddrPort
	all := func(list []netip.Prefix) {
		for _, p := range list {
			own = append(own, netip.AddrPortFrom(p.Addr(), 0))
		}
	}
	if t := cfg.Listen.TUN; t != nil {
		all(t.ServiceAddrs())
		all(t.Address)
		if t.DNS == "auto" { // man systemd-resolved.service(8) has both
			own = append(own, netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("127.0.0.54:53"))
		}
	}
	if w := cfg.Listen.WireGuard; w != nil {
		all(w.Address)
	}
	if s := cfg.DNS.Serve; s != nil {
		own = slices.Concat(own, s.HTTPS, s.TLS)
	}
	return append(own, cfg.DNS.Listen...)
}

// judgesNames reports whether a rule looks at names. If so, ClientHellos must show the site's name.
func judgesNames(cfg *config.Config) bool {
	var looks func(m *config.Match) bool
	looks = func(m *config.Match) bool {
		return m != nil && (len(m.Domain) > 0 || len(m.Category) > 0 || len(m.SeenIn) > 0 || m.Mismatch != nil || looks(m.Not))
	}
	return slices.ContainsFunc(cfg.Rules, func(r config.Rule) bool { return looks(r.Match) })
}

// addNamed adds the servers that transports name: upstreams if the configuration has none, and split zones for the domains
// that it does not split itself. A server that several transports name is asked through each in turn. It returns the zone of
// the names of special use, which may have no domain.
func addNamed(s *dnsproxy.Settings, cfg *config.Config, naming []egress.Naming) (special dnsproxy.Zone) {
	configured := make(map[string]bool)
	for _, split := range cfg.DNS.Split {
		for _, domain := range split.Domains {
			if host, err := policy.CanonicalName(strings.TrimPrefix(domain, "*.")); err == nil {
				configured[host] = true
			}
		}
	}
	var main, inside []dnsproxy.Upstream // inside: those of main that are asked through a transport
	zones, domains := make(map[string][]dnsproxy.Upstream), []string{}
	split := func(domain string, upstreams ...dnsproxy.Upstream) {
		host, err := policy.CanonicalName(strings.TrimPrefix(domain, "~")) // systemd's mark for domains that are routed but not searched
		if err != nil || configured[host] || len(upstreams) == 0 {
			return // a bad domain from a server must not stop DNS
		}
		if zones[host] == nil {
			domains = append(domains, host)
		}
		for _, u := range upstreams { // a server may be named for a domain twice
			if !slices.ContainsFunc(zones[host], func(o dnsproxy.Upstream) bool { return o.Address == u.Address && o.Via == u.Via }) {
				zones[host] = append(zones[host], u)
			}
		}
	}
	for _, n := range byUse(naming, cfg) {
		var general, own []dnsproxy.Upstream
		for _, server := range n.Servers {
			u := dnsproxy.Upstream{Name: n.Transport, Address: server.Address, Via: n.Transport, Bootstrap: server.Bootstrap}
			if server.Direct {
				u.Name, u.Via = server.Address, policy.EgressDirect
			} else if len(server.Domains) == 0 {
				own = append(own, u)
			}
			if len(server.Domains) == 0 {
				general = append(general, u)
			}
			for _, domain := range server.Domains {
				split(domain, u)
			}
		}
		for _, domain := range n.Search {
			if len(own) > 0 {
				split(domain, own...) // the others cannot know it
			} else {
				split(domain, general...)
			}
		}
		main, inside = append(main, general...), append(inside, own...)
	}
	for _, domain := range domains {
		s.Zones = append(s.Zones, dnsproxy.Zone{Domains: []string{domain}, Upstreams: zones[domain]})
	}
	if len(inside) > 0 {
		local := slices.DeleteFunc(localZones(), func(domain string) bool { return configured[domain] || zones[domain] != nil })
		special = dnsproxy.Zone{Domains: local, Upstreams: inside}
	}
	if len(cfg.DNS.Upstreams) > 0 {
		return special
	}
	s.Upstreams = main
	if len(s.AllowPrivate) == 0 && len(inside) > 0 {
		s.AllowPrivate = []string{"."} // intranet names have private addresses, and nobody else knows which names those are
	}
	return special
}

// localZones are names of special use that a company may use inside: the DNS server answers them itself, unless a transport
// brings a resolver that may know them. RFC 6762 (local) and 8375 (home.arpa), and the reverse zones of private addresses in
// RFC 6303 and 7793.
func localZones() []string {
	zones := []string{"local", "test", "home.arpa", "10.in-addr.arpa", "168.192.in-addr.arpa", "c.f.ip6.arpa", "d.f.ip6.arpa"}
	for n := 16; n < 32; n++ {
		zones = append(zones, fmt.Sprintf("%d.172.in-addr.arpa", n))
	}
	for n := 64; n < 128; n++ {
		zones = append(zones, fmt.Sprintf("%d.100.in-addr.arpa", n))
	}
	return zones
}

// byUse sorts transports for DNS: first those that the last rule sends flows to.
func byUse(naming []egress.Naming, cfg *config.Config) []egress.Naming {
	last := ""
	if len(cfg.Rules) > 0 {
		last = cfg.Rules[len(cfg.Rules)-1].Do.Via
	}
	order := append([]string{last}, cfg.Transports[last].Failover...)
	rank := func(name string) int {
		if i := slices.Index(order, name); i >= 0 {
			return i
		}
		return len(order)
	}
	return slices.SortedFunc(slices.Values(naming), func(a, b egress.Naming) int {
		return cmp.Or(cmp.Compare(rank(a.Transport), rank(b.Transport)), cmp.Compare(a.Transport, b.Transport))
	})
}
