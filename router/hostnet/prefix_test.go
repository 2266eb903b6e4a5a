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
