package config

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"penstock/cmd/internal/config/profile"
	"penstock/cmd/internal/private"
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
	data, err := private.Read(c.Profile, MaxFile)
	if err != nil {
		return []Fault{c.Fault("profile", "profile: "+err.Error(), "")}
	}
	facts, pos := profile.Read(data), c.Position("profile")
	name := profileName(c.Profile)
	if _, taken := c.Transports[name]; taken {
		return []Fault{c.Fault("transports."+name, "profile makes a transport "+name+" itself", "rename this one")}
	}
	for i, category := range c.Block {
		if slices.Contains(c.Block[:i], category) {
			return []Fault{c.Fault(fmt.Sprintf("block[%d]", i), "block has "+category+" twice", "remove one")}
		}
	}
	openVPN := c.addProfile(name, pos)
	if !openVPN && len(facts.Networks) == 0 {
		return []Fault{c.Fault("profile", c.Profile+" has no line AllowedIPs = NETWORKS, so nothing would go through it", "add one there")}
	}
	if c.Listen.TUN == nil && c.Listen.WireGuard == nil {
		c.Listen.TUN = newTUN()
		c.Listen.TUN.Pos = pos
	}
	if len(c.DNS.Upstreams) == 0 {
		for _, server := range facts.DNS {
			c.DNS.Upstreams = append(c.DNS.Upstreams, Upstream{Name: name, Address: server.String(), Via: name, Pos: pos})
		}
	}
	if len(c.DNS.Upstreams) == 0 && !openVPN { // an OpenVPN server pushes its DNS servers
		return []Fault{c.Fault("profile", c.Profile+" has no line DNS = ADDRESS",
			"add one there, or add dns: {upstreams: [{address: ADDRESS, via: "+name+"}]} here")}
	}
	if len(c.Intranet) > 0 && len(c.DNS.Upstreams) > 0 {
		c.DNS.Split = append(c.DNS.Split, Split{Domains: c.Intranet, Upstream: slices.Clone(c.DNS.Upstreams), Pos: pos})
	}
	c.expandRules(name, openVPN || facts.Everything(), facts.Networks)
	return nil
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

// addProfile adds the profile as a transport, and reports whether it is one of OpenVPN.
func (c *Config) addProfile(name string, pos Position) (openVPN bool) {
	t := Transport{Pos: pos}
	if openVPN = strings.EqualFold(filepath.Ext(c.Profile), ".ovpn"); openVPN {
		t.OpenVPN = &OpenVPN{Config: c.Profile}
	} else {
		t.WireGuard = &WireGuard{Config: c.Profile}
	}
	if c.Transports == nil {
		c.Transports = make(map[string]Transport)
	}
	c.Transports[name] = t
	c.positions["transports."+name] = pos
	return openVPN
}

// expandRules writes the rules of the short form. If the profile does not carry all traffic, only its own networks go
// through it, and the rest leaves directly, filtered all the same.
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
