package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/direct"
	"penstock/router/hostnet/firewall"
	"penstock/router/hostnet/internal/hosttest"
	"penstock/router/hostnet/internal/rtnl"
)

func TestCloseRestoresTheHost(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	lockdown := everything()
	lockdown.Lockdown = true
	addresses := everything()
	addresses.Capture = nil
	part := everything()
	part.Capture = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for name, s := range map[string]Settings{
		"everything": everything(), "lockdown": lockdown, "addresses only": addresses, "one prefix": part, "nothing": {},
	} {
		h := hosttest.New(t)
		before := h.State(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		if err := host.Apply(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if during := h.State(t); name != "nothing" && during == before {
			t.Errorf("%s: Apply changed nothing", name)
		} else if name == "everything" {
			t.Log(during)
		}
		hosttest.Must(t, host.Apply(t.Context(), s)) // twice is once
		hosttest.Must(t, host.Close())
		hosttest.Must(t, host.Close())
		lift(t, h, s.Lockdown)
		hosttest.WantSame(t, name, h.State(t), before)
		h.Close(t)
	}
}

func TestZeroSettingsUndoEarlierOnes(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	before := h.State(t)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	hosttest.Must(t, host.Apply(t.Context(), Settings{}))
	state := strings.ReplaceAll(h.State(t), " "+h.StateFile()+" ", " ") // it is still there, empty
	hosttest.WantSame(t, "after zero settings", state, before)
	hosttest.Must(t, host.Close())
}

// clean is Cleanup that must work.
func clean(t *testing.T, h *hosttest.Host) {
	t.Helper()
	_, err := Cleanup(h.StateFile(), nil)
	hosttest.Must(t, err)
}

// lift is Lift that must work. It wants to hear whether lockdown was in force.
func lift(t *testing.T, h *hosttest.Host, want bool) {
	t.Helper()
	closed, err := Lift(h.StateFile(), nil)
	hosttest.Must(t, err)
	if closed != want {
		t.Errorf("Lift: got lockdown %v, want %v", closed, want)
	}
}

// closes wants that packets in clear stay on the host, and that marked ones leave it.
func closes(t *testing.T, h *hosttest.Host, when string) {
	t.Helper()
	dialer, err := direct.NewDialer(direct.Config{Interface: "pen0"})
	hosttest.Must(t, err)
	defer dialer.Close()
	for _, row := range []struct {
		dst    string
		marked bool
	}{{"198.51.100.1:1", false}, {"[2001:db8:5::1]:2", false}, {"198.51.100.1:4", true}} {
		hosttest.Drain(t, h.Uplink)
		if row.marked {
			c, err := dialer.DialContext(t.Context(), "udp", row.dst)
			hosttest.Must(t, err)
			_, err = c.Write([]byte("ours"))
			hosttest.Must(t, err)
			c.Close()
		} else {
			_ = hosttest.Send(t, netip.MustParseAddrPort(row.dst), "", "") // it may be refused at once
		}
		if got := hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort(row.dst)); got != row.marked {
			t.Errorf("%s: a packet to %s (marked: %v) left: got %v, want %v", when, row.dst, row.marked, got, row.marked)
		}
	}
}

// Only Lift, or settings without it, ends lockdown.
func TestLockdownOutlivesThePenstock(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Close())
	closes(t, h, "after Close")
	clean(t, h)
	closes(t, h, "after Cleanup")

	// A boot: the kernel starts anew, and the state file is of another boot.
	hosttest.Must(t, firewall.Remove(firewall.Name("pen0")))
	text, err := os.ReadFile(h.StateFile())
	hosttest.Must(t, err)
	hosttest.Must(t, os.WriteFile(h.StateFile(), bytes.ReplaceAll(text, []byte(bootID()), []byte("another")), 0o600))
	for range 2 {
		if closed, err := Restore(h.StateFile(), nil); err != nil || !closed {
			t.Errorf("Restore: got %v, %v, want lockdown", closed, err)
		}
		closes(t, h, "after a boot and Restore")
	}

	host, err = Open(config(h))
	hosttest.Must(t, err)
	s.Lockdown = false
	hosttest.Must(t, host.Apply(t.Context(), s))
	if host.Closed() {
		t.Error("settings without lockdown: got lockdown, want none")
	}
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after settings without lockdown", h.State(t), before)
	if closed, err := Restore(h.StateFile(), nil); err != nil || closed {
		t.Errorf("Restore without lockdown: got %v, %v, want nothing to restore", closed, err)
	}

	host, err = Open(config(h))
	hosttest.Must(t, err)
	s.Lockdown = true
	hosttest.Must(t, host.Apply(t.Context(), s))
	if _, err := Lift(h.StateFile(), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("Lift while a penstock runs: got %v, want ErrInUse", err)
	}
	hosttest.Must(t, host.Close())
	lift(t, h, true)
	lift(t, h, false)
	hosttest.WantSame(t, "after Lift", h.State(t), before)
}

