package route

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct{ line, want string }{
		{"route 10.20.0.0 255.255.0.0", "10.20.0.0/16"},
		{"route 10.20.1.2 255.255.0.0", "10.20.0.0/16"},
		{"route 10.1.2.3", "10.1.2.3/32"},
		{"route 10.1.2.3 default default 7", "10.1.2.3/32 metric 7"},
		{"route 10.1.2.3 255.255.255.255 net_gateway", "10.1.2.3/32 outside"},
		{"route 10.1.0.0 255.255.0.0 vpn_gateway default", "10.1.0.0/16"},
		{"route 10.1.0.0 255.255.0.0 10.8.0.1", "10.1.0.0/16 by 10.8.0.1"},
		{"route 0.0.0.0 0.0.0.0", "0.0.0.0/0"},
		{"route", "no address"},
		{"route 10.20.0.0/16", `"10.20.0.0/16" is not an address`},
		{"route intranet.corp.example", "is not an address"},
		{"route 10.0.0.0 16", `"16" is not a mask`},
		{"route 10.0.0.0 255.0.255.0", "is not a mask"},
		{"route 10.0.0.0 255.0.0.0 gw", `gateway "gw" is not an address`},
		{"route 10.0.0.0 255.0.0.0 vpn_gateway -1", `metric "-1" is not a number`},
		{"route fd00::1", "fd00::1 is not IPv4"},
		{"route-ipv6 fd00::/8", "fd00::/8"},
		{"route-ipv6 fd00::1", "fd00::1/128"},
		{"route-ipv6 2001:db8::/32 net_gateway_ipv6 3", "2001:db8::/32 outside metric 3"},
		{"route-ipv6", "no prefix"},
		{"route-ipv6 10.0.0.0/8", "10.0.0.0/8 is not IPv6"},
		{"route-ipv6 10.0.0.1", "10.0.0.1/32 is not IPv6"},
		{"route-ipv6 fd00::/200", `"fd00::/200" is not a prefix`},
		{"route-ipv6 fe80::1%eth0", "is not a prefix"},
	} {
		words := strings.Fields(tt.line)
		parse := Parse
		if words[0] == "route-ipv6" {
			parse = Parse6
		}
		r, err := parse(words[1:])
		got := r.Prefix.String()
		if r.Outside {
			got += " outside"
		}
		if r.Gateway.IsValid() {
			got += " by " + r.Gateway.String()
		}
		if r.Metric != 0 {
			got += fmt.Sprint(" metric ", r.Metric)
		}
		switch {
		case err == nil && got != tt.want:
			t.Errorf("%s: got %s, want %s", tt.line, got, tt.want)
		case err != nil && !strings.Contains(err.Error(), tt.want):
			t.Errorf("%s: got %v, want %s", tt.line, err, tt.want)
		}
	}
}
