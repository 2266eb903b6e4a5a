package push

import (
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
)

func readAddress(args []string) (netip.Addr, error) {
	if len(args) == 0 {
		return netip.Addr{}, errors.New("no address")
	}
	return netip.ParseAddr(args[0])
}

func readIfconfig6(o *Options, args []string) error {
	if len(args) == 0 {
		return errors.New("no address")
	}
	prefix, err := netip.ParsePrefix(args[0])
	if err != nil {
		return err
	}
	if !prefix.Addr().Is6() {
		return fmt.Errorf("%s is not IPv6", prefix)
	}
	o.Addrs = append(o.Addrs, prefix)
	if len(args) > 1 {
		o.Gateway6, err = netip.ParseAddr(args[1])
	}
	return err
}

// finishAddress reads ifconfig, whose second word is a mask or a peer, as topology says. Old servers push
// no topology: there, a second word that looks like a mask is one.
func (o *Options) finishAddress() {
	if len(o.ifconfig) == 0 {
		return
	}
	addr, err := netip.ParseAddr(o.ifconfig[0])
	if err != nil || !addr.Is4() || len(o.ifconfig) < 2 {
		o.Problems = append(o.Problems, fmt.Errorf("ifconfig: want an IPv4 address, and a mask or a peer"))
		return
	}
	if n, ok := maskBits(o.ifconfig[1]); ok && (o.topology == "subnet" || n >= 8) {
		o.Addrs = append([]netip.Prefix{netip.PrefixFrom(addr, n)}, o.Addrs...)
		return
	}
	peer, err := netip.ParseAddr(o.ifconfig[1])
	if err != nil {
		o.Problems = append(o.Problems, fmt.Errorf("ifconfig: %w", err))
		return
	}
	o.Addrs = append([]netip.Prefix{netip.PrefixFrom(addr, 32)}, o.Addrs...)
	if !o.Gateway4.IsValid() {
		o.Gateway4 = peer
	}
}

// maskBits turns a mask such as 255.255.0.0 into 16.
func maskBits(s string) (int, bool) {
	mask, err := netip.ParseAddr(s)
	if err != nil || !mask.Is4() {
		return 0, false
	}
	b := mask.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	n := bits.LeadingZeros32(^v)
	return n, n == 32 || v<<n == 0
}

func readRoute(o *Options, args []string) error {
	addr, err := readAddress(args)
	if err != nil {
		return err
	}
	if !addr.Is4() {
		return fmt.Errorf("%s is not IPv4", addr)
	}
	n := 32
	if len(args) > 1 && args[1] != "default" {
		var ok bool
		if n, ok = maskBits(args[1]); !ok {
			return fmt.Errorf("%q is not a mask", args[1])
		}
	}
	return o.addRoute(netip.PrefixFrom(addr, n), args[min(2, len(args)):])
}

func readRoute6(o *Options, args []string) error {
	if len(args) == 0 {
		return errors.New("no prefix")
	}
	prefix, err := netip.ParsePrefix(args[0])
	if addr, bad := netip.ParseAddr(args[0]); bad == nil { // a host
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil {
		return err
	}
	if !prefix.Addr().Is6() {
		return fmt.Errorf("%s is not IPv6", prefix)
	}
	return o.addRoute(prefix, args[1:])
}

// addRoute takes the words after the prefix: a gateway and a metric, both optional.
func (o *Options) addRoute(prefix netip.Prefix, args []string) error {
	r := Route{Prefix: prefix.Masked()}
	if len(args) > 0 {
		switch args[0] {
		case "vpn_gateway", "default":
		case "net_gateway", "net_gateway_ipv6":
			r.Outside = true
		default:
			gateway, err := netip.ParseAddr(args[0])
			if err != nil {
				return err
			}
			r.Gateway = gateway
		}
	}
	if len(args) > 1 && args[1] != "default" {
		metric, err := strconv.ParseUint(args[1], 10, 31)
		if err != nil {
			return fmt.Errorf("metric %q is not a number", args[1])
		}
		r.Metric = int(metric)
	}
	o.Routes = append(o.Routes, r)
	return nil
}

// readRedirect adds up with a line of before: the profile and the server may have one each.
func readRedirect(o *Options, flags []string) error {
	o.Redirect4 = o.Redirect4 || !slices.Contains(flags, "!ipv4")
	o.Redirect6 = o.Redirect6 || slices.Contains(flags, "ipv6")
	return nil
}