// A start with settings without lockdown that fails half-way has already replaced the table by one that lets packets pass.
func TestSettingsThatFailLiftNoEarlierLockdown(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(h.Dir, "no-bus"))
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), s))
	hosttest.Must(t, host.Close())

	host, err = Open(config(h))
	hosttest.Must(t, err)
	s.Lockdown, s.Capture, s.Resolver = false, prefixes("192.0.2.0/24"), ResolverResolved // it is made last, and there is none
	if err := host.Apply(t.Context(), s); err == nil {
		t.Error("Apply without systemd-resolved: got no error")
	}
	if !host.Closed() {
		t.Error("Closed after the failure: got false, want true")
	}
	closes(t, h, "after the failure")
	hosttest.Must(t, host.Release())
	closes(t, h, "after Release")
	lift(t, h, true)
}

func TestCleanupRestoresTheHostAfterAKillAtAnyStep(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	for _, phase := range []string{"apply", "close"} {
		steps := 1
		for ; run(t, h, fmt.Sprintf("%s %d", phase, steps)); steps++ {
			clean(t, h)
			hosttest.WantSame(t, fmt.Sprintf("killed in %s at step %d", phase, steps), h.State(t), before)
			clean(t, h) // once more is nothing
		}
		if steps < 20 {
			t.Errorf("%s: killed at %d steps, want at least 20", phase, steps)
		}
		hosttest.WantSame(t, "not killed in "+phase, h.State(t), before)
	}
}

func TestAStartAfterAKillTakesOverWithoutAGap(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	if !run(t, h, "close 1") { // applied, and killed before the first undo
		t.Fatal("the child was not killed")
	}
	// The kernel takes the TUN away with the process that had it.
	hosttest.Must(t, h.TUN.Close())
	dst := netip.MustParseAddrPort("203.0.113.5:9")
	if err := hosttest.Send(t, dst, "", ""); err == nil {
		t.Error("a datagram was sent while nobody was there")
	}
	host, err := Open(config(h))
	hosttest.Must(t, err)
	if servers, err := host.OriginalResolvers(t.Context()); err != nil || len(servers) != 1 || servers[0] != netip.MustParseAddr("192.168.1.1") {
		t.Errorf("original resolvers after a kill: got %v, %v; want 192.168.1.1", servers, err)
	}
	_ = hosttest.Send(t, dst, "", "")
	_ = hosttest.Send(t, dst, "", "192.168.1.10")
	_ = hosttest.Send(t, dst, "up0", "")
	h.TUN = hosttest.NewTUN(t, "pen0")
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	hosttest.Drain(t, h.TUN)
	hosttest.Must(t, hosttest.Send(t, dst, "", ""))
	if !hosttest.Arrives(t, h.TUN, dst) {
		t.Error("after the restart the TUN gets nothing")
	}
	if hosttest.Arrives(t, h.Uplink, dst) {
		t.Error("a datagram left in clear between two runs")
	}
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after the second run", h.State(t), before)
}

