package hostnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestCloseRestoresTheHost(t *testing.T) {
	if !inNamespaces(t) {
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
		h := newTestHost(t)
		before := h.state(t)
		host, err := Open(h.config())
		must(t, err)
		if err := host.Apply(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if during := h.state(t); name != "nothing" && during == before {
			t.Errorf("%s: Apply changed nothing", name)
		} else if name == "everything" {
			t.Log(during)
		}
		must(t, host.Apply(t.Context(), s)) // twice is once
		must(t, host.Close())
		must(t, host.Close())
		wantSame(t, name, h.state(t), before)
		h.remove(t)
	}
}

// remove takes the devices away, for the next of several hosts in one test.
func (h *testHost) remove(t *testing.T) {
	t.Helper()
	must(t, h.tun.Close())
	must(t, h.uplink.Close())
}

func TestZeroSettingsUndoEarlierOnes(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	before := h.state(t)
	must(t, host.Apply(t.Context(), everything()))
	must(t, host.Apply(t.Context(), Settings{}))
	state := strings.ReplaceAll(h.state(t), " "+h.stateFile()+" ", " ") // it is still there, empty
	wantSame(t, "after zero settings", state, before)
	must(t, host.Close())
}

// child is what the test binary does as a penstock that is killed: "apply N" and "close N" die at the
// N-th change, "hold" applies and waits to be killed.
func child(do string) int {
	what, n, _ := strings.Cut(do, " ")
	at, _ := strconv.Atoi(n)
	count := 0
	dying := func() {
		if count++; count == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	hook := func(change string) {
		if strings.HasPrefix(change, "make") == (what == "apply") {
			dying()
		}
	}
	dir := os.Getenv("PENSTOCK_HOSTNET_DIR")
	h := &testHost{dir: dir}
	host, err := open(h.config(), hook)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := host.Apply(context.Background(), everything()); err != nil {
		fmt.Println(err)
		return 1
	}
	if what == "hold" {
		fmt.Println("held")
		select {}
	}
	if err := host.Close(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// run runs a child and reports whether it was killed.
func (h *testHost) run(t *testing.T, do string) (killed bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+do, "PENSTOCK_HOSTNET_DIR="+h.dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("child %s: %v\n%s", do, err, out)
	}
	return false
}

func TestCleanupRestoresTheHostAfterAKillAtAnyStep(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	before := h.state(t)
	for _, phase := range []string{"apply", "close"} {
		steps := 1
		for ; h.run(t, fmt.Sprintf("%s %d", phase, steps)); steps++ {
			must(t, Cleanup(h.stateFile(), nil))
			wantSame(t, fmt.Sprintf("killed in %s at step %d", phase, steps), h.state(t), before)
			must(t, Cleanup(h.stateFile(), nil)) // once more is nothing
		}
		if steps < 20 {
			t.Errorf("%s: killed at %d steps, want at least 20", phase, steps)
		}
		wantSame(t, "not killed in "+phase, h.state(t), before)
	}
}

func TestAStartAfterAKillTakesOverWithoutAGap(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	before := h.state(t)
	if !h.run(t, "close 1") { // applied, and killed before the first undo
		t.Fatal("the child was not killed")
	}
	// The kernel takes the TUN away with the process that had it.
	must(t, h.tun.Close())
	dst := netip.MustParseAddrPort("203.0.113.5:9")
	if err := send(t, dst, "", ""); err == nil {
		t.Error("a datagram was sent while nobody was there")
	}
	host, err := Open(h.config())
	must(t, err)
	if servers, err := host.OriginalResolvers(t.Context()); err != nil || len(servers) != 1 || servers[0] != netip.MustParseAddr("192.168.1.1") {
		t.Errorf("original resolvers after a kill: got %v, %v; want 192.168.1.1", servers, err)
	}
	_ = send(t, dst, "", "")
	_ = send(t, dst, "", "192.168.1.10")
	_ = send(t, dst, "up0", "")
	h.tun = newTUN(t, "pen0")
	must(t, host.Apply(t.Context(), everything()))
	drain(t, h.tun)
	must(t, send(t, dst, "", ""))
	if !arrives(t, h.tun, dst) {
		t.Error("after the restart the TUN gets nothing")
	}
	if arrives(t, h.uplink, dst) {
		t.Error("a datagram left in clear between two runs")
	}
	must(t, host.Close())
	wantSame(t, "after the second run", h.state(t), before)
}

func TestASecondInstanceIsRefused(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	state := h.state(t)
	if _, err := Open(h.config()); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open: got %v, want ErrInUse", err)
	}
	if err := Cleanup(h.stateFile(), nil); !errors.Is(err, ErrInUse) {
		t.Errorf("Cleanup: got %v, want ErrInUse", err)
	}
	wantSame(t, "after the refusals", h.state(t), state)
	must(t, host.Close())
	if err := host.Apply(t.Context(), everything()); !errors.Is(err, ErrClosed) {
		t.Errorf("Apply after Close: got %v, want ErrClosed", err)
	}
}

func TestAFailureHalfWayUndoes(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	must(t, os.Remove(h.resolvConf()))
	must(t, os.Mkdir(filepath.Join(h.dir, "etc"), 0o755))
	must(t, unix.Mount("tmpfs", filepath.Join(h.dir, "etc"), "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(h.dir, "etc"), 0)) })
	c := h.config()
	c.ResolvConf = filepath.Join(h.dir, "etc", "resolv.conf")
	must(t, os.WriteFile(c.ResolvConf, []byte("nameserver 192.168.1.1\n"), 0o644))
	must(t, unix.Mount("", filepath.Join(h.dir, "etc"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))

	before := h.state(t)
	host, err := Open(c)
	must(t, err)
	err = host.Apply(t.Context(), everything())
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("Apply with a read-only resolv.conf: got %v, want EROFS", err)
	}
	withDNS := everything()
	withDNS.DNS = nil
	must(t, host.Apply(t.Context(), withDNS))
	applied := h.state(t)
	changed := everything()
	changed.Lockdown, changed.Addresses = true, changed.Addresses[:1]
	if err := host.Apply(t.Context(), changed); !errors.Is(err, unix.EROFS) {
		t.Errorf("Apply of other settings: got %v, want EROFS", err)
	}
	wantSame(t, "after a failed change of settings", h.state(t), applied)
	must(t, host.Close())
	wantSame(t, "after Close", h.state(t), before)
}

func TestOthersInOurPlaceAreAClearError(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	r := netlink.NewRule()
	r.Priority, r.Table, r.Family = DefaultRulePriority+3, 100, unix.AF_INET
	must(t, netlink.RuleAdd(r))
	before := h.state(t)
	host, err := Open(h.config())
	must(t, err)
	err = host.Apply(t.Context(), everything())
	if err == nil || !strings.Contains(err.Error(), "rule priority 5003 is in use") {
		t.Errorf("got %v, want an error that names priority 5003", err)
	}
	missing := h.config()
	missing.Interface, missing.StateFile = "pen9", filepath.Join(h.dir, "other.json")
	other, err := Open(missing)
	must(t, err)
	if err := other.Apply(t.Context(), everything()); err == nil || !strings.Contains(err.Error(), "pen9 does not exist") {
		t.Errorf("got %v, want an error that names pen9", err)
	}
	must(t, other.Close())
	must(t, host.Close())
	wantSame(t, "after the errors", h.state(t), before)
}

func TestCapturedTrafficGoesToTheTUN(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	t.Cleanup(func() { host.Close() })

	// A route as from DHCP option 121, and one as from a router advertisement.
	up, err := netlink.LinkByName("up0")
	must(t, err)
	for _, r := range []netlink.Route{
		{LinkIndex: up.Attrs().Index, Gw: net.ParseIP("192.168.1.66"), Dst: ipNet(netip.MustParsePrefix("203.0.113.0/24"))},
		{LinkIndex: up.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("2001:db8:66::/48")), Protocol: unix.RTPROT_RA},
	} {
		must(t, netlink.RouteAdd(&r))
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
		drain(t, h.tun, h.uplink)
		dst := netip.MustParseAddrPort(row.dst)
		err := send(t, dst, row.device, row.source)
		if got := arrives(t, h.tun, dst); got != row.tun {
			t.Errorf("%s: reached the TUN: got %v, want %v (send: %v)", row.name, got, row.tun, err)
		}
		drain(t, h.tun, h.uplink)
		err = send(t, dst, row.device, row.source)
		if got := arrives(t, h.uplink, dst); got != row.uplink {
			t.Errorf("%s: left by the uplink: got %v, want %v (send: %v)", row.name, got, row.uplink, err)
		}
	}
}

func TestLockdownWithoutATUN(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	must(t, h.tun.Close())
	before := h.state(t)
	s := everything()
	s.Lockdown, s.LAN = true, false
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Block(t.Context(), s))
	must(t, host.Release())

	dialer, err := NewDialer(DialerConfig{Interface: "pen0"})
	must(t, err)
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
		drain(t, h.uplink)
		dst := netip.MustParseAddrPort(row.dst)
		if row.marked {
			c, err := dialer.DialContext(t.Context(), "udp", row.dst)
			must(t, err)
			_, err = c.Write([]byte("ours"))
			must(t, err)
			c.Close()
		} else {
			_ = send(t, dst, "", "")
		}
		if got := arrives(t, h.uplink, dst); got != row.uplink {
			t.Errorf("%s: left by the uplink: got %v, want %v", row.name, got, row.uplink)
		}
	}
	must(t, Cleanup(h.stateFile(), nil))
	wantSame(t, "after Cleanup", h.state(t), before)
}

func TestDHCPRenewalsPass(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	s := everything()
	s.Lockdown, s.LAN = true, false
	must(t, host.Apply(t.Context(), s))
	for _, row := range []struct{ source, server string }{{"0.0.0.0:68", "192.0.2.67:67"}, {"[::]:546", "[2001:db8:5::67]:547"}} {
		drain(t, h.uplink)
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.MustParseAddrPort(row.source))}
		c, err := d.DialContext(t.Context(), "udp", row.server)
		must(t, err)
		_, err = c.Write([]byte("renew"))
		must(t, err)
		must(t, c.Close())
		if !arrives(t, h.uplink, netip.MustParseAddrPort(row.server)) {
			t.Errorf("a renewal from %s to %s did not leave", row.source, row.server)
		}
	}
	must(t, host.Close())
}

