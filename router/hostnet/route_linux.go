package hostnet

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// route is one route of our table: into the TUN, or a closed one, which takes what no route into the TUN takes, and lets it go nowhere.
type route struct {
	To     netip.Prefix `json:"to"`
	Index  int          `json:"index"` // of the TUN; 0 for a closed one
	Table  int          `json:"table"`
	Closed bool         `json:"closed,omitempty"`
}

// lastMetric is that of a closed route: any other comes before it.
const lastMetric = 1 << 30

func (r *route) stage() stage { return stageRoute }
func (r *route) key() any     { return *r }
func (r *route) String() string {
	if r.Closed {
		return fmt.Sprintf("route unreachable %s table %d", r.To, r.Table)
	}
	return fmt.Sprintf("route %s dev #%d table %d", r.To, r.Index, r.Table)
}

func (r *route) present(v *view) (bool, error) {
	family := rtnl.Family(r.To.Addr())
	list, err := v.routesOf(family, r.Table)
	if err != nil {
		return false, err
	}
	w := r.netlink()
	for _, n := range list {
		if rtnl.Prefix(n.Dst, family) == r.To && n.LinkIndex == r.Index && n.Gw == nil && n.Type == w.Type && n.Scope == w.Scope && n.Protocol == RouteProtocol {
			return true, nil
		}
	}
	return false, nil
}

func (r *route) make(k *kernel) error { return k.nl.RouteReplace(r.netlink()) }

func (r *route) undo(k *kernel) error {
	n := r.netlink()
	if r.To.Addr().Is4() {
		n.Scope = netlink.SCOPE_NOWHERE // of whatever scope it is
	}
	if err := k.nl.RouteDel(n); err != nil && !gone(err) {
		return err
	}
	return nil
}

// netlink returns the route as the library has it. All have the scope of the whole world, so that a look for neighbours passes our table
// by: with it IPv4 checks the gateway of any route that is set, and so finds one in a network that has just come, of which we know
// nothing yet (fib_check_nh_v4_gw, Linux 6.18). A rule has no scope.
func (r *route) netlink() *netlink.Route {
	n := &netlink.Route{
		Family:    rtnl.Family(r.To.Addr()),
		Dst:       rtnl.IPNet(r.To),
		LinkIndex: r.Index,
		Table:     r.Table,
		Protocol:  RouteProtocol,
		Type:      unix.RTN_UNICAST,
		Scope:     netlink.SCOPE_UNIVERSE,
	}
	if r.Closed {
		n.Type, n.Priority = unix.RTN_UNREACHABLE, lastMetric
	}
	return n
}