func TestASecondInstanceIsRefused(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	state := h.State(t)
	if _, err := Open(config(h)); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: got %v, want ErrInUse", err)
	}
	if _, err := Cleanup(h.StateFile(), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("Cleanup: got %v, want ErrInUse", err)
	}
	hosttest.WantSame(t, "after the refusals", h.State(t), state)
	hosttest.Must(t, host.Close())
	if err := host.Apply(t.Context(), everything()); !errors.Is(err, ErrClosed) {
		t.Errorf("Apply after Close: got %v, want ErrClosed", err)
	}
}

// Another state file and another TUN do not make two penstocks that can share a host.
func TestASecondInstanceBesideTheFirstIsRefused(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	hosttest.NewTUN(t, "pen9")
	state := h.State(t)
	beside := config(h)
	beside.Interface, beside.StateFile = "pen9", filepath.Join(h.Dir, "other.json")
	other, err := Open(beside)
	hosttest.Must(t, err)
	if err := other.Apply(t.Context(), everything()); err == nil || !strings.Contains(err.Error(), "another penstock") {
		t.Errorf("Apply beside another penstock: got %v, want an error that names it", err)
	}
	hosttest.Must(t, other.Close())
	hosttest.WantSame(t, "after the refusal", h.State(t), state)
	hosttest.Must(t, host.Close())
	again, err := Open(beside)
	hosttest.Must(t, err)
	if err := again.Apply(t.Context(), everything()); err != nil {
		t.Errorf("Apply once the other penstock is gone: %v", err)
	}
	hosttest.Must(t, again.Close())
}

// The table of a penstock that died drops what leaves by the TUN of another.
func TestWhatAnotherPenstockLeftIsNamedIfItClosesTheHost(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	if !run(t, h, "close 1") { // applied, and killed before the first undo
		t.Fatal("the child was not killed")
	}
	hosttest.Must(t, h.TUN.Close())
	tun := hosttest.NewTUN(t, "pen9")
	beside := config(h)
	beside.Interface, beside.StateFile = "pen9", filepath.Join(h.Dir, "other.json")
	other, err := Open(beside)
	hosttest.Must(t, err)
	state := h.State(t)
	mend := "penstock cleanup --state " + h.StateFile()
	if err := other.Apply(t.Context(), everything()); err == nil || !strings.Contains(err.Error(), mend) {
		t.Errorf("Apply beside what a killed penstock left: got %v, want an error that names %q", err, mend)
	}
	hosttest.WantSame(t, "after the refusal", h.State(t), state)
	_, err = Cleanup(h.StateFile(), nil)
	hosttest.Must(t, err)
	if err := other.Apply(t.Context(), everything()); err != nil {
		t.Errorf("Apply once that is cleaned up: %v", err)
	}
	hosttest.Must(t, other.Close())
	hosttest.Must(t, tun.Close())
	hosttest.NewTUN(t, "pen0")
	hosttest.WantSame(t, "after all", h.State(t), before)
}

func TestAFailureHalfWayUndoes(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(h.Dir, "no-bus"))
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	failing := everything()
	failing.Resolver = ResolverResolved // it is made last, and there is none
	if err := host.Apply(t.Context(), failing); err == nil || !strings.Contains(err.Error(), "systemd-resolved") {
		t.Errorf("Apply without systemd-resolved: got %v, want an error that names it", err)
	}
	withoutDNS := everything()
	withoutDNS.DNS = nil
	hosttest.Must(t, host.Apply(t.Context(), withoutDNS))
	applied := h.State(t)
	changed := failing
	changed.Lockdown, changed.Addresses = true, changed.Addresses[:1]
	if err := host.Apply(t.Context(), changed); err == nil {
		t.Error("Apply of other settings without systemd-resolved: got no error")
	}
	hosttest.WantSame(t, "after a failed change of settings", h.State(t), applied)
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

