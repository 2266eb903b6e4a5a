// Package profile looks into a wg-quick or .ovpn file for what the short form of the configuration needs: which of the two
// it is, DNS servers, and the networks that go through the tunnel.
//
// It does not check an .ovpn file. The file's transport reads all of it, and refuses what it does not understand.
package profile

import (
	"net/netip"
	"slices"
	"strings"
)

// Facts are what the short form needs to know about a profile.
type Facts struct {
	DNS      []netip.Addr   // for all names: an .ovpn file with DOMAIN-ROUTE has none
	Domains  []string       // search domains of wg-quick; with ~ in front, only routed
	Networks []netip.Prefix // AllowedIPs of wg-quick; an .ovpn file has none
	Redirect bool           // an .ovpn file has redirect-gateway itself
	NoPull   bool           // an .ovpn file has route-nopull: its server adds no routes
	Split    bool           // an .ovpn file has pull-filter ignore redirect-gateway: its server adds routes and no more
}

// Read finds DNS servers in an .ovpn file, and who says what goes through the tunnel. It passes over everything else.
func Read(text []byte) Facts {
	var facts Facts
	some, all := false, false // names that the servers are for
	for line := range strings.Lines(string(text)) {
		words := openvpnWords(line)
		if len(words) > 0 {
			facts.Redirect = facts.Redirect || words[0] == "redirect-gateway" && !slices.Contains(words, "!ipv4")
			facts.NoPull = facts.NoPull || words[0] == "route-nopull"
			facts.Split = facts.Split || words[0] == "pull-filter" && len(words) == 3 && words[1] == "ignore" && strings.HasPrefix("redirect-gateway", words[2])
		}
		switch {
		case len(words) != 3 || words[0] != "dhcp-option":
		case words[1] == "DOMAIN-ROUTE":
			some, all = true, all || words[2] == "." || words[2] == "~."
		case strings.HasPrefix(words[1], "DNS"):
			if addr, err := netip.ParseAddr(words[2]); err == nil {
				facts.DNS = append(facts.DNS, addr)
			}
		}
	}
	if some && !all { // the transport names the servers with their domains
		facts.DNS = nil
	}
	return facts
}

// openvpnWords splits a line of an .ovpn file whose words have no blanks in them. They may be quoted, a comment may follow, and
// "setenv opt" may stand before them.
func openvpnWords(line string) []string {
	words := strings.Fields(line)
	for i, word := range words {
		if word[0] == '#' || word[0] == ';' {
			words = words[:i]
			break
		}
		words[i] = strings.Trim(word, `"'`)
	}
	if len(words) > 2 && words[0] == "setenv" && words[1] == "opt" {
		words = words[2:]
	}
	if len(words) > 0 {
		words[0] = strings.TrimPrefix(words[0], "--")
	}
	return words
}

// ParsePrefix reads a network, or an address as the network of itself.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}
