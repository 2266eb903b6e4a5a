package setup

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// DefaultFile returns where the configuration of this machine belongs: for root where the service unit expects it.
func DefaultFile(root bool) (string, error) {
	if root {
		return unitConfig, nil
	}
	dir, err := os.UserConfigDir()
	return dir + "/penstock/config.yaml", err
}

// InstalledSchema returns where a package installs the schema; empty if none has.
func InstalledSchema() string {
	const path = "/usr/share/penstock/penstock.schema.json"
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return path
}

// OwnAddresses returns the addresses of this machine with their networks.
func OwnAddresses() []netip.Prefix {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var list []netip.Prefix
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			list = append(list, p)
		}
	}
	return list
}

// NameServers returns the DNS servers that this machine asks, from the files of the resolver. Those on the machine itself only pass
// questions on, so they are left out.
func NameServers(files ...string) []netip.Addr {
	var list []netip.Addr
	for _, file := range files {
		text, err := readLimited(file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "nameserver" {
				continue
			}
			addr, err := netip.ParseAddr(words[1])
			if err == nil && addr.Zone() == "" && !addr.IsLoopback() && !slices.Contains(list, addr) {
				list = append(list, addr)
			}
		}
	}
	return list[:min(len(list), 3)] // as many as a resolver asks
}
