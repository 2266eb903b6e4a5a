package pathmon

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// inNamespace runs the rest of the test in a network namespace of its own: it runs the test again in a child that has
// one, and returns false in the parent, with the child's result.
func inNamespace(t *testing.T) bool {
	t.Helper()
	const inside = "PENSTOCK_PATHMON_INSIDE"
	if os.Getenv(inside) != "" {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		reason := fmt.Sprintf("the kernel refuses new namespaces: %v", err)
		if os.Getenv("PENSTOCK_REQUIRE_NETNS") == "1" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in its namespace: %v\n%s", err, out.String())
	}
	if !strings.Contains(out.String(), "--- PASS") {
		t.Fatalf("the test did not run in its namespace:\n%s", out.String())
	}
	return false
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a laptop in a namespace:
//
//	cable (veth)  192.168.1.10/24, 3fff:1::10/64; gateways 192.168.1.1 and 3fff:1::1
//	wifi  (veth)  10.9.0.10/24; gateway 10.9.0.1
//	pen0  (veth)  our TUN, with a default route in table 7077 for all that is not marked
type host struct{ cable, wifi, tun netlink.Link }

const mark = 0x1000000

func newHost(t *testing.T) host {
	t.Helper()
	// No link-local addresses: their detection of duplicates makes changes some seconds later.
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/addr_gen_mode", []byte("1"), 0))
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	pair := func(name string, addrs ...string) netlink.Link {
		must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-far"}))
		for _, n := range []string{name + "-far", name} {
			l, err := netlink.LinkByName(n)
			must(t, err)
			must(t, netlink.LinkSetUp(l))
		}
		l, err := netlink.LinkByName(name)
		must(t, err)
		addAddrs(t, l, addrs...)
		return l
	}
	h := host{cable: pair("cable", "192.168.1.10/24", "3fff:1::10/64"), wifi: pair("wifi", "10.9.0.10/24")}
	h.tun = pair("pen0", "10.77.0.1/24")
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: h.tun.Attrs().Index, Dst: everywhere(), Table: 7077, Protocol: 119}))
	r := netlink.NewRule()
	mask := uint32(mark)
	r.Priority, r.Family, r.Table, r.Mark, r.Mask, r.Invert, r.Protocol = 5005, unix.AF_INET, 7077, mark, &mask, true, 119
	must(t, netlink.RuleAdd(r))
	return h
}

func addAddrs(t *testing.T, l netlink.Link, addrs ...string) {
	t.Helper()
	for _, s := range addrs {
		a, err := netlink.ParseAddr(s)
		must(t, err)
		a.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(l, a))
	}
}

func everywhere() *net.IPNet { return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)} }

func byDefault(l netlink.Link, gateway string, metric int) *netlink.Route {
	r := &netlink.Route{LinkIndex: l.Attrs().Index, Gw: net.ParseIP(gateway), Priority: metric}
	if r.Gw.To4() == nil {
		r.Dst = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	} else {
		r.Dst = everywhere()
	}
	return r
}

