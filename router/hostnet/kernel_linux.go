package hostnet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernel is the host as changes reach it.
type kernel struct {
	nl       *netlink.Handle
	strict   *netlink.Handle // lists the routes of one table without reading those of all
	resolved *resolvedBus
	before   func(what string) // tests: called before each make and undo
}

func newKernel() (*kernel, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("hostnet: open netlink: %w", err)
	}
	strict, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		nl.Close()
		return nil, fmt.Errorf("hostnet: open netlink: %w", err)
	}
	_ = strict.SetStrictCheck(true) // before Linux 4.20 all routes are read, and filtered here
	return &kernel{nl: nl, strict: strict, resolved: &resolvedBus{}}, nil
}

func (k *kernel) close() {
	k.nl.Close()
	k.strict.Close()
	k.resolved.close()
}

// view is what the kernel says during one pass: each list is asked for once.
type view struct {
	*kernel
	rules  map[int][]netlink.Rule
	routes map[routeList][]netlink.Route
	addrs  map[int][]netlink.Addr // by link index
}

type routeList struct{ family, table int }

func newView(k *kernel) *view {
	return &view{
		kernel: k,
		rules:  make(map[int][]netlink.Rule),
		routes: make(map[routeList][]netlink.Route),
	}
}

func (v *view) rulesOf(family int) ([]netlink.Rule, error) {
	if list, ok := v.rules[family]; ok {
		return list, nil
	}
	list, err := dump(func() ([]netlink.Rule, error) { return v.nl.RuleList(family) })
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	v.rules[family] = list
	return list, nil
}

func (v *view) routesOf(family, table int) ([]netlink.Route, error) {
	which := routeList{family, table}
	if list, ok := v.routes[which]; ok {
		return list, nil
	}
	list, err := dump(func() ([]netlink.Route, error) {
		return v.strict.RouteListFiltered(family, &netlink.Route{Table: table}, netlink.RT_FILTER_TABLE)
	})
	if errors.Is(err, unix.ENOENT) {
		list, err = nil, nil // the table exists while it has routes
	}
	if err != nil {
		return nil, fmt.Errorf("list routes of table %d: %w", table, err)
	}
	v.routes[which] = list
	return list, nil
}

func (v *view) addrsOf(index int) ([]netlink.Addr, error) {
	if v.addrs == nil {
		list, err := dump(func() ([]netlink.Addr, error) { return v.nl.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, fmt.Errorf("list addresses: %w", err)
		}
		v.addrs = make(map[int][]netlink.Addr)
		for _, a := range list {
			v.addrs[a.LinkIndex] = append(v.addrs[a.LinkIndex], a)
		}
	}
	return v.addrs[index], nil
}

// maxUplinks bounds the rules that are made for interfaces: a host with more of them has made most for containers.
const maxUplinks = 32

// uplinks are the interfaces other than tun by which the host itself may leave: neither loopback nor part of a bridge.
func (v *view) uplinks(tun string) ([]string, error) {
	list, err := dump(v.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var names []string
	for _, l := range list {
		a := l.Attrs()
		if a.Name != tun && a.Flags&net.FlagLoopback == 0 && a.MasterIndex == 0 && len(names) < maxUplinks {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// dump asks again, a few times, when the list changed while it was read.
func dump[T any](list func() ([]T, error)) (got []T, err error) {
	for range 5 {
		if got, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return got, err
		}
	}
	return nil, err
}

func familyOf(p netip.Addr) int {
	if p.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// prefixOf is the inverse of ipNet. nil is the default route of the family.
func prefixOf(n *net.IPNet, family int) netip.Prefix {
	if n == nil {
		if family == unix.AF_INET {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	if family == unix.AF_INET {
		ip = ip.Unmap()
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip, ones)
}