func TestOthersInOurPlaceAreAClearError(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	r := netlink.NewRule()
	r.Priority, r.Table, r.Family = DefaultRulePriority+3, 100, unix.AF_INET
	hosttest.Must(t, netlink.RuleAdd(r))
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	err = host.Apply(t.Context(), everything())
	if err == nil || !strings.Contains(err.Error(), "uses rule priority 5003") {
		t.Errorf("got %v, want an error that names priority 5003", err)
	}
	missing := config(h)
	missing.Interface, missing.StateFile = "pen9", filepath.Join(h.Dir, "other.json")
	other, err := Open(missing)
	hosttest.Must(t, err)
	if err := other.Apply(t.Context(), everything()); err == nil || !strings.Contains(err.Error(), "pen9 does not exist") {
		t.Errorf("got %v, want an error that names pen9", err)
	}
	hosttest.Must(t, other.Close())
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after the errors", h.State(t), before)
}

func TestCapturedTrafficGoesToTheTUN(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	t.Cleanup(func() { host.Close() })

	// A route as from DHCP option 121, and one as from a router advertisement.
	up, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	for _, r := range []netlink.Route{
		{LinkIndex: up.Attrs().Index, Gw: net.ParseIP("192.168.1.66"), Dst: rtnl.IPNet(netip.MustParsePrefix("203.0.113.0/24"))},
		{LinkIndex: up.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("2001:db8:66::/48")), Protocol: unix.RTPROT_RA},
	} {
		hosttest.Must(t, netlink.RouteAdd(&r))
	}

	for _, row := range []struct {
		name, dst, device, source string
		tun, uplink               bool
	}{
		{name: "IPv4", dst: "198.51.100.1:1001", tun: true},
		{name: "IPv6", dst: "[2001:db8:5::1]:1002", tun: true},
		{name: "a more specific IPv4 route pulls nothing", dst: "203.0.113.9:1003", tun: true},
		{name: "a more specific IPv6 route pulls nothing", dst: "[2001:db8:66::9]:1004", tun: true},
		{name: "the uplink's IPv4 address as source", dst: "198.51.100.1:1005", source: "192.168.1.10", tun: true},
		{name: "the uplink's IPv6 address as source", dst: "[2001:db8:5::1]:1006", source: "2001:db8:1::10", tun: true},
		{name: "IPv4 bound to the uplink goes nowhere", dst: "198.51.100.1:1007", device: "up0"},
		{name: "IPv6 bound to the uplink goes nowhere", dst: "[2001:db8:5::1]:1008", device: "up0"},
		{name: "IPv4 bound to the uplink with a more specific route", dst: "203.0.113.9:1009", device: "up0"},
		{name: "a network connected on a public range is not a LAN", dst: "[2001:db8:1::77]:1010", tun: true},
		{name: "a neighbour in the LAN", dst: "192.168.1.77:1011", uplink: true},
		{name: "a question to the LAN's resolver", dst: "192.168.1.1:53", tun: true},
		{name: "a question to the LAN's resolver, bound to the uplink", dst: "192.168.1.1:53", device: "up0"},
		{name: "a question to a group in the LAN", dst: "224.0.0.251:53", tun: true},
		{name: "an excluded prefix", dst: "172.30.1.1:1012", uplink: true},
		{name: "a question to an excluded prefix", dst: "172.30.1.1:53", uplink: true},
		{name: "another address of the TUN's prefix", dst: "10.77.0.9:1013", tun: true},
	} {
		hosttest.Drain(t, h.TUN, h.Uplink)
		dst := netip.MustParseAddrPort(row.dst)
		err := hosttest.Send(t, dst, row.device, row.source)
		if got := hosttest.Arrives(t, h.TUN, dst); got != row.tun {
			t.Errorf("%s: reached the TUN: got %v, want %v (send: %v)", row.name, got, row.tun, err)
		}
		hosttest.Drain(t, h.TUN, h.Uplink)
		err = hosttest.Send(t, dst, row.device, row.source)
		if got := hosttest.Arrives(t, h.Uplink, dst); got != row.uplink {
			t.Errorf("%s: left by the uplink: got %v, want %v (send: %v)", row.name, got, row.uplink, err)
		}
	}
}