// news is what a monitor told last; what comes in between is not lost by looking late.
func news(t *testing.T, c Config) (<-chan string, *Monitor) {
	t.Helper()
	told := make(chan string, 100)
	c.Changed = func(p Path, ok bool) {
		if !ok {
			told <- "none"
			return
		}
		told <- fmt.Sprintf("%s from %s by %s, defaults %t %t", p.Interface, p.Source, p.Gateway, p.Default4, p.Default6)
	}
	m := New(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return told, m
}

func want(t *testing.T, told <-chan string, want string) {
	t.Helper()
	select {
	case got := <-told:
		if got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("nothing was told, want %q", want)
	}
}

func TestPathOfTheKernel(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHost(t)
	told, _ := news(t, Config{
		Endpoint: func() netip.Addr { return netip.MustParseAddr("198.51.100.7") },
		Mark:     mark, Ignore: "pen0", IgnoreProtocol: 119,
	})
	want(t, told, "none") // the unmarked default route into the TUN does not count
	must(t, netlink.RouteAdd(byDefault(h.cable, "192.168.1.1", 100)))
	want(t, told, "cable from 192.168.1.10 by 192.168.1.1, defaults true false")
	must(t, netlink.RouteAdd(byDefault(h.cable, "3fff:1::1", 100)))
	want(t, told, "cable from 192.168.1.10 by 192.168.1.1, defaults true true")
	must(t, netlink.RouteAdd(byDefault(h.wifi, "10.9.0.1", 50)))
	want(t, told, "wifi from 10.9.0.10 by 10.9.0.1, defaults true true")

	uplinks, err := Uplinks("pen0")
	if err != nil || !slices.Equal(uplinks, []string{"wifi", "cable"}) {
		t.Errorf("uplinks: got %q %v, want the better one first", uplinks, err)
	}
	both := &netlink.Route{Dst: byDefault(h.wifi, "10.9.0.1", 0).Dst, Priority: 10, MultiPath: []*netlink.NexthopInfo{
		{LinkIndex: h.cable.Attrs().Index, Gw: net.ParseIP("192.168.1.1")}, {LinkIndex: h.wifi.Attrs().Index, Gw: net.ParseIP("10.9.0.1")},
	}}
	must(t, netlink.RouteAdd(both))
	uplinks, err = Uplinks("pen0")
	if err != nil || !slices.Equal(uplinks, []string{"cable", "wifi"}) {
		t.Errorf("uplinks of a route with several ways: got %q %v, want all of them", uplinks, err)
	}
	must(t, netlink.RouteDel(both))
	far, err := netlink.LinkByName("wifi-far")
	must(t, err)
	must(t, netlink.LinkSetDown(far)) // the cable would do, but the kernel still goes by the link that lost its carrier
	want(t, told, "none")
	must(t, netlink.RouteDel(byDefault(h.wifi, "10.9.0.1", 50)))
	want(t, told, "cable from 192.168.1.10 by 192.168.1.1, defaults true true")
	must(t, netlink.LinkSetDown(h.cable))
	want(t, told, "none")
}

func TestPathOfAnyFamily(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHost(t)
	v4 := func() netip.Addr { return netip.MustParseAddr("198.51.100.7") }
	must(t, netlink.RouteAdd(byDefault(h.cable, "3fff:1::1", 100)))

	literal, _ := news(t, Config{Endpoint: v4, Mark: mark, Ignore: "pen0"})
	want(t, literal, "none")
	named, _ := news(t, Config{Endpoint: v4, Named: true, Mark: mark, Ignore: "pen0"})
	want(t, named, "cable from 3fff:1::10 by 3fff:1::1, defaults false true")
	anywhere, _ := news(t, Config{Mark: mark, Ignore: "pen0"})
	want(t, anywhere, "cable from 3fff:1::10 by 3fff:1::1, defaults false true")
	near, _ := news(t, Config{Endpoint: func() netip.Addr { return netip.MustParseAddr("192.168.1.77") }, Mark: mark, Ignore: "pen0"})
	want(t, near, "cable from 192.168.1.10 by invalid IP, defaults false true")
}

func TestOwnChangesAreIgnored(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	h := newHost(t)
	e, err := listen(filter{tun: "pen0", index: h.tun.Attrs().Index, protocol: 119})
	must(t, err)
	defer e.close()
	drained := func() bool {
		t.Helper()
		must(t, netlink.RouteAdd(&netlink.Route{ // a change of somebody else's, behind all others
			LinkIndex: h.cable.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 0).To4(), Mask: net.CIDRMask(24, 32)},
		}))
		select {
		case <-e.changed:
		case <-time.After(20 * time.Second):
			t.Fatal("a change of somebody else's was not seen")
		}
		must(t, netlink.RouteDel(&netlink.Route{
			LinkIndex: h.cable.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(203, 0, 113, 0).To4(), Mask: net.CIDRMask(24, 32)},
		}))
		<-e.changed
		return true
	}
	drained()
	for quiet := false; !quiet; { // the kernel tells of new links and their routes up to a second later
		select {
		case <-e.changed:
		case <-time.After(1500 * time.Millisecond):
			quiet = true
		}
	}
	must(t, netlink.LinkSetMTU(h.tun, 1400))
	addAddrs(t, h.tun, "10.78.0.1/24")
	must(t, netlink.RouteAdd(&netlink.Route{
		LinkIndex: h.cable.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(192, 0, 2, 0).To4(), Mask: net.CIDRMask(24, 32)}, Protocol: 119,
	}))
	r := netlink.NewRule()
	r.Priority, r.Family, r.Table, r.Protocol = 5006, unix.AF_INET6, 7077, 119
	must(t, netlink.RuleAdd(r))
	select {
	case <-e.changed:
		t.Error("a change of our own was not left out")
	case <-time.After(50 * time.Millisecond):
	}
	drained()
}

func TestOnLink(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	link := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "wlan0"}}
	must(t, netlink.LinkAdd(link))
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	must(t, netlink.LinkAdd(other))
	for _, row := range []struct {
		link netlink.Link
		addr string
	}{{link, "192.168.7.10/24"}, {link, "fd07::10/64"}, {other, "10.0.0.5/8"}} {
		a, err := netlink.ParseAddr(row.addr)
		must(t, err)
		must(t, netlink.AddrAdd(row.link, a))
	}
	ppp, err := netlink.ParseAddr("10.64.0.2/32")
	must(t, err)
	ppp.Peer = &net.IPNet{IP: net.IPv4(10, 64, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}
	must(t, netlink.AddrAdd(link, ppp))
	must(t, netlink.LinkSetUp(link))
	must(t, netlink.RouteAdd(&netlink.Route{ // as from DHCP option 121
		LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: net.IPv4(10, 20, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}, Scope: netlink.SCOPE_LINK,
	}))
	for addr, want := range map[string]bool{
		"192.168.7.1": true, "::ffff:192.168.7.1": true, "fd07::1": true, "10.64.0.1": true,
		"192.168.8.1": false, "fd08::1": false, "10.0.0.1": false, "10.20.0.1": false, "198.51.100.1": false,
	} {
		got, err := OnLink("wlan0", netip.MustParseAddr(addr))
		if err != nil || got != want {
			t.Errorf("OnLink(wlan0, %s): got %v, %v; want %v", addr, got, err, want)
		}
	}
	if on, err := OnLink("wlan9", netip.MustParseAddr("192.168.7.1")); on || err == nil {
		t.Errorf("OnLink of an interface that does not exist: got %v, %v; want false and an error", on, err)
	}
	if on, err := OnLink("wlan0", netip.Addr{}); on || err != nil {
		t.Errorf("OnLink of no address: got %v, %v; want false", on, err)
	}
}
