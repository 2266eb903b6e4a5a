// Package route reads the route and route-ipv6 lines of profiles and servers.
//
// It resolves no names, and sets no route.
package route

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
)

// Route is a destination and how it is reached.
type Route struct {
	Prefix  netip.Prefix
	Gateway netip.Addr // invalid: that of the tunnel
	Outside bool       // reached outside of the tunnel (net_gateway)
	Metric  int        // 0: the default
}

// Parse reads the words behind "route": an address, and a mask, a gateway and a metric, which are optional.
func Parse(words []string) (Route, error) {
	if len(words) == 0 {
		return Route{}, errors.New("no address")
	}
	addr, err := netip.ParseAddr(words[0])
	switch {
	case err != nil:
		return Route{}, fmt.Errorf("%q is not an address", words[0])
	case !addr.Is4():
		return Route{}, fmt.Errorf("%s is not IPv4", addr)
	}
	n := 32
	if len(words) > 1 && words[1] != "default" {
		var ok bool
		if n, ok = MaskBits(words[1]); !ok {
			return Route{}, fmt.Errorf("%q is not a mask", words[1])
		}
	}
	return parse(netip.PrefixFrom(addr, n), words[min(2, len(words)):])
}

// Parse6 reads the words behind "route-ipv6": a prefix or an address, and a gateway and a metric, which are optional.
func Parse6(words []string) (Route, error) {
	if len(words) == 0 {
		return Route{}, errors.New("no prefix")
	}
	prefix, err := netip.ParsePrefix(words[0])
	if addr, bad := netip.ParseAddr(words[0]); bad == nil && addr.Zone() == "" { // a host
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	switch {
	case err != nil:
		return Route{}, fmt.Errorf("%q is not a prefix", words[0])
	case !prefix.Addr().Is6():
		return Route{}, fmt.Errorf("%s is not IPv6", prefix)
	}
	return parse(prefix, words[1:])
}

// parse reads the words behind the prefix.
func parse(prefix netip.Prefix, words []string) (Route, error) {
	r := Route{Prefix: prefix.Masked()}
	if len(words) > 0 {
		switch words[0] {
		case "vpn_gateway", "default":
		case "net_gateway", "net_gateway_ipv6":
			r.Outside = true
		default:
			gateway, err := netip.ParseAddr(words[0])
			if err != nil {
				return Route{}, fmt.Errorf("gateway %q is not an address, vpn_gateway or net_gateway", words[0])
			}
			r.Gateway = gateway
		}
	}
	if len(words) > 1 && words[1] != "default" {
		metric, err := strconv.ParseUint(words[1], 10, 31)
		if err != nil {
			return Route{}, fmt.Errorf("metric %q is not a number", words[1])
		}
		r.Metric = int(metric)
	}
	return r, nil
}

// MaskBits turns a mask such as 255.255.0.0 into 16.
func MaskBits(s string) (int, bool) {
	mask, err := netip.ParseAddr(s)
	if err != nil || !mask.Is4() {
		return 0, false
	}
	b := mask.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := bits.LeadingZeros32(^v)
	return n, n == 32 || v<<n == 0
}
