package hostnet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

// Programs made 40 interfaces before the uplink came.
func TestTheUplinkIsFoundAmongManyInterfaces(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, row := range []struct {
		sentence          string
		addresses, beyond bool // of the 40
		forwarded         bool
	}{
		{"the others have no address", false, false, true},
		{"the others have addresses: answers could come in there, and that would not forward them", true, false, false},
		{"the others are uplinks too: some of them cannot forward", true, true, false},
	} {
		var many []netlink.Link
		for i := range 40 {
			link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("many%d", i)}}
			hosttest.Must(t, netlink.LinkAdd(link))
			hosttest.Must(t, netlink.LinkSetUp(link))
			many = append(many, link)
			if !row.addresses {
				continue
			}
			addr, err := netlink.ParseAddr(fmt.Sprintf("10.50.%d.1/24", i))
			hosttest.Must(t, err)
			hosttest.Must(t, netlink.AddrAdd(link, addr))
			if row.beyond {
				hosttest.Must(t, netlink.RouteAdd(&netlink.Route{
					LinkIndex: link.Attrs().Index, Gw: net.IPv4(10, 50, byte(i), 2), Dst: rtnl.IPNet(netip.MustParsePrefix(fmt.Sprintf("10.60.%d.0/24", i))),
				}))
			}
		}
		h := hosttest.New(t)
		was := h.State(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), routed()))
		if v4, _ := host.Forwarding.Families(); v4 != row.forwarded {
			t.Errorf("%s: got IPv4 forwarded %t, want %t", row.sentence, v4, row.forwarded)
		}
		if got := hosttest.Sysctl(up4); !row.beyond && got != "1" {
			t.Errorf("%s: %s is %s, want 1", row.sentence, up4, got)
		}
		hosttest.Must(t, host.Apply(t.Context(), everything()))
		if !row.beyond && !slices.ContainsFunc(host.applied, func(c change) bool { r, ok := c.(*rule); return ok && r.Out == "up0" }) {
			t.Errorf("%s: a DHCP client cannot set the gateway of up0: there is no rule for it", row.sentence)
		}
		hosttest.Must(t, host.Apply(t.Context(), routed()))
		if row.addresses { // as on a host with containers
			hosttest.SetSysctl(t, all4, "1")
			hosttest.Must(t, host.repair(t.Context()))
			if v4, _ := host.Forwarding.Families(); !v4 {
				t.Errorf("%s: the host has become a router, and IPv4 is not forwarded", row.sentence)
			}
			hosttest.SetSysctl(t, all4, "0")
		}
		hosttest.Must(t, host.Close())
		hosttest.WantSame(t, row.sentence, h.State(t), was)
		for _, link := range many {
			hosttest.Must(t, netlink.LinkDel(link))
		}
		h.Close(t)
	}
}
