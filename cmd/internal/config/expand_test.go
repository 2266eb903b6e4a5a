package config

import (
	"net/netip"
	"strings"
	"testing"
)

func TestReadProfileReadsLinesOfAnyLength(t *testing.T) {
	var networks []string
	for i := range 20_000 { // about 340 KiB on one line
		networks = append(networks, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}).String()+"/24")
	}
	profile := "[Peer]\r\nAllowedIPs = " + strings.Join(networks, ", ") + "\r\nAllowedIPs = 192.0.2.0/24\r\nDNS = 10.0.0.53, corp.example\r\n"
	facts := readProfile([]byte(profile))
	if got := len(facts.allowed); got != len(networks)+1 {
		t.Errorf("got %d networks, want those of the long line and of the next, %d", got, len(networks)+1)
	}
	if len(facts.dns) != 1 || facts.dns[0] != netip.MustParseAddr("10.0.0.53") {
		t.Errorf("got DNS %v, want 10.0.0.53 of the line after the long one", facts.dns)
	}
}
