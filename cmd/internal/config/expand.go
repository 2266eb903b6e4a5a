package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"penstock/cmd/internal/config/profile"
	"penstock/cmd/internal/private"
	"penstock/policy/iprange"
)

// expand replaces abbreviations, and the short form for laptops, by what they stand for.
func (c *Config) expand() []Fault {
	for i := range c.Rules {
		c.Rules[i].Do.normalise()
	}
	for i := range c.Tests {
		c.Tests[i].Expect.normalise()
	}
	if c.Profile != "" {
		return c.expandProfile()
	}
	var faults []Fault
	for path, values := range map[string][]string{"block": c.Block, "intranet": c.Intranet} {
		if len(values) > 0 {
			faults = append(faults, c.Fault(path, path+" belongs to the short form, which needs a profile",
				"add profile: FILE, or write listen, transports and rules"))
		}
	}
	return faults
}

// normalise makes the action explicit.
func (d *Do) normalise() {
	if d.Via == "direct" && (d.Action == "" || d.Action == "via") {
		d.Action, d.Via = "direct", ""
	}
	if d.Via != "" && d.Action == "" {
		d.Action = "via"
	}
	if d.How == "drop" && d.Action == "block" {
		d.Action = "drop"
	}
}

// expandProfile turns the short form into the full one: a TUN device, the profile as the only transport, DNS through it,
// and rules for the blocked categories, the intranet and the rest. Sections that the file has itself stay as they are.
func (c *Config) expandProfile() []Fault {
	if len(c.Rules) > 0 {
		return []Fault{c.Fault("rules", "profile writes the rules itself",
			"remove rules, or remove profile and write listen, transports, dns and rules")}
	}
	text, err := private.ReadText(c.Profile, MaxFile)
	if err != nil {
		return []Fault{c.Fault("profile", "profile: "+err.Error(), "")}
	}
	name, pos := profileName(c.Profile), c.Position("profile")
	if _, taken := c.Transports[name]; taken {
		return []Fault{c.Fault("transports."+name, "profile makes a transport "+name+" itself", "rename this one")}
	}
	for i, category := range c.Block {
		if slices.Contains(c.Block[:i], category) {
			return []Fault{c.Fault(fmt.Sprintf("block[%d]", i), "block has "+category+" twice", "remove one")}
		}
	}
	t, facts := Transport{Pos: pos}, profile.Facts{}
	switch kind := profileKind(c.Profile, text); kind {
	case profile.OpenVPN:
		t.OpenVPN, facts = &OpenVPN{Config: c.Profile}, profile.Read(text)
	case profile.Configuration:
		return []Fault{c.Fault("profile", c.Profile+" is "+kind.String(), "name a wg-quick or .ovpn file, or run penstock with -c "+c.Profile)}
	default:
		var faults []Fault
		if facts, faults = profile.ReadWireGuard(text, c.Profile); len(faults) > 0 {
			return faults
		}
		t.WireGuard = &WireGuard{Config: c.Profile}
	}
	if c.Transports == nil {
		c.Transports = make(map[string]Transport)
	}
	c.Transports[name] = t
	c.positions["transports."+name] = pos
	if c.Listen.TUN == nil && c.Listen.WireGuard == nil {
		c.Listen.TUN = newTUN()
		c.Listen.TUN.Pos = pos
	}
	if len(c.DNS.Upstreams) == 0 && len(facts.DNS) == 0 && t.WireGuard != nil { // an OpenVPN server pushes its DNS servers
		return []Fault{c.Fault("profile", c.Profile+" has no line DNS = ADDRESS",
			"add one there, or add dns: {upstreams: [{address: ADDRESS, via: "+name+"}]} here")}
	}
	c.expandDNS(name, t.OpenVPN != nil, facts)
	c.expandRules(name, t.OpenVPN != nil, facts)
	return nil
}

// profileKind returns what a profile is, by its content or else by its name.
func profileKind(path string, text []byte) profile.Kind {
	kind := profile.KindOf(text)
	if kind == profile.Unknown && strings.EqualFold(filepath.Ext(path), ".ovpn") {
		return profile.OpenVPN
	}
	return kind
}

// expandDNS asks the profile's servers, unless the file has its own. A server that does not belong to the tunnel's networks
// is asked directly, as routing would.
func (c *Config) expandDNS(via string, openVPN bool, facts profile.Facts) {
	pos := c.Position("profile")
	var servers []Upstream
	inside := false
	for _, server := range facts.DNS {
		u := Upstream{Name: via, Address: server.String(), Via: via, Pos: pos}
		if !openVPN && !facts.Carries(server) {
			u.Name, u.Via = "", "direct"
			c.warn("%s: DNS server %s is not in AllowedIPs, so it is asked directly, outside of the tunnel: add %s to AllowedIPs if the server is behind it",
				c.Profile, server, netip.PrefixFrom(server, server.BitLen()))
		}
		inside = inside || u.Via == via
		servers = append(servers, u)
	}
	if len(c.DNS.Upstreams) == 0 {
		c.DNS.Upstreams = servers
		if inside && len(c.DNS.AllowPrivate) == 0 {
			c.DNS.AllowPrivate = []string{"."} // the hosts behind a tunnel have private addresses
		}
	}
	if len(c.Intranet) == 0 {
		return
	}
	if len(servers) == 0 {
		servers = c.DNS.Upstreams
	}
	if len(servers) > 0 {
		c.DNS.Split = append(c.DNS.Split, Split{Domains: c.Intranet, Upstream: slices.Clone(servers), Pos: pos})
	}
}