func TestANewNetworkCanSetItsGateway(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	s := everything()
	s.LAN = false // nothing but the rules for interfaces lets the new gateway be found
	must(t, host.Apply(t.Context(), s))
	link, err := netlink.LinkByName("up0")
	must(t, err)
	addr, err := netlink.ParseAddr("198.18.7.2/24")
	must(t, err)
	must(t, netlink.AddrAdd(link, addr))
	if err := netlink.RouteAdd(&netlink.Route{
		LinkIndex: link.Attrs().Index, Gw: net.ParseIP("198.18.7.1"), Priority: 50,
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)},
	}); err != nil {
		t.Errorf("a DHCP client's default route: %v", err)
	}
	must(t, host.Close())
}

func TestAnswersPassAStrictReversePathFilter(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	must(t, writeSysctl("net/ipv4/conf/up0/rp_filter", "1"))
	before := h.state(t)
	host, err := Open(h.config())
	must(t, err)
	must(t, host.Apply(t.Context(), everything()))
	d, err := NewDialer(DialerConfig{Interface: "pen0"})
	must(t, err)
	defer d.Close()
	c, err := d.DialContext(t.Context(), "udp", "198.51.100.1:53")
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("question"))
	must(t, err)
	h.answer(t, netip.MustParseAddrPort("198.51.100.1:53"))
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 64)
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "question" {
		t.Errorf("got %q, %v; want the answer", buf[:n], err)
	}
	must(t, host.Close())
	wantSame(t, "after Close", h.state(t), before)
}

