package config

import (
	"net/netip"
	"slices"
	"testing"
)

func TestAddressesNeedNoQuotes(t *testing.T) {
	rows := []struct{ name, address string }{
		{"in a list in braces", "[10.77.0.1/24, fd77::1/64]"},
		{"alone in a list in braces", "[fd77::1/64]"},
		{"with more groups", "[2001:db8:1::1/64, fe80::1/64]"},
		{"as the only value", "fd77::1/64"},
		{"with quotes", `["fd77::1/64"]`},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			c, err := Parse("x.yaml", []byte("listen: {tun: {name: pen0, address: "+row.address+"}}\nrules: [{name: rest, do: direct}]\n"))
			if err != nil {
				t.Fatal(err)
			}
			want := []netip.Prefix{netip.MustParsePrefix("fd77::1/64")}
			switch row.address {
			case rows[0].address:
				want = []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), want[0]}
			case rows[2].address:
				want = []netip.Prefix{netip.MustParsePrefix("2001:db8:1::1/64"), netip.MustParsePrefix("fe80::1/64")}
			}
			if !slices.Equal(c.Listen.TUN.Address, want) {
				t.Errorf("got %v, want %v", c.Listen.TUN.Address, want)
			}
		})
	}
}
