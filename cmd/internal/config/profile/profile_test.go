package profile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

func TestLinesMayBeOfAnyLength(t *testing.T) {
	var networks []string
	for i := range 20_000 { // about 340 KiB on one line
		networks = append(networks, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}).String()+"/24")
	}
	profile := "[Peer]\r\nAllowedIPs = " + strings.Join(networks, ", ") + "\r\nAllowedIPs = 192.0.2.0/24\r\nDNS = 10.0.0.53, corp.example\r\n"
	facts := Read([]byte(profile))
	if got := len(facts.Networks); got != len(networks)+1 {
		t.Errorf("got %d networks, want those of the long line and of the next, %d", got, len(networks)+1)
	}
	if len(facts.DNS) != 1 || facts.DNS[0] != netip.MustParseAddr("10.0.0.53") {
		t.Errorf("got DNS %v, want 10.0.0.53 of the line after the long one", facts.DNS)
	}
}

func TestRead(t *testing.T) {
	for _, row := range []struct{ name, text, dns, networks string }{
		{"nothing", "", "[]", "[]"},
		{"wg-quick, in any case and spacing", "dns=10.0.0.53,fd00::53\nALLOWEDIPS =10.0.0.0/8 , fd00::/8\n", "[10.0.0.53 fd00::53]", "[10.0.0.0/8 fd00::/8]"},
		{"several lines add up", "DNS = 10.0.0.53\nDNS = 10.0.0.54\nAllowedIPs = 10.0.0.0/8\nAllowedIPs = 192.0.2.7\n", "[10.0.0.53 10.0.0.54]", "[10.0.0.0/8 192.0.2.7/32]"},
		{"search domains are not servers", "DNS = corp.example, 10.0.0.53\n", "[10.0.0.53]", "[]"},
		{"comments", "# DNS = 10.0.0.53\nDNS = 10.0.0.54 # DNS = 10.0.0.55\n", "[10.0.0.54]", "[]"},
		{"OpenVPN", "dhcp-option DNS 10.8.0.1\ndhcp-option DNS6 fd00::1\ndhcp-option DOMAIN corp.example\n;dhcp-option DNS 10.8.0.2\n", "[10.8.0.1 fd00::1]", "[]"},
		{"what is neither", "DNS\nAllowedIPs = all\ndhcp-option DNS\ndhcp-option DNS here\n\x00\xff = 1\n", "[]", "[]"},
		{"a key that only ends like one", "SearchDNS = 10.0.0.53\n", "[]", "[]"},
	} {
		t.Run(row.name, func(t *testing.T) {
			facts := Read([]byte(row.text))
			if got := fmt.Sprint(facts.DNS); got != row.dns {
				t.Errorf("DNS: got %s, want %s", got, row.dns)
			}
			if got := fmt.Sprint(facts.Networks); got != row.networks {
				t.Errorf("networks: got %s, want %s", got, row.networks)
			}
		})
	}
}

func TestEverything(t *testing.T) {
	for networks, want := range map[string]bool{
		"": false, "0.0.0.0/0": true, "::/0": true, "10.0.0.0/8, ::/0": true,
		"0.0.0.0/1, 128.0.0.0/1": true, "128.0.0.0/1, 10.0.0.0/8, 0.0.0.0/1": true, "::/1, 8000::/1": true,
		"0.0.0.0/1": false, "0.0.0.0/1, 8000::/1": false, "0.0.0.0/2, 64.0.0.0/2, 128.0.0.0/1": false,
		"10.9.9.9/1, 200.9.9.9/1": true, // wg-quick masks what it is given
	} {
		if got := Read([]byte("AllowedIPs = " + networks)).Everything(); got != want {
			t.Errorf("%q: got %v, want %v", networks, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("DNS = 10.0.0.53\nAllowedIPs = 0.0.0.0/0\ndhcp-option DNS 10.8.0.1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		facts := Read(text)
		for _, a := range facts.DNS {
			if !a.IsValid() {
				t.Error("got a DNS server without an address")
			}
		}
		for _, p := range facts.Networks {
			if !p.IsValid() {
				t.Error("got a network without an address")
			}
		}
	})
}