// warn adds a warning for Warnings.
func (c *Config) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

// Warnings returns a sentence for each thing that the short form does and its user may not expect, and for each group that a
// rule names and nobody is in, for each bad file of peers, and for names that may be in one.
func (c *Config) Warnings() []string {
	list := slices.Concat(c.warnings, emptyGroups(c), proxyWarnings(c))
	for _, bad := range c.Bad {
		list = append(list, fmt.Sprintf("the file of peers %s has a fault: %s", bad.File, bad))
	}
	for _, name := range c.Absent {
		list = append(list, fmt.Sprintf("rules or tests name peer %s, which may be in a file that is left out: its rules match nobody, and its tests are not run", name))
	}
	return list
}

// warnOfRoutes says who decides what goes through the tunnel of an .ovpn file, as far as the file tells.
func (c *Config) warnOfRoutes(facts profile.Facts) {
	switch {
	case facts.Redirect:
	case facts.NoPull:
		c.warn("%s: only its own routes go through the tunnel, because of route-nopull, and the rest leaves directly", c.Profile)
	case facts.Split:
		c.warn("%s: only its own routes and its server's go through the tunnel, because pull-filter ignores redirect-gateway, and the rest leaves directly", c.Profile)
	default:
		c.warn("%s: its server decides what goes through the tunnel: everything if it pushes redirect-gateway, and otherwise only its routes, "+
			"so that the rest leaves directly: to send everything through the tunnel, add redirect-gateway def1 there", c.Profile)
	}
}

// profileName makes the name of a transport from that of its file.
func profileName(path string) string {
	name := strings.Map(func(r rune) rune {
		if isNameRune(r) {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))))
	if faultOfName(name) != "" || slices.Contains(reserved, name) {
		return "profile"
	}
	return name
}

// expandRules writes the rules of the short form. An address family of which the profile does not carry all goes through it
// only for the profile's own networks, and the rest leaves directly, filtered all the same. But if the profile carries all of
// IPv4, or all but a few networks, and no IPv6, then IPv6 goes to the tunnel as well, which refuses it.
func (c *Config) expandRules(via string, openVPN bool, facts profile.Facts) {
	add := func(path, name string, match *Match, do Do) {
		do.normalise()
		pos := c.Position(path)
		do.Pos = pos
		c.positions[fmt.Sprintf("rules[%d]", len(c.Rules))] = pos
		c.Rules = append(c.Rules, Rule{Name: name, Match: match, Do: do, Pos: pos})
	}
	add("profile", "dns", &Match{Port: []string{"53"}, Protocol: []string{"tcp", "udp"}}, Do{Action: "dns"})
	for i, category := range c.Block {
		add(fmt.Sprintf("block[%d]", i), "no-"+category, &Match{Category: []string{category}}, Do{Action: "block"})
	}
	if len(c.Intranet) > 0 {
		add("intranet", "intranet", &Match{Domain: c.Intranet}, Do{Via: via})
	}
	v4, v6 := iprange.Covered4(facts.Networks), iprange.Covered6(facts.Networks)
	noIPv6 := v4 != iprange.Part && !slices.ContainsFunc(facts.Networks, func(p netip.Prefix) bool { return p.Addr().Is6() })
	if noIPv6 { // programs prefer IPv6, so most traffic would bypass the tunnel
		c.warn("%s: AllowedIPs carries all of IPv4%s and no IPv6: IPv6 is refused, so that nothing bypasses the tunnel", c.Profile, exceptFew(v4))
	}
	if openVPN || v4 == iprange.Whole && (noIPv6 || v6 == iprange.Whole) {
		do := Do{Via: via}
		if openVPN { // its server may route only some networks
			do.Unrouted = "direct"
			c.warnOfRoutes(facts)
		}
		add("profile", "rest", nil, do)
		return
	}
	switch {
	case v4 != iprange.Part && v6 == iprange.Part && !noIPv6:
		c.warn("%s: AllowedIPs carries all of IPv4%s but not all of IPv6, which leaves directly, outside of the tunnel: to send it through, add ::/0 there", c.Profile, exceptFew(v4))
	case v4 == iprange.Part && v6 != iprange.Part:
		c.warn("%s: AllowedIPs carries all of IPv6%s but not all of IPv4, which leaves directly, outside of the tunnel: to send it through, add 0.0.0.0/0 there", c.Profile, exceptFew(v6))
	}
	networks := slices.Clone(facts.Networks)
	if noIPv6 {
		networks = append(networks, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	cidr := make([]string, len(networks))
	for i, n := range networks {
		cidr[i] = n.String()
	}
	add("profile", "networks", &Match{CIDR: cidr}, Do{Via: via})
	add("profile", "rest", nil, Do{Action: "direct"})
}

// exceptFew says in a warning that networks are left out, if there are any.
func exceptFew(c iprange.Coverage) string {
	if c == iprange.Nearly {
		return " except a few networks"
	}
	return ""
}