// answer sends the datagram to dst, which is read from the uplink, back to where it came from.
func (h *testHost) answer(t *testing.T, dst netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		must(t, h.uplink.SetReadDeadline(time.Now().Add(5*time.Second)))
		n, err := h.uplink.Read(buf)
		must(t, err)
		p := buf[:n]
		if to, ok := destinationOf(p); !ok || to != dst || !to.Addr().Is4() {
			continue
		}
		for i := range 4 {
			p[12+i], p[16+i] = p[16+i], p[12+i]
		}
		p[20], p[21], p[22], p[23] = p[22], p[23], p[20], p[21]
		p[26], p[27] = 0, 0 // no UDP checksum
		_, err = h.uplink.Write(p)
		must(t, err)
		return
	}
}

func TestTheTUNsAddressIsDeadOnOtherInterfaces(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	h := newTestHost(t)
	host, err := Open(h.config())
	must(t, err)
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{})
	must(t, err)
	defer listener.Close()
	port := listener.LocalAddr().(*net.UDPAddr).Port

	heard := func(dst string) bool {
		packet := udp4(netip.MustParseAddr("192.168.1.66"), netip.MustParseAddr(dst), uint16(port))
		_, err := h.uplink.Write(packet)
		must(t, err)
		must(t, listener.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		_, _, err = listener.ReadFrom(make([]byte, 64))
		return err == nil
	}
	must(t, host.Apply(t.Context(), everything()))
	if !heard("192.168.1.10") {
		t.Error("positive control: the uplink's own address must be heard")
	}
	if heard("10.77.0.1") {
		t.Error("a packet for the TUN's address that came by the uplink was heard")
	}
	must(t, host.Close())
}

