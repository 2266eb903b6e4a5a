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

// Carries reports whether an address is in the networks of the profile.
func (f Facts) Carries(addr netip.Addr) bool {
	return slices.ContainsFunc(f.Networks, func(p netip.Prefix) bool { return p.Contains(addr) })
}
