package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
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
				k.fault(fmt.Sprintf("%s.domains[%d]", path, j), "remove one", "there is a split zone %s already, at %s", domain, first)
			}
			zones[domain] = s.Pos
		}
	}
	k.blockAnswer("dns.block", k.DNS.Block)
	known := append(slices.Sorted(maps.Keys(k.Categories)), starter...)
	for _, name := range slices.Sorted(maps.Keys(k.DNS.BlockCategory)) {
		at := "dns.block_category." + name
		k.oneOf(at, name, "category", "categories", known)
		k.blockAnswer(at, k.DNS.BlockCategory[name])
	}
	if k.DNS.QueryLog && k.FlowLog.File == "" {
		k.fault("dns.query_log", "set flow_log.file", "there is no flow log to write questions to")
	}
}

func (k *checker) blockAnswer(path string, b BlockAnswer) {
	if (b.Answer == "address") != (len(b.Addresses) > 0) {
		k.fault(path+".answer", "write both or neither", "answer: address and addresses belong together")
	}
}

func (k *checker) upstreams(path string, upstreams []Upstream) {
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", path, i)
		k.via(at+".via", u.Via)
		if !isUpstream(u.Address) {
			k.fault(at+".address", "write an IP address, for example 10.0.0.53 or tcp://10.0.0.53:53, or tls://, https://, h3:// or quic:// and a name", "the upstream's address is %q", u.Address)
		}
	}
}

// isUpstream reports whether s is an address, with or without a port and a scheme. Encrypted upstreams may have a name
// instead.
func isUpstream(s string) bool {
	scheme, rest, hasScheme := strings.Cut(s, "://")
	switch {
	case !hasScheme:
		return isAddress(s)
	case scheme == "udp" || scheme == "tcp":
		return isAddress(rest)
	case scheme == "tls" || scheme == "quic":
		u, err := url.Parse(s)
		return err == nil && u.Hostname() != "" && u.User == nil && u.Path == ""
	case scheme == "https" || scheme == "h3":
		u, err := url.Parse(s)
		return err == nil && u.Hostname() != "" && u.User == nil
	}
	return false
}

// isAddress reports whether s is an IP address, with or without a port.
func isAddress(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	addr, err := netip.ParseAddrPort(s)
	return err == nil && addr.Port() != 0
}