// udp4 is a datagram from port 9 without a UDP checksum.
func udp4(src, dst netip.Addr, port uint16) []byte {
	p := []byte{0x45, 0, 0, 32, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	p = append(append(p, src.AsSlice()...), dst.AsSlice()...)
	sum := checksum(p)
	p[10], p[11] = byte(sum>>8), byte(sum)
	return append(p, 0, 9, byte(port>>8), byte(port), 0, 12, 0, 0, 'p', 'i', 'n', 'g')
}

func TestIPv6SwitchedOffIsNoFailure(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	for _, which := range []string{"all", "default"} {
		h := newTestHost(t)
		must(t, h.tun.Close())
		must(t, writeSysctl("net/ipv6/conf/"+which+"/disable_ipv6", "1"))
		h.tun = newTUN(t, "pen0")
		before := h.state(t)
		host, err := Open(h.config())
		must(t, err)
		if err := host.Apply(t.Context(), everything()); err != nil {
			t.Errorf("disable_ipv6 of %s: %v", which, err)
		}
		dst := netip.MustParseAddrPort("[2001:db8:5::1]:9")
		_ = send(t, dst, "", "")
		if arrives(t, h.uplink, dst) {
			t.Errorf("disable_ipv6 of %s: IPv6 left in clear", which)
		}
		must(t, host.Close())
		wantSame(t, "disable_ipv6 of "+which, h.state(t), before)
		must(t, writeSysctl("net/ipv6/conf/"+which+"/disable_ipv6", "0"))
		h.remove(t)
	}
}

func TestEachDefenceHoldsWithoutTheOther(t *testing.T) {
	if !inNamespaces(t) {
		return
	}
	removals := map[string]func(k *kernel, c change){
		"rules alone": func(k *kernel, c change) {
			if c.stage() == stageNft {
				must(t, c.undo(k))
			}
		},
		"nftables alone": func(k *kernel, c change) {
			if c.stage() == stageRule {
				must(t, c.undo(k))
			}
		},
	}
	for name, remove := range removals {
		h := newTestHost(t)
		host, err := Open(h.config())
		must(t, err)
		must(t, host.Apply(t.Context(), everything()))
		for _, e := range host.journal.entries {
			remove(host.kernel, e.change())
		}
		for _, tun := range []string{"with the TUN", "after its end"} {
			for _, target := range []string{"198.51.100.1:9", "[2001:db8:5::1]:9"} {
				dst := netip.MustParseAddrPort(target)
				drain(t, h.uplink)
				_ = send(t, dst, "", "")
				_ = send(t, dst, "", map[bool]string{true: "192.168.1.10", false: "2001:db8:1::10"}[dst.Addr().Is4()])
				if arrives(t, h.uplink, dst) {
					t.Errorf("%s, %s: a datagram to %s left in clear", name, tun, dst)
				}
			}
			h.tun.Close()
		}
		must(t, host.Close())
		must(t, h.uplink.Close())
	}
}
