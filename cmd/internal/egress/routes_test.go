package egress

import (
	"fmt"
	"net/netip"
	"testing"

	"penstock/router/transport/openvpn"
)

func TestOpenVPNRoutes(t *testing.T) {
	prefix := netip.MustParsePrefix
	addr4, addr6 := prefix("10.98.0.2/24"), prefix("fd98::2/64")
	corp := openvpn.Route{Prefix: prefix("10.20.0.0/16")}
	for _, row := range []struct {
		sentence string
		settings openvpn.Settings
		want     string
	}{
		{"a server that routes nothing is for its own network", openvpn.Settings{Addrs: []netip.Prefix{addr4}}, "[10.98.0.0/24] []"},
		{"routes", openvpn.Settings{Addrs: []netip.Prefix{addr4}, Routes: []openvpn.Route{corp}}, "[10.98.0.0/24 10.20.0.0/16] []"},
		{"all of IPv4, and no IPv6: IPv6 must not bypass the tunnel", openvpn.Settings{Addrs: []netip.Prefix{addr4}, Redirect4: true}, "[10.98.0.0/24 0.0.0.0/0 ::/0] []"},
		{"all of IPv4, and some IPv6", openvpn.Settings{Addrs: []netip.Prefix{addr4, addr6}, Redirect4: true}, "[10.98.0.0/24 fd98::/64 0.0.0.0/0] []"},
		{"all of both", openvpn.Settings{Addrs: []netip.Prefix{addr4, addr6}, Redirect4: true, Redirect6: true}, "[10.98.0.0/24 fd98::/64 0.0.0.0/0 ::/0] []"},
		{"block-ipv6", openvpn.Settings{Addrs: []netip.Prefix{addr4}, BlockIPv6: true}, "[10.98.0.0/24 ::/0] []"},
		{"an exception", openvpn.Settings{Redirect4: true, Routes: []openvpn.Route{{Prefix: prefix("203.0.113.0/24"), Outside: true}}}, "[0.0.0.0/0 ::/0] [203.0.113.0/24]"},
	} {
		r := openvpnRoutes(row.settings)
		if got := fmt.Sprint(r.Inside, " ", r.Outside); got != row.want {
			t.Errorf("%s: got %s, want %s", row.sentence, got, row.want)
		}
	}
}
