package hostnet

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// maxUplinks bounds the rules and parameters that are made for interfaces: a host with more of them made most for containers.
const maxUplinks = 32

// uplinks are the interfaces by which the host itself may send: neither our TUN nor loopback nor part of a bridge.
type uplinks struct {
	names   map[int]string // of all interfaces, by index
	bridges []string       // sorted; other interfaces are parts of them
	list    []string       // sorted
	cut     []string       // those that are too many for the list, as far as the host sends anything there
}

// links returns the interfaces of the host.
func (v *view) links() ([]netlink.Link, error) {
	list, err := rtnl.Dump(v.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	return list, nil
}

// names returns the names of all interfaces, by index.
func (v *view) names() (map[int]string, error) {
	list, err := v.links()
	names := make(map[int]string, len(list))
	for _, l := range list {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, err
}

// findUplinks returns the uplinks. If there are too many, those with a route to beyond come first, then network cards, then what
// has a route or an address at all.
func (v *view) findUplinks(tun string) (uplinks, error) {
	list, err := v.links()
	if err != nil {
		return uplinks{}, err
	}
	u := uplinks{names: make(map[int]string, len(list))}
	for _, l := range list {
		u.names[l.Attrs().Index] = l.Attrs().Name
		if l.Type() == "bridge" {
			u.bridges = append(u.bridges, l.Attrs().Name)
		}
	}
	slices.Sort(u.bridges)
	list = slices.DeleteFunc(list, func(l netlink.Link) bool {
		a := l.Attrs()
		return a.Name == tun || a.Flags&net.FlagLoopback != 0 || a.MasterIndex != 0
	})
	if len(list) > maxUplinks {
		rank, err := v.rank()
		if err != nil {
			return uplinks{}, err
		}
		slices.SortStableFunc(list, func(a, b netlink.Link) int { return cmp.Compare(rank(a), rank(b)) })
		for _, l := range list[maxUplinks:] {
			if rank(l) != rankIdleCard && rank(l) != rankIdle {
				u.cut = append(u.cut, l.Attrs().Name)
			}
		}
		list = list[:maxUplinks]
	}
	for _, l := range list {
		u.list = append(u.list, l.Attrs().Name)
	}
	slices.Sort(u.list)
	return u, nil
}

// The ranks of interfaces, the likeliest uplink first. A card without an address may be about to get one.
const (
	rankBeyond   = iota // it has a route to beyond
	rankCard            // a network card, not something that a program made, with an address or a route
	rankIdleCard        // one without
	rankUsed            // anything else with an address or a route
	rankIdle
)

// rank returns what ranks interfaces.
func (v *view) rank() (func(netlink.Link) int, error) {
	if _, err := v.addrsOf(0); err != nil {
		return nil, err
	}
	if err := v.ways.look(v); err != nil {
		return nil, err
	}
	return func(l netlink.Link) int {
		index, card := l.Attrs().Index, l.Type() == "device"
		beyond, routed := v.ways.beyond[index]
		used := routed || slices.ContainsFunc(v.addrs[index], func(a netlink.Addr) bool { return !a.IP.IsLinkLocalUnicast() || a.IP.To4() != nil })
		switch {
		case beyond:
			return rankBeyond
		case card && used:
			return rankCard
		case card:
			return rankIdleCard
		case used:
			return rankUsed
		}
		return rankIdle
	}, nil
}

// ways are the interfaces that have routes. They are looked at again only after a while that is long beside what that costs: a
// router may have a million routes.
type ways struct {
	beyond map[int]bool // by index, whether a route leads to beyond: by a gateway, or to half the world
	next   time.Time
}

// look is kept up with the routes of all tables. Our own do not count.
func (w *ways) look(v *view) error {
	start := time.Now()
	if start.Before(w.next) {
		return nil
	}
	beyond := make(map[int]bool)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := v.routesOf(family, unix.RT_TABLE_UNSPEC)
		if err != nil {
			return err
		}
		for _, r := range routes {
			to := rtnl.Prefix(r.Dst, family)
			ofAny := to.Addr().Is6() && to.Addr().IsLinkLocalUnicast() // every interface has one
			if r.Type != unix.RTN_UNICAST || r.Protocol == RouteProtocol || r.Table == unix.RT_TABLE_LOCAL || ofAny {
				continue
			}
			far := r.Gw != nil || r.Via != nil || to.Bits() <= 1
			if r.LinkIndex != 0 {
				beyond[r.LinkIndex] = beyond[r.LinkIndex] || far
			}
			for _, hop := range r.MultiPath {
				beyond[hop.LinkIndex] = beyond[hop.LinkIndex] || far || hop.Gw != nil || hop.Via != nil
			}
		}
	}
	w.beyond, w.next = beyond, time.Now().Add(50*time.Since(start))
	return nil
}
