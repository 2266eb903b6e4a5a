package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// expand writes out what is meant by words and by the laptop form.
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
	if d.Via != "" && d.Action == "" {
		d.Action = "via"
	}
	if d.How == "drop" && d.Action == "block" {
		d.Action = "drop"
	}
}

// expandProfile turns the laptop form into the full one: a TUN device, the profile as the only transport, DNS through it,
// a rule for every blocked category, the intranet, and the rest. Sections that are written out stay as they are.
func (c *Config) expandProfile() []Fault {
	if len(c.Rules) > 0 {
		return []Fault{c.Fault("rules", "profile writes the rules itself",
			"remove rules, or remove profile and write listen, transports, dns and rules")}
	}
	data, err := readPrivate(c.Profile)
	if err != nil {
		return []Fault{c.Fault("profile", "profile: "+err.Error(), "")}
	}
	facts, pos := readProfile(data), c.Position("profile")
	name := c.nameProfile(pos)
	if c.Listen.TUN == nil && c.Listen.WireGuard == nil {
		c.Listen.TUN = newTUN()
		c.Listen.TUN.Pos = pos
	}
	if len(c.DNS.Upstreams) == 0 {
		for _, server := range facts.dns {
			c.DNS.Upstreams = append(c.DNS.Upstreams, Upstream{Name: name, Address: server.String(), Via: name, Pos: pos})
		}
	}
	openVPN := c.Transports[name].OpenVPN != nil
	if len(c.DNS.Upstreams) == 0 && !openVPN { // an OpenVPN server pushes its DNS servers
		return []Fault{c.Fault("profile", c.Profile+" has no line DNS = ADDRESS",
			"add one there, or dns: {upstreams: [{address: ADDRESS, via: "+name+"}]} here")}
	}
	if len(c.Intranet) > 0 && len(c.DNS.Upstreams) > 0 {
		c.DNS.Split = append(c.DNS.Split, Split{Domains: c.Intranet, Upstream: slices.Clone(c.DNS.Upstreams), Pos: pos})
	}
	c.expandRules(name, openVPN || facts.everything(), facts.allowed)
	return nil
}

// nameProfile adds the profile as a transport and returns its name, which is the file's.
func (c *Config) nameProfile(pos Position) string {
	extension := filepath.Ext(c.Profile)
	name := strings.Map(func(r rune) rune {
		if isNameRune(r) {
			return r
		}
		return '-'
	}, strings.ToLower(strings.TrimSuffix(filepath.Base(c.Profile), extension)))
	if faultOfName(name) != "" || slices.Contains(reserved, name) {
		name = "profile"
	}
	t := Transport{Pos: pos}
	if strings.EqualFold(extension, ".ovpn") {
		t.OpenVPN = &OpenVPN{Config: c.Profile}
	} else {
		t.WireGuard = &WireGuard{Config: c.Profile}
	}
	if c.Transports == nil {
		c.Transports = make(map[string]Transport)
	}
	c.Transports[name] = t
	c.positions["transports."+name] = pos
	return name
}

// expandRules writes the rules of the laptop form. A profile that does not carry everything carries its own networks,
// and the rest goes out directly, still filtered.
func (c *Config) expandRules(via string, everything bool, networks []netip.Prefix) {
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
	if everything {
		add("profile", "rest", nil, Do{Via: via})
		return
	}
	cidr := make([]string, len(networks))
	for i, n := range networks {
		cidr[i] = n.String()
	}
	add("profile", "networks", &Match{CIDR: cidr}, Do{Via: via})
	add("profile", "rest", nil, Do{Action: "direct"})
}

// profileFacts are what the laptop form needs to know of a profile. Its transport reads the file in full.
type profileFacts struct {
	dns     []netip.Addr
	allowed []netip.Prefix
}

// readProfile finds DNS servers and networks in a wg-quick or .ovpn file.
func readProfile(data []byte) profileFacts {
	var facts profileFacts
	for line := range strings.Lines(string(data)) { // a line may be as long as the file
		line, _, _ := strings.Cut(strings.TrimRight(line, "\r\n"), "#")
		key, value, isWireGuard := strings.Cut(line, "=")
		switch words := strings.Fields(line); {
		case isWireGuard && strings.EqualFold(strings.TrimSpace(key), "DNS"):
			for item := range strings.SplitSeq(value, ",") {
				if addr, err := netip.ParseAddr(strings.TrimSpace(item)); err == nil { // names are search domains
					facts.dns = append(facts.dns, addr)
				}
			}
		case isWireGuard && strings.EqualFold(strings.TrimSpace(key), "AllowedIPs"):
			for item := range strings.SplitSeq(value, ",") {
				if prefix, err := parsePrefix(strings.TrimSpace(item)); err == nil {
					facts.allowed = append(facts.allowed, prefix)
				}
			}
		case len(words) == 3 && words[0] == "dhcp-option" && strings.HasPrefix(words[1], "DNS"):
			if addr, err := netip.ParseAddr(words[2]); err == nil {
				facts.dns = append(facts.dns, addr)
			}
		}
	}
	return facts
}

// everything says that the profile carries all of IPv4 or all of IPv6, be it in halves, as some files write it so as not
// to replace the default route.
func (f profileFacts) everything() bool {
	halves := make(map[netip.Prefix]bool)
	for _, p := range f.allowed {
		if p.Bits() == 0 {
			return true
		}
		halves[p.Masked()] = true
	}
	return halves[netip.MustParsePrefix("0.0.0.0/1")] && halves[netip.MustParsePrefix("128.0.0.0/1")] ||
		halves[netip.MustParsePrefix("::/1")] && halves[netip.MustParsePrefix("8000::/1")]
}

// parsePrefix reads a network, or an address as the network of itself.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
