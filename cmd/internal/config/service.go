package config

import (
	"net/netip"
	"slices"
)

// ServiceAddrs are the addresses inside the TUN that penstock answers on: the one behind each of the device's own,
// because the device's own belong to the host, whose packets to itself never reach the TUN.
func (t *TUN) ServiceAddrs() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range t.Address {
		if a, ok := serviceAddr(p); ok {
			list = append(list, netip.PrefixFrom(a, p.Bits()))
		}
	}
	return list
}

// Serves reports whether an address is one of ServiceAddrs.
func (t *TUN) Serves(addr netip.Addr) bool {
	return slices.ContainsFunc(t.Address, func(p netip.Prefix) bool {
		a, ok := serviceAddr(p)
		return ok && a == addr
	})
}

// serviceAddr returns the address behind that of p, or before it where p ends. ok is false if p has no other.
func serviceAddr(p netip.Prefix) (addr netip.Addr, ok bool) {
	addr = p.Addr().Next()
	if !p.Contains(addr) {
		addr = p.Addr().Prev()
	}
	return addr, p.Contains(addr)
}