func TestLockdownWithoutATUN(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	hosttest.Must(t, h.TUN.Close())
	before := h.State(t)
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Block(t.Context(), s))
	hosttest.Must(t, host.Release())

	dialer, err := direct.NewDialer(direct.Config{Interface: "pen0"})
	hosttest.Must(t, err)
	defer dialer.Close()
	for _, row := range []struct {
		name, dst string
		marked    bool
		uplink    bool
	}{
		{name: "unmarked", dst: "198.51.100.1:1"},
		{name: "unmarked IPv6", dst: "[2001:db8:5::1]:2"},
		{name: "the LAN is not allowed", dst: "192.168.1.77:3"},
		{name: "marked", dst: "198.51.100.1:4", marked: true, uplink: true},
		{name: "marked IPv6", dst: "[2001:db8:5::1]:5", marked: true, uplink: true},
	} {
		hosttest.Drain(t, h.Uplink)
		dst := netip.MustParseAddrPort(row.dst)
		if row.marked {
			c, err := dialer.DialContext(t.Context(), "udp", row.dst)
			hosttest.Must(t, err)
			_, err = c.Write([]byte("ours"))
			hosttest.Must(t, err)
			c.Close()
		} else {
			_ = hosttest.Send(t, dst, "", "")
		}
		if got := hosttest.Arrives(t, h.Uplink, dst); got != row.uplink {
			t.Errorf("%s: left by the uplink: got %v, want %v", row.name, got, row.uplink)
		}
	}
	lift(t, h, true)
	hosttest.WantSame(t, "after Lift", h.State(t), before)
}

func TestDHCPRenewalsPass(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	s := everything()
	s.Lockdown, s.LAN = true, false
	hosttest.Must(t, host.Apply(t.Context(), s))
	for _, row := range []struct{ source, server string }{{"0.0.0.0:68", "192.0.2.67:67"}, {"[::]:546", "[2001:db8:5::67]:547"}} {
		hosttest.Drain(t, h.Uplink)
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(row.source))}
		c, err := d.DialContext(t.Context(), "udp", row.server)
		hosttest.Must(t, err)
		_, err = c.Write([]byte("renew"))
		hosttest.Must(t, err)
		hosttest.Must(t, c.Close())
		if !hosttest.Arrives(t, h.Uplink, netip.MustParseAddrPort(row.server)) {
			t.Errorf("a renewal from %s to %s did not leave", row.source, row.server)
		}
	}
	hosttest.Must(t, host.Close())
}

func TestANewNetworkCanSetItsGateway(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	s := everything()
	s.LAN = false // nothing but the rules for interfaces lets the new gateway be found
	hosttest.Must(t, host.Apply(t.Context(), s))
	link, err := netlink.LinkByName("up0")
	hosttest.Must(t, err)
	addr, err := netlink.ParseAddr("198.18.7.2/24")
	hosttest.Must(t, err)
	hosttest.Must(t, netlink.AddrAdd(link, addr))
	if err := netlink.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Gw: net.ParseIP("198.18.7.1"), Priority: 50,
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}); err != nil {
		t.Errorf("a DHCP client's default route: %v", err)
	}
	hosttest.Must(t, host.Close())
}

