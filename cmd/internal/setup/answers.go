package setup

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"penstock/cmd/internal/config"
	"penstock/policy/spelling"
)

// Purpose is what a machine is for.
type Purpose string

// The purposes. The zero Purpose is not known yet.
const (
	Laptop  Purpose = "laptop"
	Gateway Purpose = "gateway"
)

// Answers are what a configuration is made from.
type Answers struct {
	File    string // of the configuration, absolute
	Purpose Purpose

	Profile string // of a laptop: a wg-quick or .ovpn file

	Networks []netip.Prefix // behind a gateway
	Endpoint string         // of a gateway: host:port that peers dial, or the host alone
	Port     int            // on which a gateway listens; 0: that of Endpoint, else 51820
	DNS      []netip.Addr   // whom a gateway asks

	Block    []string            // categories
	Lists    map[string][]string // files and URLs, by category; a category with lists is blocked
	Intranet []string            // domains
}

// standardPort is that of WireGuard.
const standardPort = 51820

// ParsePurpose reads the name of a purpose.
func ParsePurpose(text string) (Purpose, error) {
	for _, p := range []Purpose{Laptop, Gateway} {
		if text != "" && strings.HasPrefix(string(p), strings.ToLower(text)) {
			return p, nil
		}
	}
	return "", fmt.Errorf("%q is neither laptop nor gateway", text)
}

// Missing returns a flag for each answer that has no default and is missing.
func (a *Answers) Missing() []string {
	var flags []string
	need := func(missing bool, flag string) {
		if missing {
			flags = append(flags, flag)
		}
	}
	switch a.Purpose {
	case Laptop:
		need(a.Profile == "", "--profile FILE")
	case Gateway:
		need(len(a.Networks) == 0, "--network NETWORKS")
		need(a.Endpoint == "", "--endpoint HOST:PORT")
		need(len(a.DNS) == 0, "--dns ADDRESS")
	default:
		need(true, "laptop with --profile FILE, or gateway with --network NETWORKS and --endpoint HOST:PORT")
	}
	for _, name := range a.withoutList() {
		need(true, "--list "+name+"=FILE-OR-URL"+meant(name))
	}
	return flags
}

// withoutList returns the blocked categories that need a list and have none.
func (a *Answers) withoutList() []string {
	var names []string
	for _, name := range a.Block {
		if !slices.Contains(config.BuiltIn(), name) && len(a.Lists[name]) == 0 {
			names = append(names, name)
		}
	}
	return names
}

// SetBlock takes the categories to block, beside those that have lists.
func (a *Answers) SetBlock(names []string) error {
	for _, name := range names {
		if err := config.CheckName(name); err != nil {
			return fmt.Errorf("block: %w", err)
		}
	}
	all := append(slices.Clone(names), a.Block...)
	a.Block = nil
	for i, name := range all {
		if (i < len(names) || len(a.Lists[name]) > 0) && !slices.Contains(a.Block, name) {
			a.Block = append(a.Block, name)
		}
	}
	return nil
}

// meant says which built-in category a name could be a misspelt one of.
func meant(name string) string {
	if near := spelling.Nearest(name, config.BuiltIn()); near != "" {
		return fmt.Sprintf(" (did you mean %s?)", near)
	}
	return ""
}

// AddList takes NAME=FILE or NAME=URL.
func (a *Answers) AddList(text string) error {
	name, list, ok := strings.Cut(text, "=")
	if !ok || list == "" {
		return fmt.Errorf("the list is %q: write NAME=FILE or NAME=URL, for example gambling=https://lists.example/gambling.txt", text)
	}
	if err := config.CheckName(name); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	if u, err := url.Parse(list); err != nil || u.Host == "" {
		if list, err = filepath.Abs(list); err != nil {
			return err
		}
	}
	if a.Lists == nil {
		a.Lists = make(map[string][]string)
	}
	a.Lists[name] = append(a.Lists[name], list)
	if !slices.Contains(a.Block, name) {
		a.Block = append(a.Block, name)
	}
	return nil
}

// SetNetworks takes the networks behind a gateway.
func (a *Answers) SetNetworks(texts []string) error {
	a.Networks = nil
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			return fmt.Errorf("the network is %q: write an address with its prefix length, for example 10.20.0.0/16", text)
		case p.Bits() == 0:
			return fmt.Errorf("the network is %s, which is everything: write the networks behind this gateway, for example 10.20.0.0/16", p)
		}
		if p = p.Masked(); !slices.Contains(a.Networks, p) {
			a.Networks = append(a.Networks, p)
		}
	}
	return nil
}

// SetEndpoint takes what peers dial, with or without a port.
func (a *Answers) SetEndpoint(text string) error {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), ""
	}
	_, notIP := netip.ParseAddr(host)
	if host == "" || strings.ContainsAny(text, "/ @") || strings.Contains(host, ":") && notIP != nil {
		return fmt.Errorf("the endpoint is %q: "+
			"write the public name or address of this gateway, for example vpn.corp.example:51820", text)
	}
	if port == "" {
		a.Endpoint = host
		return nil
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("the port of the endpoint is %q: write a number from 1 to 65535", port)
	}
	a.Endpoint = net.JoinHostPort(host, port)
	return nil
}

// endpoint returns what peers dial, and the port on which the gateway listens.
func (a *Answers) endpoint() (dial string, port int) {
	host, text, err := net.SplitHostPort(a.Endpoint)
	if err != nil {
		host = a.Endpoint
	}
	port = a.Port
	if public, err := strconv.Atoi(text); err == nil { // a router may map one port to another
		if port == 0 {
			port = public
		}
		return net.JoinHostPort(host, text), port
	}
	if port == 0 {
		port = standardPort
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), port
}

// SetPort takes the port on which a gateway listens.
func (a *Answers) SetPort(text string) error {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("the port is %q: write a number from 1 to 65535", text)
	}
	a.Port = int(n)
	return nil
}

// SetDNS takes the servers that a gateway asks.
func (a *Answers) SetDNS(texts []string) error {
	a.DNS = nil
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return fmt.Errorf("the DNS server is %q: write an IP address, for example 10.20.0.53", text)
		}
		a.DNS = append(a.DNS, addr)
	}
	return nil
}

// SetIntranet takes the domains of the intranet.
func (a *Answers) SetIntranet(names []string) error {
	a.Intranet = nil
	for _, name := range names {
		name = strings.TrimSuffix(strings.TrimPrefix(name, "*."), ".")
		if name == "" || strings.ContainsAny(name, "*/:@ ") {
			return errors.New("a domain of the intranet is a name, for example corp.example")
		}
		a.Intranet = append(a.Intranet, name)
	}
	return nil
}
