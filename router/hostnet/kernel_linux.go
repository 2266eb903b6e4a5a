package hostnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
	"penstock/router/hostnet/resolver"
)

// kernel is the way to everything on the host that changes use.
type kernel struct {
	nl       *netlink.Handle
	strict   *netlink.Handle // lists the routes of one table without reading those of all
	resolved *resolver.Bus
	ways     ways
	before   func(what string) // for tests: called before each make and undo
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
	_ = strict.SetStrictCheck(true) // fails before Linux 4.20: then all routes are read and filtered here
	return &kernel{nl: nl, strict: strict, resolved: &resolver.Bus{}}, nil
}

func (k *kernel) close() {
	k.nl.Close()
	k.strict.Close()
	k.resolved.Close()
}

// view caches the kernel's lists during one pass, so that each is read once.
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
	list, err := rtnl.Dump(func() ([]netlink.Rule, error) { return v.nl.RuleList(family) })
	if errors.Is(err, unix.EAFNOSUPPORT) {
		list, err = nil, nil // as with ipv6.disable=1
	}
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
	list, err := rtnl.Dump(func() ([]netlink.Route, error) {
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
		list, err := rtnl.Dump(func() ([]netlink.Addr, error) { return v.nl.AddrList(nil, netlink.FAMILY_ALL) })
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