// Nobody has looked at the interface yet. A gateway that is set without its interface leads there, too, and not into the TUN.
func TestAnInterfaceThatHasJustComeCanHaveAGateway(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	s := everything()
	s.LAN = false
	hosttest.Must(t, host.Apply(t.Context(), s))
	const script = `ip link add new0 type veth peer name new1; ip link set new1 up; ip link set new0 up; ip addr add 192.0.2.2/24 dev new0
		ip route add 10.1.0.0/16 via 192.0.2.1 dev new0
		ip route add 10.2.0.0/16 via 192.0.2.1
		ip route add default via 192.0.2.1 metric 5
		ip route show | grep -c 'via 192.0.2.1 dev new0'`
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", script).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "3" {
		t.Errorf("got %v, %s; want three routes by the new interface", err, out)
	}
	// What the TUN does not take goes nowhere, by the new interface neither.
	hosttest.Must(t, exec.CommandContext(t.Context(), "ip", "link", "set", "pen0", "down").Run())
	if out, err := exec.CommandContext(t.Context(), "ip", "route", "get", "192.0.2.9").CombinedOutput(); err == nil {
		t.Errorf("without the TUN: got %s, want no route", out)
	}
	hosttest.Must(t, exec.CommandContext(t.Context(), "ip", "link", "del", "new0").Run())
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

func TestWhatIsNotCapturedGoesItsOwnWay(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	s := everything()
	s.LAN, s.Lockdown = false, false
	s.Capture = prefixes("203.0.113.0/24", "2001:db8:7::/48")
	hosttest.Must(t, host.Apply(t.Context(), s))
	want := func(dst, dev string) {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), "ip", "-o", "route", "get", dst).CombinedOutput()
		if got := string(out); dev == "" && err == nil || dev != "" && !strings.Contains(got, " dev "+dev+" ") {
			t.Errorf("%s: got %s, %v; want it by %q", dst, got, err, dev)
		}
	}
	for _, dst := range []string{"203.0.113.9", "2001:db8:7::9"} {
		want(dst, "pen0")
	}
	for _, dst := range []string{"198.51.100.9", "2001:db8:9::9"} {
		want(dst, "up0")
	}
	hosttest.Must(t, exec.CommandContext(t.Context(), "ip", "link", "set", "pen0", "down").Run())
	for _, dst := range []string{"203.0.113.9", "2001:db8:7::9"} {
		want(dst, "")
	}
	for _, dst := range []string{"198.51.100.9", "2001:db8:9::9"} {
		want(dst, "up0")
	}
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

func TestAnswersPassAStrictReversePathFilter(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	hosttest.SetSysctl(t, "net/ipv4/conf/up0/rp_filter", "1")
	before := h.State(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	d, err := direct.NewDialer(direct.Config{Interface: "pen0"})
	hosttest.Must(t, err)
	defer d.Close()
	c, err := d.DialContext(t.Context(), "udp", "198.51.100.1:53")
	hosttest.Must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("question"))
	hosttest.Must(t, err)
	answer(t, h, netip.MustParseAddrPort("198.51.100.1:53"))
	hosttest.Must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "question" {
		t.Errorf("got %q, %v; want the answer", buf[:n], err)
	}
	hosttest.Must(t, host.Close())
	hosttest.WantSame(t, "after Close", h.State(t), before)
}

// answer sends the datagram to dst, which is read from the uplink, back to where it came from.
func answer(t *testing.T, h *hosttest.Host, dst netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		hosttest.Must(t, h.Uplink.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, err := h.Uplink.Read(buf)
		hosttest.Must(t, err)
		p := buf[:n]
		if to, ok := hosttest.DestinationOf(p); !ok || to != dst || !to.Addr().Is4() {
			continue
		}
		for i := range 4 {
			p[12+i], p[16+i] = p[16+i], p[12+i]
		}
		p[20], p[21], p[22], p[23] = p[22], p[23], p[20], p[21]
		p[26], p[27] = 0, 0 // no UDP checksum
		_, err = h.Uplink.Write(p)
		hosttest.Must(t, err)
		return
	}
}

