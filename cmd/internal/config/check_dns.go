package config

import (
	"fmt"
	"net/netip"
)

// dns checks upstreams and split zones.
func (k *checker) dns() {
	k.upstreams("dns.upstreams", k.DNS.Upstreams)
	zones := make(map[string]Position)
	for i, s := range k.DNS.Split {
		path := fmt.Sprintf("dns.split[%d]", i)
		k.upstreams(path+".upstream", s.Upstream)
		for j, domain := range s.Domains {
			if first, taken := zones[domain]; taken {
				k.fault(fmt.Sprintf("%s.domains[%d]", path, j), "remove one", "%s is split already, at %s", domain, first)
			}
			zones[domain] = s.Pos
		}
	}
}

func (k *checker) upstreams(path string, upstreams []Upstream) {
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.via(at+".via", u.Via)
		if !isUpstream(u.Address) {
			k.fault(at+".address", "write an IP address, for example 10.0.0.53, udp://10.0.0.53:53 or tcp://10.0.0.53", "the upstream's address is %q", u.Address)
		}
	}
}

// isUpstream says whether s is an address, with or without port and scheme.
func isUpstream(s string) bool {
	for _, scheme := range []string{"udp://", "tcp://"} {
		if len(s) > len(scheme) && s[:len(scheme)] == scheme {
			s = s[len(scheme):]
			break
		}
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Port() != 0
}
