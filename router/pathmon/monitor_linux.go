package pathmon

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Run follows the path until ctx ends, and then returns nil. An error means that the kernel cannot be asked.
func (m *Monitor) Run(ctx context.Context) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("pathmon: open netlink: %w", err)
	}
	defer nl.Close()
	e, err := listen(filter{tun: m.Ignore, protocol: m.IgnoreProtocol, index: indexOf(nl, m.Ignore)})
	if err != nil {
		return fmt.Errorf("pathmon: listen for changes: %w", err)
	}
	defer e.close()
	k := kernel{nl: nl, mark: m.Mark, ignore: m.Ignore}
	m.follow(ctx, e.changed, func(endpoint netip.Addr) (Path, bool) { return k.path(endpoint, m.Named) })
	return nil
}

func indexOf(nl *netlink.Handle, name string) int {
	if name == "" {
		return 0
	}
	link, err := nl.LinkByName(name)
	if err != nil {
		return 0
	}
	return link.Attrs().Index
}

// Nobody has these addresses (class E; RFC 9637), so only a default route, or half of one, leads to them.
var (
	beyond4 = netip.MustParseAddr("240.0.0.1")
	beyond6 = netip.MustParseAddr("3fff::1")
)

// kernel answers route lookups.
type kernel struct {
	nl     *netlink.Handle
	mark   uint32
	ignore string
}

// path returns the path to an endpoint. If that has none, and is named or invalid, it returns the default route's.
func (k kernel) path(endpoint netip.Addr, named bool) (p Path, ok bool) {
	p4, default4 := k.lookup(beyond4)
	p6, default6 := k.lookup(beyond6)
	if endpoint.IsValid() {
		p, ok = k.lookup(endpoint.Unmap())
	}
	if !ok && (named || !endpoint.IsValid()) {
		if p, ok = p4, default4; !ok {
			p, ok = p6, default6
		}
	}
	p.Default4, p.Default6 = default4, default6
	return p, ok
}

// lookup returns the route of our own packets to addr. A route by a link that is down, or by our own TUN, does not count.
func (k kernel) lookup(addr netip.Addr) (Path, bool) {
	routes, err := k.nl.RouteGetWithOptions(addr.AsSlice(), &netlink.RouteGetOptions{Mark: k.mark})
	if err != nil || len(routes) == 0 {
		return Path{}, false
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST && r.Type != unix.RTN_LOCAL {
		return Path{}, false
	}
	link, err := k.nl.LinkByIndex(r.LinkIndex)
	if err != nil {
		return Path{}, false
	}
	at := link.Attrs()
	down := at.OperState == netlink.OperDown || at.OperState == netlink.OperLowerLayerDown || at.OperState == netlink.OperNotPresent
	if at.Name == k.ignore || down && r.Type != unix.RTN_LOCAL {
		return Path{}, false
	}
	p := Path{Interface: at.Name}
	p.Gateway, _ = netip.AddrFromSlice(r.Gw)
	p.Source, _ = netip.AddrFromSlice(r.Src)
	p.Gateway, p.Source = p.Gateway.Unmap(), p.Source.Unmap()
	if via, isVia := r.Via.(*netlink.Via); isVia { // an IPv4 route with an IPv6 gateway
		p.Gateway, _ = netip.AddrFromSlice(via.Addr)
	}
	return p, true
}
