package setup

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
)

// keyFile is the private key of a gateway, and peersFolder where its peers are, beside the configuration.
const (
	keyFile     = "gateway.key"
	peersFolder = "peers.d"
)

// laptopText is the configuration of a laptop. profile is how it names the profile.
func (a *Answers) laptopText(schema, profile string) string {
	var b strings.Builder
	a.head(&b, schema, "A laptop. The short form: penstock config show -c "+a.File+" prints what it stands for.")
	fmt.Fprintf(&b, `
# The file of the company or provider. What it routes goes through its tunnel.
profile: %s
`, quoted(profile))
	comment := ""
	blocked := a.Block
	if len(blocked) == 0 {
		comment, blocked = "# ", []string{"gambling", "adult", "malware"}
	}
	fmt.Fprintf(&b, `
# Categories of hosts that nobody here reaches. Built in, with a few hundred well-known names: %s.
%sblock: [%s]
`, strings.Join(config.BuiltIn(), ", "), comment, strings.Join(blocked, ", "))
	a.categories(&b)
	comment, domains := "", a.Intranet
	if len(domains) == 0 {
		comment, domains = "# ", []string{"corp.example"}
	}
	fmt.Fprintf(&b, `
# Domains that always go through the tunnel, and that its DNS servers resolve.
%sintranet: [%s]
`, comment, quotedAll(domains))
	rest(&b)
	return b.String()
}

// gatewayText is the configuration of a gateway.
func (a *Answers) gatewayText(schema string, own []netip.Prefix) string {
	var b strings.Builder
	dial, port := a.endpoint()
	inner := innerNetworks(append(slices.Clone(a.Networks), own...))
	a.head(&b, schema, "A gateway: peers connect with any WireGuard program, and the rules judge each of their flows.")
	fmt.Fprintf(&b, `
listen:
  wireguard:
    listen_port: %d
    address: [%s] # inside the tunnel; peers get theirs from these networks
    private_key: {file: %s}
    endpoint: %s # what peers dial
# penstock peer add NAME writes a file into this folder, and penstock follows it.
include: [%s/*.yaml]

dns:
  upstreams: [%s]
`, port, quotedAll(inner), keyFile, quoted(dial), peersFolder, upstreams(a.DNS))
	split, domains := "", a.Intranet
	if len(domains) == 0 {
		split, domains = "# ", []string{"corp.example"}
	}
	fmt.Fprintf(&b, `  # Names of the intranet may have private addresses. A peer sees those that it may reach.
  %ssplit: [{domains: [%s], upstream: [%s]}]
`,
		split, quotedAll(domains), upstreams(a.DNS))
	a.categories(&b)
	b.WriteString("\n# The first match decides.\nrules:\n")
	for _, category := range a.Block {
		fmt.Fprintf(&b, "  - {name: no-%s, match: {category: [%s]}, do: block}\n", category, category)
	}
	fmt.Fprintf(&b, `  - {name: networks, match: {cidr: [%s]}, do: direct}
  - {name: no-private, match: {cidr: private}, do: block}
  - {name: rest, do: direct} # the internet; block it if peers come for the networks alone

# What must hold, before this configuration is used and after each change.
tests:
`, quotedAll(a.Networks))
	if host := someHost(a.Networks, own); host.IsValid() {
		fmt.Fprintf(&b, "  - {to: %s, expect: direct}\n", quoted(site(host)))
	}
	if host := otherHost(append(slices.Clone(a.Networks), own...)); host.IsValid() {
		fmt.Fprintf(&b, "  - {to: %s, expect: block}\n", quoted(site(host)))
	}
	rest(&b)
	return b.String()
}

func site(host netip.Addr) string {
	if host.Is6() {
		return "http://[" + host.String() + "]"
	}
	return "http://" + host.String()
}

// head begins a configuration.
func (a *Answers) head(b *strings.Builder, schema, purpose string) {
	fmt.Fprintf(b, `# yaml-language-server: $schema=%s
# %s
# Made by penstock init. Every key: docs/configuration.md. After a change: penstock check -c %s, then penstock reload.
version: 1
`, schema, purpose, a.File)
}

// rest ends a configuration.
func rest(b *strings.Builder) {
	b.WriteString("\n# Prometheus metrics, /healthz and /readyz.\nmetrics: {listen: \"127.0.0.1:9477\"}\n")
	for _, s := range optionalSections() {
		fmt.Fprintf(b, "\n# %s\n# %s\n", s.what, s.text)
	}
}

// optional is a section that a new configuration names and does not use.
type optional struct{ what, text string }

// optionalSections returns those of every configuration. This is the place for a section that most people should know of.
func optionalSections() []optional {
	return []optional{
		{"A page that shows what penstock does. penstock console opens one also without this.", `console: {listen: "127.0.0.1:9478"}`},
		{"Finished flows and questions, kept in a database.", "history: {}"},
	}
}

// categories writes the lists of categories.
func (a *Answers) categories(b *strings.Builder) {
	head := "categories:\n"
	for _, name := range a.Block {
		if len(a.Lists[name]) == 0 {
			continue
		}
		fmt.Fprintf(b, "%s  %s:\n    lists:\n", head, name)
		head = ""
		for _, list := range a.Lists[name] {
			key := "url"
			if filepath.IsAbs(list) {
				key = "file"
			}
			fmt.Fprintf(b, "      - {%s: %s}\n", key, quoted(list))
		}
	}
}

func upstreams(servers []netip.Addr) string {
	var list []string
	for _, addr := range servers {
		list = append(list, "{address: "+quoted(addr.String())+"}")
	}
	return strings.Join(list, ", ")
}

// quoted writes a text as YAML and JSON do. A string always has such a form.
func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

func quotedAll[T any](values []T) string {
	var list []string
	for _, v := range values {
		list = append(list, quoted(fmt.Sprint(v)))
	}
	return strings.Join(list, ", ")
}

// innerNetworks chooses the gateway's addresses inside the tunnel, in networks that overlap none of the others.
func innerNetworks(others []netip.Prefix) []netip.Prefix {
	var chosen []netip.Prefix
	for _, family := range [][]string{
		{"10.99.0.1/24", "10.199.0.1/24", "172.29.99.1/24", "192.168.199.1/24", "100.99.99.1/24"},
		{"fd99::1/64", "fd9a:5e70::1/64"},
	} {
		for _, text := range family {
			p := netip.MustParsePrefix(text)
			if !slices.ContainsFunc(others, p.Overlaps) {
				chosen = append(chosen, p)
				break
			}
		}
	}
	return chosen
}

// someHost returns an address in one of the networks that is none of this machine's own.
func someHost(networks, own []netip.Prefix) netip.Addr {
	for _, n := range networks {
		addr := n.Masked().Addr()
		for range 10 {
			if next := addr.Next(); n.Contains(next) {
				addr = next
			}
		}
		for ; n.Contains(addr); addr = addr.Next() {
			if !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Addr() == addr }) {
				return addr
			}
		}
	}
	return netip.Addr{}
}

// otherHost returns a private address that is in none of the networks.
func otherHost(networks []netip.Prefix) netip.Addr {
	for _, text := range []string{"192.168.1.1", "172.16.0.1", "10.0.0.1", "192.168.250.1"} {
		addr := netip.MustParseAddr(text)
		if !slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			return addr
		}
	}
	return netip.Addr{}
}
