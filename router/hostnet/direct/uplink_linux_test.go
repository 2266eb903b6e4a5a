package direct

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

// TestASocketIsBoundWhereADefaultRouteHasSeveralWays: without CAP_NET_ADMIN every socket is bound to the uplink, so a host on which none
// was found could send nothing.
func TestASocketIsBoundWhereADefaultRouteHasSeveralWays(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	tun, err := netlink.LinkByName("pen0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.LinkSetUp(tun))
	all := rtnl.IPNet(netip.MustParsePrefix("0.0.0.0/0"))
	index := up.Attrs().Index
	d, err := NewDialer(Config{})
	hosttest.Must(t, err)
	defer func() { hosttest.Must(t, d.Close()) }()
	d.bind.Store(true)

	for _, row := range []struct {
		name, to string
		routes   []netlink.Route
		rule     bool // leads to table 100
	}{
		{"several ways of one route", "198.51.100.1:1001", []netlink.Route{{Dst: all, MultiPath: []*netlink.NexthopInfo{
			{LinkIndex: index, Gw: net.ParseIP("192.168.1.1")}, {LinkIndex: index, Gw: net.ParseIP("192.168.1.2")},
		}}}, false},
		{"the default route in another table", "198.51.100.2:1002", []netlink.Route{{
			Dst: all, Table: 100, LinkIndex: index, Gw: net.ParseIP("192.168.1.1"),
		}}, true},
	} {
		hosttest.Must(t, netlink.RouteDel(&netlink.Route{Dst: all, LinkIndex: index, Gw: net.ParseIP("192.168.1.1")}))
		for i := range row.routes {
			hosttest.Must(t, netlink.RouteAdd(&row.routes[i]))
		}
		rule := netlink.NewRule()
		rule.Table, rule.Priority, rule.Family = 100, 100, netlink.FAMILY_V4
		if row.rule {
			hosttest.Must(t, netlink.RuleAdd(rule))
		}
		c, err := d.DialContext(t.Context(), "udp", row.to)
		if err != nil {
			t.Errorf("%s: dial: got %v, want a socket that is bound to the uplink", row.name, err)
		} else {
			_, err = c.Write([]byte("ours"))
			hosttest.Must(t, err)
			if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort(row.to)) {
				t.Errorf("%s: a bound socket did not leave by the uplink", row.name)
			}
			c.Close()
		}
		listener := net.ListenConfig{Control: d.Control}
		if pc, err := listener.ListenPacket(t.Context(), "udp", "0.0.0.0:0"); err != nil {
			t.Errorf("%s: listen: %v", row.name, err)
		} else {
			pc.Close()
		}
		for i := range row.routes {
			hosttest.Must(t, netlink.RouteDel(&row.routes[i]))
		}
		hosttest.Must(t, netlink.RouteAdd(&netlink.Route{Dst: all, LinkIndex: index, Gw: net.ParseIP("192.168.1.1")}))
	}
}
