package resolver

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// upstreamFiles is where programs that put a stub into resolv.conf write the servers behind it.
var upstreamFiles = [...]string{
	"/run/systemd/resolve/resolv.conf",
	"/run/NetworkManager/no-stub-resolv.conf",
}

// Servers returns the servers of a resolver file that is not ours. A server on this machine is a stub: Servers returns
// the servers behind it, if it can find them. It leaves out ours, and what systemd-resolved has for the interface tun.
func Servers(bus *Bus, original []byte, tun int, ours []netip.Addr) []netip.Addr {
	var servers []netip.Addr
	stub := false
	for _, a := range nameservers(original) {
		if a.IsLoopback() {
			stub = true
		} else {
			servers = append(servers, a)
		}
	}
	if stub {
		servers = append(servers, behindStub(bus, tun)...)
	}
	var out []netip.Addr
	for _, a := range servers {
		if !a.IsLoopback() && !slices.Contains(ours, a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func behindStub(bus *Bus, tun int) []netip.Addr {
	if bus.Available() {
		if servers, err := bus.upstreams(tun); err == nil && len(servers) > 0 {
			return servers
		}
	}
	for _, path := range upstreamFiles {
		raw, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if servers := nameservers(raw); len(servers) > 0 {
			return servers
		}
	}
	return nil
}

// StubInUse reports whether the resolver file at path sends programs to systemd-resolved's stub.
func StubInUse(path string) bool {
	raw, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(nameservers(raw), isStub)
}

// isStub reports whether a server is systemd-resolved's stub.
func isStub(a netip.Addr) bool {
	return a == netip.AddrFrom4([4]byte{127, 0, 0, 53}) || a == netip.AddrFrom4([4]byte{127, 0, 0, 54})
}

// LeadsOut reports whether the resolver file at path names a server outside this machine. Questions to one can be captured on
// their way.
func LeadsOut(path string) bool {
	return slices.ContainsFunc(Named(path), func(a netip.Addr) bool { return !a.IsLoopback() && !a.IsUnspecified() })
}

// Named returns the servers that the resolver file at path names; none if it cannot be read.
func Named(path string) []netip.Addr {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return nameservers(raw)
}

// nameservers returns the addresses of a resolver file's nameserver lines.
func nameservers(content []byte) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, a.Unmap())
		}
	}
	return out
}

// SearchDomains returns the search domains of a resolver file that is not ours. Where it is that of systemd-resolved's stub,
// which has our own domains too, it returns those of all interfaces but tun. Where it has none, because it is another stub's,
// it returns those that the stub's owner wrote elsewhere.
func SearchDomains(bus *Bus, original []byte, tun int) []string {
	if slices.ContainsFunc(nameservers(original), isStub) && bus.Available() {
		if domains, err := bus.search(tun); err == nil {
			return domains
		}
	}
	if domains := searchDomains(original); len(domains) > 0 {
		return domains
	}
	for _, path := range upstreamFiles {
		if raw, err := os.ReadFile(path); err == nil {
			if domains := searchDomains(raw); len(domains) > 0 {
				return domains
			}
		}
	}
	return nil
}

// searchDomains returns the domains of a resolver file's last search or domain line: it is the one that counts.
func searchDomains(content []byte) []string {
	var domains []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && (fields[0] == "search" || fields[0] == "domain") {
			domains = fields[1:]
		}
	}
	return domains
}

// joinDomains returns the search domains of both lists, each once. It leaves out those that are only routed, and the root,
// which completes no name.
func joinDomains(first, second []string) []string {
	var out []string
	for _, d := range slices.Concat(first, second) {
		bare := strings.TrimSuffix(d, ".")
		known := slices.ContainsFunc(out, func(o string) bool { return strings.EqualFold(strings.TrimSuffix(o, "."), bare) })
		if bare != "" && !strings.HasPrefix(bare, "~") && !known {
			out = append(out, d)
		}
	}
	return out
}
