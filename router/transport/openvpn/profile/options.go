package profile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"penstock/router/transport/openvpn/internal/route"
	"penstock/router/transport/openvpn/internal/text"
)

// keepOption keeps a directive in the form that a server pushes it.
func (p *parser) keepOption(d directive) {
	p.out.Options = append(p.out.Options, text.Join(append([]string{d.name}, d.args...)))
}

// parseRoute refuses what cannot be followed: what it leads to would silently stay out of the tunnel.
func parseRoute(p *parser, d directive) error {
	parse, gateway := route.Parse, d.arg(2)
	if d.name == "route-ipv6" {
		parse, gateway = route.Parse6, d.arg(1)
	}
	address, length, hasLength := strings.Cut(d.arg(0), "/")
	_, noAddress := netip.ParseAddr(address)
	_, err := parse(d.args)
	switch {
	case err == nil:
		p.keepOption(d)
		return nil
	case d.arg(0) == "vpn_gateway": // inside anyway
		return nil
	case d.arg(0) == "remote_host", d.arg(0) == "net_gateway", noAddress != nil && strings.HasPrefix(gateway, "net_gateway"):
		p.warn("%s %s is ignored: penstock reaches the server outside of its tunnel, and other hosts only by an address", d.name, d.arg(0))
		return nil
	case noAddress != nil && address != "":
		return fmt.Errorf("%q is not an address: write the address, or list the name as intranet in the configuration", d.arg(0))
	case d.name == "route" && hasLength:
		return fmt.Errorf("%q needs a mask in place of /%s: write it as in 10.20.0.0 255.255.0.0", address, length)
	}
	return err
}

// parseDNS refuses a server that is none: its names would silently go elsewhere.
func parseDNS(p *parser, d directive) error {
	if d.arg(0) == "search-domains" && d.arg(1) != "" {
		p.keepOption(d)
		return nil
	}
	if d.arg(0) != "server" || d.arg(3) == "" {
		return errors.New("write it as in server 1 address 10.0.0.53, or search-domains corp.example")
	}
	if _, err := strconv.ParseInt(d.arg(1), 10, 8); err != nil {
		return fmt.Errorf("%q is not a priority from -128 to 127", d.arg(1))
	}
	switch kind := d.arg(2); kind {
	case "address":
		for _, s := range d.args[3:] {
			if _, err := text.Server(s); err != nil {
				return fmt.Errorf("%q is not an address, with or without a port", s)
			}
		}
	case "resolve-domains", "dnssec", "transport", "sni":
	default:
		p.warn("dns server %s is ignored: only address, resolve-domains, dnssec, transport and sni have an effect", kind)
		return nil
	}
	p.keepOption(d)
	return nil
}

// parseDHCP keeps what concerns DNS.
func parseDHCP(p *parser, d directive) error {
	kind, value := d.arg(0), d.arg(1)
	switch {
	case kind == "":
		return errors.New("no type")
	case !slices.Contains([]string{"DNS", "DNS6", "DOMAIN", "DOMAIN-SEARCH", "DOMAIN-ROUTE", "ADAPTER_DOMAIN_SUFFIX"}, kind):
		p.warn("dhcp-option %s is ignored: only options about DNS have an effect", kind)
		return nil
	case value == "":
		return fmt.Errorf("%s has no value", kind)
	}
	if _, err := netip.ParseAddr(value); err != nil && strings.HasPrefix(kind, "DNS") {
		return fmt.Errorf("%s: %q is not an address", kind, value)
	}
	p.keepOption(d)
	return nil
}
