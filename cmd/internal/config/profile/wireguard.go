package profile

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"

	"penstock/cmd/internal/config/fault"
	"penstock/router/transport/wireguard"
)

// ReadWireGuard reads a wg-quick file. The faults say what is wrong with it, each with its line.
func ReadWireGuard(text []byte, file string) (Facts, []fault.Fault) {
	c, err := wireguard.ParseConfig(bytes.NewReader(text), file)
	if err != nil {
		return Facts{}, wireguardFaults(err)
	}
	facts := Facts{DNS: c.DNS, Domains: c.SearchDomains}
	for _, p := range c.Peers {
		facts.Networks = append(facts.Networks, p.AllowedIPs...)
	}
	return facts, nil
}

// wireguardFaults turns the errors of a wg-quick file into faults.
func wireguardFaults(err error) []fault.Fault {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	var list []fault.Fault
	for _, one := range all {
		if syntax, ok := errors.AsType[*wireguard.SyntaxError](one); ok {
			list = append(list, fault.Fault{
				Pos: fault.Position{File: syntax.File, Line: syntax.Line}, Message: syntax.Err.Error(), Mend: syntax.Mend, Excerpt: syntax.Excerpt,
			})
			continue
		}
		list = append(list, fault.Fault{Message: one.Error()})
	}
	return list
}

// Families reports whether the profile carries all of IPv4, and all of IPv6. Some profiles write them as two halves, so as
// not to replace the default route.
func (f Facts) Families() (v4, v6 bool) {
	has := func(networks ...string) bool {
		return !slices.ContainsFunc(networks, func(n string) bool {
			return !slices.ContainsFunc(f.Networks, func(p netip.Prefix) bool { return p.Masked() == netip.MustParsePrefix(n) })
		})
	}
	return has("0.0.0.0/0") || has("0.0.0.0/1", "128.0.0.0/1"), has("::/0") || has("::/1", "8000::/1")
}

// Carries reports whether an address is in the networks of the profile.
func (f Facts) Carries(addr netip.Addr) bool {
	return slices.ContainsFunc(f.Networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}
