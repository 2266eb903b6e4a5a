package push

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"penstock/router/transport/openvpn/internal/route"
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
	if n, ok := route.MaskBits(o.ifconfig[1]); ok && (o.topology == "subnet" || n >= 8) {
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

// ErrRoute says that a route cannot be followed: what it names goes where other addresses go.
var ErrRoute = errors.New("cannot be followed")

// addRoute takes a route that was read with err.
func (o *Options) addRoute(r route.Route, err error) error {
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRoute, err)
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
