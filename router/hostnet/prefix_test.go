package hostnet

import (
	"net/netip"
	"slices"
	"testing"
)

func prefixes(texts ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestConnected(t *testing.T) {
	all := []string{"0.0.0.0/0", "::/0"}
	for _, row := range []struct {
		name      string
		addresses []string
		capture   []string
		want      []string
	}{
		{"private networks are a LAN, each once", []string{"192.168.1.10/24", "192.168.1.11/24", "fd00:1::5/64", "fe80::1/64"}, all, []string{"192.168.1.0/24", "fd00:1::/64", "fe80::/64"}},
		{"a public range is not, whoever claims it", []string{"8.8.8.9/24", "2001:db8::5/64"}, all, nil},
		{"a range that is more than private is not", []string{"10.1.2.3/7", "192.168.0.1/1", "fc00::1/6"}, all, nil},
		{"a carrier's range is not", []string{"100.64.3.4/10"}, all, nil},
		{"an address alone is no network", []string{"10.9.9.9/32", "fd00::1/128"}, all, nil},
		{"a network over an intranet that is captured is not", []string{"10.0.0.7/8", "192.168.1.10/24"}, []string{"0.0.0.0/0", "10.20.0.0/16"}, []string{"192.168.1.0/24"}},
		{"a network within one is not", []string{"10.20.30.7/24"}, []string{"0.0.0.0/0", "10.20.0.0/16"}, nil},
	} {
		got := connected(prefixes(row.addresses...), prefixes(row.capture...))
		if want := prefixes(row.want...); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", row.name, got, want)
		}
	}
}

func TestReservedRanges(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.8.8.8": true, "::1": true, "::": true, "0.0.0.0": true, "0.1.2.3": true,
		"169.254.169.254": true, "169.254.1.1": true, "fe80::1": true, "fe80::1%eth0": true, "224.0.0.251": true, "ff02::fb": true,
		"255.255.255.255": true, "100.100.100.200": true, "168.63.129.16": true, "192.0.0.192": true, "fd00:ec2::254": true, "fd20:ce::254": true,
		"::ffff:127.0.0.1": true, "::ffff:169.254.169.254": true, "64:ff9b::a9fe:a9fe": true, "64:ff9b::7f00:1": true, "2002:7f00:1::": true, "::7f00:1": true,
		"8.8.8.8": false, "10.0.0.1": false, "100.100.100.201": false, "2001:db8::1": false, "fd00::1": false, "64:ff9b::808:808": false, "2002:808:808::1": false,
	} {
		if got := inReservedRange(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: got %v, want %v", addr, got, want)
		}
	}
	if !inReservedRange(netip.Addr{}) {
		t.Error("no address at all: got false, want true")
	}
}
