package pathmon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplinks returns the interfaces by which the main table has an IPv4 default route, best first, except ignore, our own TUN.
func Uplinks(ignore string) ([]string, error) {
	routes, err := netlink.RouteListFiltered(unix.AF_INET, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, fmt.Errorf("pathmon: list routes: %w", err)
	}
	slices.SortStableFunc(routes, func(a, b netlink.Route) int { return a.Priority - b.Priority })
	var names []string
	for _, r := range routes {
		if r.Dst != nil { // nil is the default route in some versions of the library
			if bits, _ := r.Dst.Mask.Size(); bits > 0 {
				continue
			}
		}
		hops := r.MultiPath
		if len(hops) == 0 {
			hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex}}
		}
		for _, hop := range hops {
			link, err := netlink.LinkByIndex(hop.LinkIndex)
			if err == nil && link.Attrs().Name != ignore && !slices.Contains(names, link.Attrs().Name) {
				names = append(names, link.Attrs().Name)
			}
		}
	}
	return names, nil
}

// OnLink reports whether addr lies in a network that the interface is directly connected to, that is, in the network of
// one of its addresses. Routes do not count, because a DHCP server can hand out any (option 121). A network that claims
// more than it needs, such as all of 10.0.0.0/8, is believed: whether addr belongs inside is for the caller to check.
func OnLink(ifname string, addr netip.Addr) (bool, error) {
	iface, err := net.InterfaceByName(ifname)
	if err != nil {
		return false, fmt.Errorf("pathmon: interface %s: %w", ifname, err)
	}
	addrs, err := netlink.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: iface.Index}}, netlink.FAMILY_ALL)
	if err != nil {
		return false, fmt.Errorf("pathmon: addresses of %s: %w", ifname, err)
	}
	ip := net.IP(addr.Unmap().WithZone("").AsSlice())
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		// Peer is the other end of a point-to-point link, which our own address's network need not contain.
		return a.IPNet != nil && a.IPNet.Contains(ip) || a.Peer != nil && a.Peer.Contains(ip)
	}), nil
}
