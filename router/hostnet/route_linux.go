package hostnet

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

// route is one route of our table, into the TUN.
type route struct {
	To    netip.Prefix `json:"to"`
	Index int          `json:"index"` // of the TUN
	Table int          `json:"table"`
}

func (r *route) stage() stage { return stageRoute }
func (r *route) key() any     { return *r }
func (r *route) String() string {
	return fmt.Sprintf("route %s dev #%d table %d", r.To, r.Index, r.Table)
}

func (r *route) present(v *view) (bool, error) {
	family := rtnl.Family(r.To.Addr())
	list, err := v.routesOf(family, r.Table)
	if err != nil {
		return false, err
	}
	for _, n := range list {
		if rtnl.Prefix(n.Dst, family) == r.To && n.LinkIndex == r.Index && n.Gw == nil && n.Type == unix.RTN_UNICAST && n.Protocol == RouteProtocol {
			return true, nil
		}
	}
	return false, nil
}

func (r *route) make(k *kernel) error { return k.nl.RouteReplace(r.netlink()) }

func (r *route) undo(k *kernel) error {
	if err := k.nl.RouteDel(r.netlink()); err != nil && !gone(err) {
		return err
	}
	return nil
}

func (r *route) netlink() *netlink.Route {
	n := &netlink.Route{
		Family:    rtnl.Family(r.To.Addr()),
		Dst:       rtnl.IPNet(r.To),
		LinkIndex: r.Index,
		Table:     r.Table,
		Protocol:  RouteProtocol,
		Type:      unix.RTN_UNICAST,
	}
	if r.To.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	return n
}
