package profile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// office is a wg-quick file without DNS and AllowedIPs.
const office = "[Interface]\r\nPrivateKey = 2Bo5n4y4CRcCcX2HMRSL1fBDMhgT1Z4x0AMkYmZ9DGA=\r\nAddress = 10.9.0.2/32\r\n%s[Peer]\r\n" +
	"PublicKey = QKLNDTphfWCUSf/SIXuO7CqhJDEhDFRw6cQ7RxUHPVo=\r\nEndpoint = vpn.example:51820\r\nAllowedIPs = %s\r\n"

// readOffice reads office with these lines in [Interface] and these networks.
func readOffice(t *testing.T, lines, networks string) Facts {
	t.Helper()
	facts, faults := ReadWireGuard(fmt.Appendf(nil, office, lines, networks), "office.conf")
	if len(faults) > 0 {
		t.Fatalf("%s: %v", networks, faults)
	}
	return facts
}

func TestLinesMayBeOfAnyLength(t *testing.T) {
	var networks []string
	for i := range 20_000 { // about 340 KiB on one line
		networks = append(networks, netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}).String()+"/24")
	}
	facts := readOffice(t, "DNS = 10.0.0.53, corp.example\r\n", strings.Join(networks, ", ")+"\r\nAllowedIPs = 192.0.2.0/24")
	if got := len(facts.Networks); got != len(networks)+1 {
		t.Errorf("got %d networks, want those of the long line and of the next, %d", got, len(networks)+1)
	}
	if got := fmt.Sprint(facts.DNS, facts.Domains); got != "[10.0.0.53] [corp.example]" {
		t.Errorf("got DNS %s", got)
	}
}

func TestFaultsOfAFileHaveItsLines(t *testing.T) {
	_, faults := ReadWireGuard(fmt.Appendf(nil, office, "MTU = big\r\n", ""), "office.conf")
	if len(faults) != 2 || faults[0].Pos.String() != "office.conf:4" || faults[1].Pos.String() != "office.conf:8" || faults[1].Mend == "" {
		t.Errorf("got %v, want one of line 4 and one of line 8", faults)
	}
}

func TestRead(t *testing.T) {
	for text, want := range map[string]string{
		"": "[]",
		"dhcp-option DNS 10.8.0.1\ndhcp-option DNS6 fd00::1\ndhcp-option DOMAIN corp.example\n;dhcp-option DNS 10.8.0.2\n": "[10.8.0.1 fd00::1]",
		"dhcp-option DNS 10.8.0.1 ; ours\nsetenv opt dhcp-option \"DNS\" '10.8.0.2' # too\n--dhcp-option DNS 10.8.0.3\n":   "[10.8.0.1 10.8.0.2 10.8.0.3]",
		"dhcp-option DNS 10.8.0.1\ndhcp-option DOMAIN-ROUTE corp.example\n":                                                "[]",
		"dhcp-option DNS 10.8.0.1\ndhcp-option DOMAIN-ROUTE corp.example\ndhcp-option DOMAIN-ROUTE .\n":                    "[10.8.0.1]",
		"DNS\ndhcp-option DNS\ndhcp-option DNS here\n\x00\xff = 1\n":                                                       "[]",
	} {
		if got := fmt.Sprint(Read([]byte(text)).DNS); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestReadFindsWhoDecidesAboutRoutes(t *testing.T) {
	for line, want := range map[string]string{
		"redirect-gateway def1": "true false false", "\"redirect-gateway\" def1 ; all": "true false false", "setenv opt redirect-gateway def1": "true false false",
		"--redirect-gateway": "true false false", "redirect-gateway ipv6 !ipv4": "false false false", "; redirect-gateway": "false false false",
		"route-nopull": "false true false", "setenv redirect-gateway x": "false false false", "redirect-private def1": "false false false",
		"pull-filter ignore \"redirect-gateway\"": "false false true", "pull-filter ignore redirect": "false false true", "pull-filter reject redirect-gateway": "false false false",
		"pull-filter ignore \"redirect-gateway ipv6\"": "false false false", "pull-filter ignore route": "false false false",
	} {
		if facts := Read([]byte(line + "\n")); fmt.Sprint(facts.Redirect, facts.NoPull, facts.Split) != want {
			t.Errorf("%q: got redirect, no pull and split %v %v %v, want %s", line, facts.Redirect, facts.NoPull, facts.Split, want)
		}
	}
}

func TestKindOf(t *testing.T) {
	for _, row := range []struct {
		name, text string
		want       Kind
	}{
		{"wg-quick", "# office\n\n[Interface]\nAddress = 10.9.0.2\n", WireGuard},
		{"wg-quick that lacks its first line", "PrivateKey=abc\n[Peer]\n", WireGuard},
		{"an OpenVPN profile", ";##\nclient\nremote vpn.example 1194\n", OpenVPN},
		{"an OpenVPN profile in an odd order", "unknown-word 1\n<ca>\n", OpenVPN},
		{"an OpenVPN profile in capitals of Windows", "\tREMOTE vpn.example\n", OpenVPN},
		{"a configuration", "version: 1\nprofile: hq.conf\n", Configuration},
		{"a letter", "Dear all,\nplease use the VPN.\n", Unknown},
		{"nothing", "", Unknown},
	} {
		if got := KindOf([]byte(row.text)); got != row.want {
			t.Errorf("%s: got %v, want %v", row.name, got, row.want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("dhcp-option DNS 10.8.0.1\n"))
	f.Add(fmt.Appendf(nil, office, "DNS = 10.0.0.53\n", "0.0.0.0/0"))
	f.Fuzz(func(t *testing.T, text []byte) {
		wg, faults := ReadWireGuard(text, "fuzz.conf")
		for _, fault := range faults {
			if fault.Pos.Line == 0 || fault.Message == "" {
				t.Errorf("a fault without a place or a reason: %+v", fault)
			}
		}
		for _, a := range append(wg.DNS, Read(text).DNS...) {
			if !a.IsValid() {
				t.Error("got a DNS server without an address")
			}
		}
		_ = KindOf(text).String()
	})
}
