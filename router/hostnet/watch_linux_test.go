package hostnet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

// startWatch runs Watch until the test is over, or stop is called.
func startWatch(t *testing.T, host *Host) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- host.Watch(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch: got %v, want nil after the end of its context", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func TestWhatOthersRemoveIsPutBackAndNothingLeaksMeanwhile(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	dst := netip.MustParseAddrPort("198.51.100.1:9")
	hosttest.Must(t, hosttest.Send(t, dst, "", ""))
	if !hosttest.Arrives(t, h.Uplink, dst) {
		t.Fatal("positive control: an unmarked datagram must leave before Apply")
	}
	before := h.State(t)
	c := config(h)
	kinds := make(chan string, 1024)
	c.Repaired = func(kind string, err error) {
		if err != nil {
			t.Errorf("cannot put back a %s: %v", kind, err)
		}
		kinds <- kind
	}
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	applied := h.State(t)
	stop := startWatch(t, host)

	link, err := netlink.LinkByName("pen0")
	hosttest.Must(t, err)
	removals := map[string]func(){
		"nft": func() {
			hosttest.Must(t, firewall.Remove(firewall.Name("pen0")))
		},
		"route": func() {
			hosttest.Must(t, netlink.RouteDel((&route{To: netip.MustParsePrefix("0.0.0.0/0"), Index: link.Attrs().Index, Table: DefaultTable}).netlink()))
		},
		"address": func() {
			hosttest.Must(t, netlink.AddrDel(link, (&address{Prefix: netip.MustParsePrefix("10.77.0.1/24")}).netlink()))
		},
		"link":   func() { hosttest.Must(t, netlink.LinkSetDown(link)) },
		"sysctl": func() { hosttest.SetSysctl(t, "net/ipv4/conf/all/arp_ignore", "0") },
		"resolver": func() {
			hosttest.Must(t, os.Remove(h.ResolvConf()))
		},
	}
	for kind, remove := range removals {
		hosttest.Drain(t, h.Uplink)
		remove()
		for seen := ""; seen != kind; seen = <-kinds {
			_ = hosttest.Send(t, dst, "", "")
		}
		if hosttest.Arrives(t, h.Uplink, dst) {
			t.Errorf("%s removed: a datagram left in clear", kind)
		}
		hosttest.Eventually(t, kind+" is back", func() bool { return h.State(t) == applied })
	}

	rules, err := netlink.RuleList(unix.AF_INET)
	hosttest.Must(t, err)
	for _, r := range rules {
		if r.Protocol != RouteProtocol {
			continue
		}
		hosttest.Drain(t, h.Uplink)
		r.Type = unix.RTN_UNSPEC
		hosttest.Must(t, netlink.RuleDel(&r))
		for seen := ""; seen != "rule"; seen = <-kinds {
			_ = hosttest.Send(t, dst, "", "")
		}
		if hosttest.Arrives(t, h.Uplink, dst) {
			t.Errorf("%s removed: a datagram left in clear", r)
		}
	}
	hosttest.Eventually(t, "every rule is back", func() bool { return h.State(t) == applied })

	stop()
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after the removals", h.State(t), before)
}

func TestWatchFollowsTheConnectedNetworks(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)

	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	office, err := netlink.ParseAddr("10.20.0.5/16")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(up, office))
	left := func(addr string) bool {
		hosttest.Drain(t, h.Uplink)
		dst := netip.MustParseAddrPort(addr)
		_ = hosttest.Send(t, dst, "", "")
		return hosttest.Arrives(t, h.Uplink, dst)
	}
	hosttest.Eventually(t, "a neighbour in the new network is reached", func() bool { return left("10.20.3.4:7") })
	hosttest.Must(t, netlink.AddrDel(up, office))
	hosttest.Eventually(t, "the network that went is captured again", func() bool { return !left("10.20.3.4:7") })

	stop()
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after the networks changed", h.State(t), before)
}

func TestAResolverFileThatOthersWriteIsTheNewOriginal(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)
	theirs := "# from another DHCP server\nnameserver 192.0.2.53\n"
	hosttest.Must(t, os.WriteFile(h.ResolvConf(), []byte(theirs), 0o644))
	hosttest.Eventually(t, "resolv.conf is ours again", func() bool {
		content, err := os.ReadFile(h.ResolvConf())
		return err == nil && strings.Contains(string(content), "nameserver 10.77.0.1")
	})
	servers, err := host.OriginalResolvers(t.Context())
	hosttest.Must(t, err)
	if want := []netip.Addr{netip.MustParseAddr("192.0.2.53")}; !slices.Equal(servers, want) {
		t.Errorf("original resolvers: got %v, want %v", servers, want)
	}
	stop()
	hosttest.Must(t, host.Close())
	content, err := os.ReadFile(h.ResolvConf())
	hosttest.Must(t, err)
	if string(content) != theirs {
		t.Errorf("after Close: got %q, want %q", content, theirs)
	}
	if err := host.Watch(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Watch after Close: got %v, want ErrClosed", err)
	}
}

