package egress

import (
	"fmt"
	"net/netip"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/router/transport/openvpn"
	"penstock/router/transport/openvpn/profile"
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
		{"all of IPv4 in halves", openvpn.Settings{Routes: []openvpn.Route{{Prefix: prefix("0.0.0.0/1")}, {Prefix: prefix("128.0.0.0/1")}}}, "[0.0.0.0/1 128.0.0.0/1 0.0.0.0/0 ::/0] []"},
		{"all of IPv4 in parts that overlap", openvpn.Settings{Routes: []openvpn.Route{
			{Prefix: prefix("128.0.0.0/1")}, {Prefix: prefix("64.0.0.0/2")}, {Prefix: prefix("10.0.0.0/8")}, {Prefix: prefix("0.0.0.0/2")}, {Prefix: prefix("96.0.0.0/3")},
		}}, "[128.0.0.0/1 64.0.0.0/2 10.0.0.0/8 0.0.0.0/2 96.0.0.0/3 0.0.0.0/0 ::/0] []"},
		{"parts with a hole", openvpn.Settings{Routes: []openvpn.Route{{Prefix: prefix("0.0.0.0/2")}, {Prefix: prefix("128.0.0.0/1")}}}, "[0.0.0.0/2 128.0.0.0/1] []"},
		{"half of IPv4", openvpn.Settings{Routes: []openvpn.Route{{Prefix: prefix("0.0.0.0/1")}}}, "[0.0.0.0/1] []"},
		{"a default route", openvpn.Settings{Routes: []openvpn.Route{{Prefix: prefix("0.0.0.0/0")}}}, "[0.0.0.0/0 ::/0] []"},
		{"a peer instead of a network", openvpn.Settings{Addrs: []netip.Prefix{prefix("10.8.0.6/32")}, Gateway4: netip.MustParseAddr("10.8.0.5")}, "[10.8.0.5/32 10.8.0.6/32] []"},
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

func TestWhatAFileRoutesByItself(t *testing.T) {
	for _, row := range []struct {
		sentence string
		profile  profile.Profile
		want     string
	}{
		{"nothing: the server decides", profile.Profile{}, "unknown"},
		{"own routes: the server may add some", profile.Profile{Options: []string{"route 10.20.0.0 255.255.0.0"}}, "unknown"},
		{"own routes and route-nopull", profile.Profile{Options: []string{"route 10.20.0.0 255.255.0.0"}, NoRoutes: true}, "[10.20.0.0/16] []"},
		{"redirect-gateway", profile.Profile{Options: []string{"redirect-gateway def1"}}, "[0.0.0.0/0 ::/0] []"},
	} {
		one := planned{name: "legacy", config: config.Transport{OpenVPN: &config.OpenVPN{}}, openvpn: &row.profile}
		o, err := newOpenVPN(one, &Config{Renamed: func() {}})
		if err != nil {
			t.Fatal(err)
		}
		got := "unknown"
		if r := o.facts().routes; r != nil {
			got = fmt.Sprint(r.Inside, " ", r.Outside)
		}
		if got != row.want {
			t.Errorf("%s: got %s, want %s", row.sentence, got, row.want)
		}
		if err := o.inside().Close(); err != nil {
			t.Error(err)
		}
	}
}
