package hostnet

import (
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// sources are the networks that the host sends to from another address than masquerading would take: a route to them names its source
// ("src" in ip route), and masquerading does not ask the route.
type sources struct {
	next     time.Time // of the next look: reading a router's tables is expensive
	networks atomic.Pointer[[]netip.Prefix]
}

// update looks at the routes of all tables, unless it has just done so. On an error what was found before stays.
func (s *sources) update(v *view) error {
	start := time.Now()
	if start.Before(s.next) {
		return nil
	}
	if _, err := v.addrsOf(0); err != nil {
		return err
	}
	var found []netip.Prefix
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		all := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
		networks, err := rtnl.Dump(func() (list []netip.Prefix, err error) {
			err = v.nl.RouteListFilteredIter(family, all, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
				if r.Src != nil && r.Type == unix.RTN_UNICAST && !masqueradesAlike(r, family, v.addrs) {
					list = append(list, rtnl.Prefix(r.Dst, family))
				}
				return true
			})
			return list, err
		})
		if err != nil {
			return err
		}
		found = append(found, networks...)
	}
	s.networks.Store(&found)
	s.next = time.Now().Add(max(repairWithin, 50*time.Since(start)))
	return nil
}

// contains reports whether an address is in one of the networks, or all of a family's addresses are if it is unspecified.
func (s *sources) contains(a netip.Addr) bool {
	list := s.networks.Load()
	return list != nil && slices.ContainsFunc(*list, func(p netip.Prefix) bool { return p.Contains(a) && (!a.IsUnspecified() || p.Bits() == 0) })
}

// masqueradesAlike reports whether masquerading certainly takes the source that a route names. addrs are by the index of their interface.
func masqueradesAlike(r netlink.Route, family int, addrs map[int][]netlink.Addr) bool {
	hops := r.MultiPath
	if len(hops) == 0 {
		hops = []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	}
	to := rtnl.Prefix(r.Dst, family)
	for _, hop := range hops {
		var list []net.IP
		if family == unix.AF_INET {
			beyond := to
			if gw, ok := netip.AddrFromSlice(hop.Gw.To4()); ok {
				beyond = netip.PrefixFrom(gw, 32)
			}
			list = masquerades4(beyond, addrs[hop.LinkIndex])
		} else {
			list = masquerades6(addrs[hop.LinkIndex])
		}
		if len(list) == 0 || slices.ContainsFunc(list, func(ip net.IP) bool { return !ip.Equal(r.Src) }) {
			return false
		}
	}
	return true
}

// masquerades4 returns the addresses of an interface that masquerading may take for packets whose next hop is in a network: the first in
// whose network that is, or else the first of all (inet_select_addr, Linux 6.18). There is none if it would be another interface's.
func masquerades4(hop netip.Prefix, addrs []netlink.Addr) []net.IP {
	var list []net.IP
	var first net.IP
	for _, a := range addrs {
		if a.IPNet == nil || a.IP.To4() == nil || a.Flags&unix.IFA_F_SECONDARY != 0 || a.Scope > int(netlink.SCOPE_UNIVERSE) {
			continue
		}
		if first == nil {
			first = a.IP
		}
		network := rtnl.Prefix(a.IPNet, unix.AF_INET).Masked()
		if a.Peer != nil {
			network = rtnl.Prefix(a.Peer, unix.AF_INET).Masked()
		}
		if !network.Overlaps(hop) {
			continue
		}
		list = append(list, a.IP)
		if network.Bits() <= hop.Bits() {
			return list
		}
	}
	if first != nil {
		list = append(list, first)
	}
	return list
}

// masquerades6 returns the addresses of an interface that masquerading may take: it chooses among them by many rules (RFC 6724).
func masquerades6(addrs []netlink.Addr) []net.IP {
	var list []net.IP
	for _, a := range addrs {
		const unfit = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
		if a.IPNet != nil && a.IP.To4() == nil && a.Flags&unfit == 0 && a.Scope == int(netlink.SCOPE_UNIVERSE) {
			list = append(list, a.IP)
		}
	}
	return list
}
