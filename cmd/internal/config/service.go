package config

import "net/netip"

// ServiceAddrs are the addresses inside the TUN that penstock answers on: the one behind each of the device's own,
// because the device's own belong to the host, whose packets to itself never reach the TUN.
func (t *TUN) ServiceAddrs() []netip.Prefix {
	var list []netip.Prefix
	for _, p := range t.Address {
		next := p.Addr().Next()
		if !p.Contains(next) {
			next = p.Addr().Prev()
		}
		if p.Contains(next) {
			list = append(list, netip.PrefixFrom(next, p.Bits()))
		}
	}
	return list
}
