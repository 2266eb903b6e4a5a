package netlab

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Netlink returns a handle for rtnetlink inside the host, for tasks that Host has no method for. It is valid as long as the
// host.
func (h *Host) Netlink() *netlink.Handle { return h.links }

// SetLink brings an interface up or down. When it goes down, the kernel removes its routes and IPv6 addresses.
func (h *Host) SetLink(ifname string, up bool) error {
	link, err := h.links.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("host %s: link %s: %w", h.name, ifname, err)
	}
	set := h.links.LinkSetDown
	if up {
		set = h.links.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("host %s: set link %s up=%t: %w", h.name, ifname, up, err)
	}
	return nil
}

// AddAddr adds an address with its on-link prefix to an interface. It is usable at once. It is not an error if the interface
// has it already.
func (h *Host) AddAddr(ifname string, addr netip.Prefix) error {
	return h.addr("add", ifname, addr, h.links.AddrReplace)
}

// DelAddr removes an address from an interface.
func (h *Host) DelAddr(ifname string, addr netip.Prefix) error {
	return h.addr("delete", ifname, addr, h.links.AddrDel)
}

func (h *Host) addr(verb, ifname string, addr netip.Prefix, change func(netlink.Link, *netlink.Addr) error) error {
	link, err := h.links.LinkByName(ifname)
	if err != nil {
		return fmt.Errorf("host %s: link %s: %w", h.name, ifname, err)
	}
	a := &netlink.Addr{IPNet: ipNet(addr)}
	if addr.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	if err := change(link, a); err != nil {
		return fmt.Errorf("host %s: %s address %s on %s: %w", h.name, verb, addr, ifname, err)
	}
	return nil
}

// AddRoute installs a route. It replaces one with the same destination and metric.
func (h *Host) AddRoute(r Route) error {
	return h.route("add", r, h.links.RouteReplace)
}

// DelRoute removes a route.
func (h *Host) DelRoute(r Route) error {
	return h.route("delete", r, h.links.RouteDel)
}

func (h *Host) route(verb string, r Route, change func(*netlink.Route) error) error {
	route := &netlink.Route{Dst: ipNet(r.Dst), Priority: r.Metric}
	if r.Silent {
		route.Type = unix.RTN_BLACKHOLE
	}
	if r.Via.IsValid() {
		route.Gw = r.Via.AsSlice()
	}
	if r.Link != "" {
		link, err := h.links.LinkByName(r.Link)
		if err != nil {
			return fmt.Errorf("host %s: link %s: %w", h.name, r.Link, err)
		}
		route.LinkIndex = link.Attrs().Index
	}
	if err := change(route); err != nil {
		return fmt.Errorf("host %s: %s route to %s: %w", h.name, verb, r.Dst, err)
	}
	return nil
}

// wire joins two hosts with a virtual cable and brings both ends up.
func wire(a *Host, aName string, b *Host, bName string) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: aName},
		PeerName:      bName,
		PeerNamespace: netlink.NsFd(b.net.Fd()),
	}
	if err := a.links.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s.%s to %s.%s: %w", a.name, aName, b.name, bName, err)
	}
	if err := a.SetLink(aName, true); err != nil {
		return err
	}
	return b.SetLink(bName, true)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