func TestTheTUNsAddressIsDeadOnOtherInterfaces(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	h := hosttest.New(t)
	host, err := Open(config(h))
	hosttest.Must(t, err)
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{})
	hosttest.Must(t, err)
	defer listener.Close()
	port := listener.LocalAddr().(*net.UDPAddr).Port

	heard := func(dst string) bool {
		packet := udp4(netip.MustParseAddr("192.168.1.66"), netip.MustParseAddr(dst), uint16(port))
		_, err := h.Uplink.Write(packet)
		hosttest.Must(t, err)
		hosttest.Must(t, listener.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, _, err = listener.ReadFrom(make([]byte, 64))
		return err == nil
	}
	hosttest.Must(t, host.Apply(t.Context(), everything()))
	if !heard("192.168.1.10") {
		t.Error("positive control: the uplink's own address must be heard")
	}
	if heard("10.77.0.1") {
		t.Error("a packet for the TUN's address that came by the uplink was heard")
	}
	hosttest.Must(t, host.Close())
}

// udp4 is a datagram from port 9 without a UDP checksum.
func udp4(src, dst netip.Addr, port uint16) []byte {
	p := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	sum := hosttest.Checksum(p)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return append(p, 0, 9, byte(port>>8), byte(port), 0, 12, 0, 0, 'p', 'i', 'n', 'g')
}

func TestIPv6SwitchedOffIsNoFailure(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	for _, which := range []string{"all", "default"} {
		h := hosttest.New(t)
		hosttest.Must(t, h.TUN.Close())
		hosttest.SetSysctl(t, "net/ipv6/conf/"+which+"/disable_ipv6", "1")
		h.TUN = hosttest.NewTUN(t, "pen0")
		before := h.State(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Errorf("disable_ipv6 of %s: %v", which, err)
		}
		dst := netip.MustParseAddrPort("[2001:db8:5::1]:9")
		_ = hosttest.Send(t, dst, "", "")
		if hosttest.Arrives(t, h.Uplink, dst) {
			t.Errorf("disable_ipv6 of %s: IPv6 left in clear", which)
		}
		hosttest.Must(t, host.Close())
		hosttest.WantSame(t, "disable_ipv6 of "+which, h.State(t), before)
		hosttest.SetSysctl(t, "net/ipv6/conf/"+which+"/disable_ipv6", "0")
		h.Close(t)
	}
}

func TestEachDefenceHoldsWithoutTheOther(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	removals := map[string]func(k *kernel, c change){
		"rules alone": func(k *kernel, c change) {
			if c.stage() == stageNft {
				hosttest.Must(t, c.undo(k))
			}
		},
		"nftables alone": func(k *kernel, c change) {
			if c.stage() == stageRule {
				hosttest.Must(t, c.undo(k))
			}
		},
	}
	for name, remove := range removals {
		h := hosttest.New(t)
		host, err := Open(config(h))
		hosttest.Must(t, err)
		hosttest.Must(t, host.Apply(t.Context(), everything()))
		for _, e := range host.journal.entries {
			remove(host.kernel, e.change())
		}
		for _, tun := range []string{"with the TUN", "after its end"} {
			for _, target := range []string{"198.51.100.1:9", "[2001:db8:5::1]:9"} {
				dst := netip.MustParseAddrPort(target)
				hosttest.Drain(t, h.Uplink)
				_ = hosttest.Send(t, dst, "", "")
				_ = hosttest.Send(t, dst, "", map[bool]string{true: "192.168.1.10", false: "2001:db8:1::10"}[dst.Addr().Is4()])
				if hosttest.Arrives(t, h.Uplink, dst) {
					t.Errorf("%s, %s: a datagram to %s left in clear", name, tun, dst)
				}
			}
			h.TUN.Close()
		}
		hosttest.Must(t, host.Close())
		hosttest.Must(t, h.Uplink.Close())
	}
}
