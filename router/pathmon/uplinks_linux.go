package pathmon

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplinks names the interfaces that the main table has an IPv4 default route by, best first, but for our own TUN.
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
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil || link.Attrs().Name == ignore || slices.Contains(names, link.Attrs().Name) {
			continue
		}
		names = append(names, link.Attrs().Name)
	}
	return names, nil
}
