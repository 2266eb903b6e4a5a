package hostnet

import (
	"net/netip"
	"os"
	"slices"
	"strings"
)

// upstreamFiles are where those who put a stub into resolv.conf write the servers behind it.
var upstreamFiles = [...]string{
	"/run/systemd/resolve/resolv.conf",
	"/run/NetworkManager/no-stub-resolv.conf",
}

// originalResolvers returns the servers of the resolver file that was there before us. A server on
// this machine is a stub: the servers behind it are returned instead, as far as they can be found.
// Servers in ours are left out: behind a stub they are listed beside the others.
func originalResolvers(k *kernel, original []byte, tunIndex int, ours []netip.Addr) []netip.Addr {
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
		servers = append(servers, behindStub(k, tunIndex)...)
	}
	var out []netip.Addr
	for _, a := range servers {
		if !a.IsLoopback() && !slices.Contains(ours, a) && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

func behindStub(k *kernel, tunIndex int) []netip.Addr {
	if k.resolved.available() {
		if servers, err := k.resolved.upstreams(tunIndex); err == nil && len(servers) > 0 {
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
