package peerbook

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
)

func prefixes(text string) (list []netip.Prefix) {
	for _, p := range strings.Fields(text) {
		list = append(list, netip.MustParsePrefix(p))
	}
	return list
}

func TestFreeAddresses(t *testing.T) {
	for _, row := range []struct{ name, gateway, peers, former, want string }{
		{"the lowest of each network", "10.78.0.1/24 fd78::1/64", "", "", "[10.78.0.2/32 fd78::2/128]"},
		{"beside others", "10.78.0.1/24", "10.78.0.2/32 10.78.0.4/32", "10.78.0.3/32", "[10.78.0.5/32]"},
		{"behind the networks of others", "10.78.0.1/24", "10.78.0.2/31 10.78.0.4/30", "10.78.0.8/29", "[10.78.0.16/32]"},
		{"behind one that nobody could count", "fd78:0:0:0:ffff::1/64", "fd78::/65", "", "[fd78::8000:0:0:0/128]"},
		{"none in a full network", "10.78.0.1/30", "10.78.0.2/32", "", "no address of 10.78.0.0/30 is free"},
		{"none beside a network to its end", "10.78.0.1/29", "10.78.0.4/30 10.78.0.2/31", "", "no address of 10.78.0.0/29 is free"},
	} {
		c := &config.Config{}
		c.Listen.WireGuard = &config.WireGuardListen{Address: prefixes(row.gateway)}
		for _, p := range prefixes(row.peers) {
			c.Peers.Append(config.Peer{AllowedIPs: []netip.Prefix{p}})
		}
		var former []FormerAddress
		for _, p := range prefixes(row.former) {
			former = append(former, FormerAddress{Address: p})
		}
		free, err := FreeAddresses(c, former)
		got := fmt.Sprint(free)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, row.want) {
			t.Errorf("%s: got %s, want %s", row.name, got, row.want)
		}
	}
}
