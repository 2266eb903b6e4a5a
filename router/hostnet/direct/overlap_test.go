package direct

import (
	"net/netip"
	"testing"
)

func TestFindOverlap(t *testing.T) {
	prefixes := func(texts ...string) (out []netip.Prefix) {
		for _, s := range texts {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	own := prefixes("10.77.0.1/24", "fd77::1/64")
	tests := []struct {
		name            string
		networks, taken []netip.Prefix
		want            string // the error; "" is none
	}{
		{"another network is no overlap", prefixes("192.168.1.10/24", "10.78.0.5/24"), nil, ""},
		{"the same network", prefixes("10.77.0.50/24"), nil,
			"the TUN's network 10.77.0.0/24 overlaps 10.77.0.0/24, which wlan0 is connected to: set listen.tun.address to a network that is free, for example 10.78.0.1/24"},
		{"a larger network around it, and the proposal stays out of both", prefixes("10.64.0.9/10"), prefixes("10.64.0.9/10"),
			"the TUN's network 10.77.0.0/24 overlaps 10.64.0.0/10, which wlan0 is connected to: set listen.tun.address to a network that is free, for example 10.128.0.1/24"},
		{"a single address within it", prefixes("10.77.0.9/32"), prefixes("10.77.0.9/32", "10.78.0.1/16"),
			"the TUN's network 10.77.0.0/24 overlaps 10.77.0.9/32, which wlan0 is connected to: set listen.tun.address to a network that is free, for example 10.79.0.1/24"},
		{"IPv6", prefixes("fd77::5/64"), nil,
			"the TUN's network fd77::/64 overlaps fd77::/64, which wlan0 is connected to: set listen.tun.address to a network that is free, for example fd78::1/64"},
		{"nothing is free where everything is taken", prefixes("10.77.0.50/24"), prefixes("10.0.0.0/8"),
			"the TUN's network 10.77.0.0/24 overlaps 10.77.0.0/24, which wlan0 is connected to: set listen.tun.address to a network that is free"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if e := FindOverlap(own, "wlan0", tt.networks, tt.taken); e != nil {
				got = e.Error()
			}
			if got != tt.want {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
	if e := FindOverlap(prefixes("fe80::1/64"), "wlan0", prefixes("fe80::5/64"), nil); e != nil {
		t.Errorf("networks of two links: got %v, want no overlap", e)
	}
}
