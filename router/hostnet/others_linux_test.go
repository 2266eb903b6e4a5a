package hostnet_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

// meshVPN gives the host an interface mesh0 of another VPN, with the rules and the table that such a program sets.
func meshVPN(t *testing.T) (leave func()) {
	t.Helper()
	const mark, mask = 0x80000, 0xff0000
	link, err := netlink.LinkByName("mesh0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.LinkSetUp(link))
	addr, err := netlink.ParseAddr("100.101.102.103/32")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(link, addr))
	addr6, err := netlink.ParseAddr("fd7a:115c:a1e0::5/128")
	hosttest.Must(t, err)
	addr6.Flags = unix.IFA_F_NODAD
	hosttest.Must(t, netlink.AddrAdd(link, addr6))
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	routes := []netlink.Route{
		{LinkIndex: link.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("100.64.0.0/10")), Table: 52},
		{LinkIndex: link.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("10.44.0.0/16")), Table: 52},
		{LinkIndex: link.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("0.0.0.0/0")), Table: 52}, // all traffic by a peer
		{Dst: rtnl.IPNet(netip.MustParsePrefix("10.44.7.0/24")), Table: 52, Type: unix.RTN_THROW},
		{LinkIndex: up.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("10.55.0.0/16")), Table: 53, Gw: net.ParseIP("192.168.1.1")}, // of one source
		{LinkIndex: link.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("fd7a:115c:a1e0::/48")), Table: 52},
	}
	for i := range routes {
		hosttest.Must(t, netlink.RouteAdd(&routes[i]))
	}
	var rules []*netlink.Rule
	for _, r := range []struct {
		priority, table int
		kind            uint8
		marked          bool
		src             string
	}{
		{5210, unix.RT_TABLE_MAIN, 0, true, ""}, {5230, unix.RT_TABLE_DEFAULT, 0, true, ""}, {5250, 0, unix.RTN_UNREACHABLE, true, ""}, {5270, 52, 0, false, ""},
		{6000, 53, 0, false, "192.168.1.200/32"},
	} {
		n := netlink.NewRule()
		n.Family, n.Priority, n.Table, n.Type = unix.AF_INET, r.priority, r.table, r.kind
		if r.marked {
			m := uint32(mask)
			n.Mark, n.Mask = mark, &m
		}
		if r.src != "" {
			n.Src = rtnl.IPNet(netip.MustParsePrefix(r.src))
		}
		hosttest.Must(t, netlink.RuleAdd(n))
		rules = append(rules, n)
	}
	six := netlink.NewRule()
	six.Family, six.Priority, six.Table = unix.AF_INET6, 5270, 52
	hosttest.Must(t, netlink.RuleAdd(six))
	rules = append(rules, six)
	return func() {
		for _, n := range rules {
			hosttest.Must(t, netlink.RuleDel(n))
		}
		hosttest.Must(t, netlink.RouteDel(&routes[3])) // it belongs to no interface
	}
}

func TestADirectDialReachesTheHostsOfAnotherVPN(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, lockdown := range []bool{false, true} {
		t.Run(fmt.Sprintf("lockdown %v", lockdown), func(t *testing.T) {
			h := hosttest.New(t)
			defer h.Close(t)
			mesh := hosttest.NewTUN(t, "mesh0")
			defer mesh.Close()
			leave := meshVPN(t)
			defer leave()
			before := h.State(t)
			var others direct.Others
			host, err := hostnet.Open(hostnet.Config{Interface: "pen0", StateFile: h.StateFile(), ResolvConf: h.ResolvConf(), Others: &others})
			hosttest.Must(t, err)
			defer host.Close()
			settings := hostnet.Settings{
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")},
				Capture:   []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
				Lockdown:  lockdown,
			}
			hosttest.Must(t, host.Apply(t.Context(), settings))
			if got, want := fmt.Sprint(others.List()), "[10.44.7.0/24 by  (table 52) 10.44.0.0/16 by mesh0 (table 52) 100.64.0.0/10 by mesh0 (table 52) fd7a:115c:a1e0::/48 by mesh0 (table 52)]"; got != want {
				t.Errorf("got %s\nwant %s", got, want)
			}
			d, err := direct.NewDialer(direct.Config{Interface: "pen0", Prefixes: settings.Addresses, Others: &others})
			hosttest.Must(t, err)
			defer d.Close()
			hosttest.Must(t, d.SelfTest(t.Context()))

			for dst, by := range map[string]string{
				"100.64.0.9:7001": "mesh0", "10.44.0.9:7002": "mesh0", "10.44.7.9:7003": "up0", "198.51.100.1:7004": "up0", "10.55.0.1:7005": "up0",
				"[fd7a:115c:a1e0::9]:7006": "mesh0", "[2001:db8:9::9]:7007": "up0",
			} {
				hosttest.Drain(t, h.TUN, h.Uplink, mesh)
				c, err := d.DialContext(t.Context(), "udp", dst)
				hosttest.Must(t, err)
				_, err = c.Write([]byte("ours"))
				hosttest.Must(t, err)
				if from := c.LocalAddr().String(); by == "mesh0" && !strings.HasPrefix(from, "100.101.102.103:") && !strings.HasPrefix(from, "[fd7a:115c:a1e0::5]:") {
					t.Errorf("%s: sent from %s, want the address of mesh0", dst, from)
				}
				hosttest.Must(t, c.Close())
				in := h.Uplink
				if by == "mesh0" {
					in = mesh
				}
				if !hosttest.Arrives(t, in, netip.MustParseAddrPort(dst)) {
					t.Errorf("%s: did not leave by %s", dst, by)
				}
			}
			// Everybody else is captured, also who binds to the interface.
			for _, device := range []string{"", "mesh0"} {
				dst := netip.MustParseAddrPort("100.64.0.9:7010")
				hosttest.Drain(t, h.TUN, mesh)
				err := hosttest.Send(t, dst, device, "")
				if hosttest.Arrives(t, mesh, dst) {
					t.Errorf("a packet bound to %q left by mesh0 (%v)", device, err)
				}
			}
			hosttest.Must(t, host.Close())
			if _, err := hostnet.Lift(h.StateFile(), nil); err != nil && !errors.Is(err, hostnet.ErrInUse) {
				t.Error(err)
			}
			hosttest.WantSame(t, "after Close", h.State(t), before)
		})
	}
}