func TestATUNThatGoesIsReportedOnceAndCanBeMadeAgain(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	c := config(h)
	gone := make(chan struct{}, 1024)
	c.Gone = func() { gone <- struct{}{} }
	var repaired atomic.Int32
	c.Repaired = func(kind string, err error) {
		repaired.Add(1)
		t.Logf("repaired: %s %v", kind, err)
	}
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	stop := startWatch(t, host)
	dst := netip.MustParseAddrPort("198.51.100.1:9")
	closed := func(when string) {
		t.Helper()
		hosttest.Drain(t, h.Uplink)
		_ = hosttest.Send(t, dst, "", "")
		_ = hosttest.Send(t, dst, "", "192.168.1.10")
		_ = hosttest.Send(t, dst, "up0", "")
		if hosttest.Arrives(t, h.Uplink, dst) {
			t.Errorf("%s: a datagram left in clear", when)
		}
	}
	for _, remove := range []func(){
		func() { // ip link del pen0
			link, err := netlink.LinkByName("pen0")
			hosttest.Must(t, err)
			hosttest.Must(t, netlink.LinkDel(link))
		},
		func() { hosttest.Must(t, h.TUN.Close()) },
	} {
		remove()
		<-gone
		closed("without the TUN")

		// A device of the same name that Apply has not seen may be another program's.
		h.TUN = hosttest.NewTUN(t, "pen0")
		link, err := netlink.LinkByName("pen0")
		hosttest.Must(t, err)
		hosttest.Must(t, netlink.LinkSetUp(link))
		closed("with somebody's device of the same name")
		time.Sleep(2*repairWithin + 500*time.Millisecond) // Watch looks twice at least
		if n := len(gone); n != 0 {
			t.Errorf("reported %d times more, want once for each time that it goes", n)
		}
		hosttest.Drain(t, h.TUN)
		_ = hosttest.Send(t, dst, "", "")
		if hosttest.Arrives(t, h.TUN, dst) {
			t.Error("a datagram was sent to a device that Apply has not seen")
		}

		hosttest.Must(t, host.Apply(t.Context(), everything()))
		hosttest.Drain(t, h.TUN)
		hosttest.Must(t, hosttest.Send(t, dst, "", ""))
		if !hosttest.Arrives(t, h.TUN, dst) {
			t.Error("after Apply the new TUN gets nothing")
		}
	}
	if n := repaired.Load(); n > 0 {
		t.Errorf("got %d repairs, want none: what is gone with the TUN is not put back", n)
	}
	stop()
	hosttest.Must(t, host.Close())
	link, err := netlink.LinkByName("pen0")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.LinkSetDown(link)) // it was the test that set it up
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

func TestAnOverlapWithAConnectedNetworkIsReportedAndOver(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	c := config(h)
	reports := make(chan *direct.OverlapError, 1024)
	c.Overlap = func(o *direct.OverlapError) { reports <- o }
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	if err := host.Overlap(t.Context()); err != nil || len(reports) != 0 {
		t.Errorf("without an overlap: got %v and %d reports, want nothing", err, len(reports))
	}
	stop := startWatch(t, host)
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	cafe, err := netlink.ParseAddr("10.77.0.50/24") // whose gateway is 10.77.0.1
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(up, cafe))
	const want = "the TUN's network 10.77.0.0/24 overlaps 10.77.0.0/24, which up0 is connected to: set listen.tun.address to a network that is free, for example 10.78.0.1/24"
	if o := <-reports; o == nil || o.Error() != want {
		t.Errorf("got %v, want %s", o, want)
	}
	if err := host.Overlap(t.Context()); err == nil || err.Error() != want {
		t.Errorf("Overlap: got %v, want %s", err, want)
	}
	d, err := direct.NewDialer(direct.Config{Interface: "pen0", Prefixes: everything().Addresses})
	hosttest.Must(t, err)
	defer d.Close()
	hosttest.Must(t, netlink.RouteReplace(&netlink.Route{ // as a DHCP client would
		LinkIndex: up.Attrs().Index, Gw: net.ParseIP("10.77.0.254"), Dst: rtnl.IPNet(netip.MustParsePrefix("0.0.0.0/0")), Src: cafe.IP,
	}))
	var overlap *direct.OverlapError
	if err := d.SelfTest(t.Context()); !errors.As(err, &overlap) || overlap.Error() != want {
		t.Errorf("SelfTest: got %v, want %s", err, want)
	}
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	if n := len(reports); n != 0 {
		t.Errorf("the same overlap was reported %d times more", n)
	}
	hosttest.Must(t, netlink.AddrDel(up, cafe))
	if o := <-reports; o != nil {
		t.Errorf("got %v after the network went, want that it is over", o)
	}
	stop()
	hosttest.Must(t, netlink.AddrAdd(up, cafe))
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	if o := <-reports; o == nil || o.Interface != "up0" {
		t.Errorf("Apply reported %v, want an overlap with up0", o)
	}
	hosttest.Must(t, host.Close())
}

// The table and the rules follow the networks that the host is connected to. Nobody removed anything.
func TestAnAddressThatComesAndGoesIsNobodysFault(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	c := config(h)
	c.Repaired = func(kind string, err error) { t.Errorf("got %s put back (%v), want no blame", kind, err) }
	host, err := Open(c)
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	addr, err := netlink.ParseAddr("192.168.7.2/24")
	hosttest.Must(t, err)
	for range 2 {
		hosttest.Must(t, netlink.AddrAdd(up, addr))
		hosttest.Must(t, host.repair(t.Context()))
		hosttest.Must(t, netlink.AddrDel(up, addr))
		hosttest.Must(t, host.repair(t.Context()))
	}
	hosttest.Must(t, host.Close())
}
