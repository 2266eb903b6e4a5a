package hostnet

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
	"penstock/router/hostnet/resolver"
)

// ChooseAddresses returns an IPv4 and an IPv6 address with their networks for our TUN that nothing on this host uses: no
// connected network, no gateway, no DNS server and, as far as there is a choice, no route and nothing of c.Avoid. It
// changes nothing.
func ChooseAddresses(c Choice) ([]netip.Prefix, error) {
	c.Table = cmp.Or(c.Table, DefaultTable)
	c.ResolvConf = cmp.Or(c.ResolvConf, DefaultResolvConf)
	k, err := newKernel()
	if err != nil {
		return nil, err
	}
	defer k.close()
	u, err := inUse(newView(k), c)
	if err != nil {
		return nil, fmt.Errorf("hostnet: find a network for the TUN: %w", err)
	}
	if !c.Forward {
		return choose(c.Kept, u), nil
	}
	list := []netip.Prefix{chooseFrom(pairs(true), c.Kept, u), chooseFrom(pairs(false), c.Kept, u)}
	if i := slices.IndexFunc(list, func(p netip.Prefix) bool { return slices.ContainsFunc(u.taken, p.Overlaps) }); i >= 0 {
		return nil, fmt.Errorf("hostnet: the host is connected to all networks like %s that a TUN could have", list[i].Masked())
	}
	return list, nil
}

// inUse returns the networks that the host uses apart from our TUN.
func inUse(v *view, c Choice) (used, error) {
	var u used
	tun := 0
	if link, err := v.nl.LinkByName(c.Interface); err == nil {
		tun = link.Attrs().Index
	}
	if _, err := v.addrsOf(0); err != nil {
		return u, err
	}
	for index, list := range v.addrs {
		if index == tun {
			continue
		}
		for _, a := range list {
			u.taken = appendNet(u.taken, a.IPNet)
			u.taken = appendNet(u.taken, a.Peer)
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := v.routesOf(family, unix.RT_TABLE_UNSPEC)
		if err != nil {
			return u, err
		}
		for _, r := range routes {
			if r.LinkIndex == tun && tun != 0 || r.Table == c.Table || r.Type != unix.RTN_UNICAST {
				continue
			}
			for _, gateway := range gateways(r) {
				u.taken = append(u.taken, netip.PrefixFrom(gateway, gateway.BitLen()))
			}
			if to := rtnl.Prefix(r.Dst, family).Masked(); !isWide(to) {
				u.routed = append(u.routed, to)
			}
		}
	}
	for _, server := range resolver.Named(c.ResolvConf) {
		u.taken = append(u.taken, netip.PrefixFrom(server.WithZone(""), server.BitLen()))
	}
	for _, p := range c.Avoid {
		if !isWide(p) {
			u.routed = append(u.routed, p.Masked())
		}
	}
	return u, nil
}

// appendNet appends a network, unless it is nil or belongs to a single link.
func appendNet(list []netip.Prefix, n *net.IPNet) []netip.Prefix {
	if n == nil {
		return list
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	p := rtnl.Prefix(n, rtnl.Family(ip.Unmap())).Masked()
	if !p.IsValid() || p.Addr().IsLinkLocalUnicast() {
		return list
	}
	return append(list, p)
}

// gateways returns the next hops of a route.
func gateways(r netlink.Route) []netip.Addr {
	var list []netip.Addr
	add := func(ip net.IP) {
		if a, ok := netip.AddrFromSlice(ip); ok {
			list = append(list, a.Unmap())
		}
	}
	add(r.Gw)
	for _, hop := range r.MultiPath {
		add(hop.Gw)
	}
	return list
}
