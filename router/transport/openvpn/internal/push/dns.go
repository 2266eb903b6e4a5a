package push

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"penstock/router/transport/openvpn/internal/text"
)

const dnsPort = 53

func readDHCP(o *Options, args []string) error {
	if len(args) < 2 {
		return errNoValue
	}
	switch kind, value := args[0], args[1]; kind {
	case "DNS", "DNS6":
		addr, err := netip.ParseAddr(value)
		if err != nil {
			return err
		}
		o.dhcpServers = append(o.dhcpServers, netip.AddrPortFrom(addr, dnsPort))
	case "DOMAIN", "DOMAIN-SEARCH", "ADAPTER_DOMAIN_SUFFIX":
		if !slices.Contains(o.dhcpSearch, value) {
			o.dhcpSearch = append(o.dhcpSearch, value)
		}
	case "DOMAIN-ROUTE":
		o.dhcpRoutes = append(o.dhcpRoutes, value)
	default:
		return fmt.Errorf("%s is not supported", kind)
	}
	return nil
}

func readDNS(o *Options, args []string) error {
	if len(args) < 2 {
		return errNoValue
	}
	if args[0] == "search-domains" {
		o.dnsSearch = append(o.dnsSearch, args[1:]...)
		return nil
	}
	if args[0] != "server" || len(args) < 4 {
		return fmt.Errorf("%q is not supported", args[0])
	}
	n, err := strconv.ParseInt(args[1], 10, 8)
	if err != nil {
		return fmt.Errorf("%q is not a priority from -128 to 127", args[1])
	}
	server := o.servers[int(n)]
	if server == nil {
		server = &DNSServer{}
		o.servers[int(n)] = server
	}
	switch values := args[3:]; args[2] {
	case "address":
		for _, v := range values {
			addr, err := text.Server(v)
			if err != nil {
				return err
			}
			server.Addrs = append(server.Addrs, addr)
		}
	case "resolve-domains":
		server.Domains = append(server.Domains, values...)
	case "dnssec":
		server.DNSSEC = values[0]
	case "transport":
		server.Transport = values[0]
	case "sni":
		server.SNI = values[0]
	default:
		return fmt.Errorf("%q is not supported", args[2])
	}
	return nil
}

// finishDNS orders servers by priority. The dns options override dhcp-option: man openvpn(8), --dns.
func (o *Options) finishDNS() {
	for _, n := range slices.Sorted(maps.Keys(o.servers)) {
		server := o.servers[n]
		if len(server.Addrs) == 0 {
			o.Problems = append(o.Problems, fmt.Errorf("dns server %d: no address", n))
			continue
		}
		if hasAll(server.Domains) {
			server.Domains = nil
		}
		if server.Transport == "" {
			server.Transport = "plain"
		}
		o.DNS = append(o.DNS, *server)
	}
	if len(o.DNS) == 0 && len(o.dhcpServers) > 0 {
		o.DNS = []DNSServer{{Addrs: o.dhcpServers, Domains: o.dhcpDomains(), Transport: "plain"}}
	}
	o.SearchDomains = o.dnsSearch
	if len(o.SearchDomains) == 0 {
		o.SearchDomains = o.dhcpSearch
	}
}

// dhcpDomains returns the domains that the servers of dhcp-option are for, nil for all names. DOMAIN-ROUTE limits them, as in
// clients that set up systemd-resolved; the search domains are theirs too.
func (o *Options) dhcpDomains() []string {
	if len(o.dhcpRoutes) == 0 || hasAll(o.dhcpRoutes) {
		return nil
	}
	domains := slices.Concat(o.dhcpRoutes, o.dhcpSearch)
	slices.Sort(domains)
	return slices.Compact(domains)
}

// hasAll reports whether domains have the root, with or without systemd's mark for domains that are not searched.
func hasAll(domains []string) bool {
	return slices.ContainsFunc(domains, func(d string) bool { return d == "." || d == "~." })
}

func readTokenUser(o *Options, args []string) error {
	if len(args) == 0 {
		return errNoValue
	}
	user, err := base64.StdEncoding.DecodeString(args[0])
	if err != nil {
		return errors.New("not base64")
	}
	o.TokenUser = string(user)
	return nil
}
