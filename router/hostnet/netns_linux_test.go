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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const (
	insideEnv  = "PENSTOCK_HOSTNET_INSIDE"
	childEnv   = "PENSTOCK_HOSTNET_CHILD"
	requireEnv = "PENSTOCK_REQUIRE_NETNS"
)

func TestMain(m *testing.M) {
	if do := os.Getenv(childEnv); do != "" {
		os.Exit(child(do))
	}
	goleak.VerifyTestMain(m)
}

// inNamespaces runs the rest of the test in network and mount namespaces of its own: it runs the test
// again in a child that has them, and returns false in the parent, with the child's result.
func inNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Getuid() != 0 || os.Getenv("PENSTOCK_HOSTNET_USERNS") != "" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		skip(t, fmt.Sprintf("the kernel refuses new namespaces: %v", err))
	}
	err := cmd.Wait()
	switch {
	case err != nil:
		t.Fatalf("in its namespaces: %v\n%s", err, out.String())
	case strings.Contains(out.String(), "--- SKIP"):
		skip(t, out.String())
	default:
		t.Logf("%s", out.String())
	}
	return false
}

func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv(requireEnv) == "1" && os.Getenv(insideEnv) == "" {
		t.Fatalf("%s=1, but: %s", requireEnv, reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a laptop in a namespace:
//
//	pen0 (TUN, fd tun)      our TUN
//	up0  (TUN, fd uplink)   192.168.1.10/24, 2001:db8:1::10/64; default routes of both families
//
// What is sent to either is read from its descriptor.
type testHost struct {
	dir         string
	tun, uplink *os.File
}

func newTestHost(t *testing.T) *testHost {
	t.Helper()
	h := &testHost{dir: t.TempDir()}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	h.uplink = newTUN(t, "up0")
	up, err := netlink.LinkByName("up0")
	must(t, err)
	must(t, netlink.LinkSetUp(up))
	for _, a := range []string{"192.168.1.10/24", "2001:db8:1::10/64"} {
		addr, err := netlink.ParseAddr(a)
		must(t, err)
		addr.Flags = unix.IFA_F_NODAD
		must(t, netlink.AddrAdd(up, addr))
	}
	for _, r := range []netlink.Route{
		{LinkIndex: up.Attrs().Index, Gw: net.ParseIP("192.168.1.1"), Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0"))},
		{LinkIndex: up.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("::/0"))},
	} {
		must(t, netlink.RouteAdd(&r))
	}
	h.tun = newTUN(t, "pen0")
	must(t, os.WriteFile(h.resolvConf(), []byte("# from DHCP\nnameserver 192.168.1.1\noptions edns0\n"), 0o640))
	return h
}

func newTUN(t *testing.T, name string) *os.File {
	t.Helper()
	tun := &netlink.Tuntap{
		LinkAttrs:  netlink.LinkAttrs{Name: name, MTU: 1500},
		Mode:       netlink.TUNTAP_MODE_TUN,
		Flags:      netlink.TUNTAP_NO_PI,
		NonPersist: true,
		Queues:     1,
	}
	if err := netlink.LinkAdd(tun); err != nil {
		skip(t, fmt.Sprintf("no TUN device here: %v", err))
	}
	f := tun.Fds[0]
	t.Cleanup(func() { f.Close() })
	return f
}

func (h *testHost) resolvConf() string { return filepath.Join(h.dir, "resolv.conf") }
func (h *testHost) stateFile() string  { return filepath.Join(h.dir, "state.json") }

func (h *testHost) config() Config {
	return Config{Interface: "pen0", StateFile: h.stateFile(), ResolvConf: h.resolvConf()}
}

// everything is settings that make every kind of change.
func everything() Settings {
	return Settings{
		Addresses:     []netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd77::1/64")},
		MTU:           1400,
		Capture:       []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")},
		Exclude:       []netip.Prefix{netip.MustParsePrefix("172.30.0.0/16")},
		LAN:           true,
		DNS:           []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		SearchDomains: []string{"corp.example"},
	}
}

// state is what ip rule, ip route, ip addr, nft, sysctl and cat would show.
func (h *testHost) state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		must(t, err)
		for _, r := range rules {
			mask := maskOf(&r)
			r.Mask = nil
			fmt.Fprintf(&b, "rule %d mask %#x %+v\n", family, mask, r)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		must(t, err)
		for _, r := range routes {
			if r.Table == unix.RT_TABLE_LOCAL {
				continue // follows from the addresses, some time after them
			}
			fmt.Fprintf(&b, "route %d %s type %d proto %d scope %d metric %d\n", family, r, r.Type, r.Protocol, r.Scope, r.Priority)
		}
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		must(t, err)
		up := l.Attrs().Flags & net.FlagUp
		fmt.Fprintf(&b, "link %s up %d mtu %d\n", l.Attrs().Name, up, l.Attrs().MTU)
		for _, a := range addrs {
			fmt.Fprintf(&b, "addr %s %s\n", l.Attrs().Name, a.IPNet)
		}
	}
	for _, path := range []string{"arp_ignore", "src_valid_mark", "rp_filter"} {
		fmt.Fprintf(&b, "%s %s\n", path, sysctlOrEmpty("net/ipv4/conf/all/"+path))
	}
	nft, err := nftables.New()
	must(t, err)
	tables, err := nft.ListTables()
	must(t, err)
	for _, table := range tables {
		fmt.Fprintf(&b, "nft table %s\n", table.Name)
	}
	info, err := os.Lstat(h.resolvConf())
	if err == nil {
		target, _ := os.Readlink(h.resolvConf())
		content, _ := os.ReadFile(h.resolvConf())
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "resolv.conf %s %d:%d -> %q\n%s", info.Mode(), stat.Uid, stat.Gid, target, content)
	}
	left, err := filepath.Glob(filepath.Join(h.dir, "*"))
	must(t, err)
	hidden, err := filepath.Glob(filepath.Join(h.dir, ".*"))
	must(t, err)
	fmt.Fprintf(&b, "files %s\n", slices.Concat(left, hidden))
	return b.String()
}

func wantSame(t *testing.T, what, got, want string) {
	t.Helper()
	if got == want {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for _, line := range gotLines {
		if !slices.Contains(wantLines, line) {
			t.Errorf("%s: left behind: %s", what, line)
		}
	}
	for _, line := range wantLines {
		if !slices.Contains(gotLines, line) {
			t.Errorf("%s: missing: %s", what, line)
		}
	}
	if !t.Failed() {
		t.Errorf("%s: order differs:\ngot  %s\nwant %s", what, got, want)
	}
}

// arrives reports whether a UDP datagram to the port of dst is read from f, or a TCP SYN to it.
func arrives(t *testing.T, f *os.File, dst netip.AddrPort) bool {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		must(t, f.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		must(t, err)
		if to, ok := destinationOf(buf[:n]); ok && to == dst {
			return true
		}
	}
}

func destinationOf(p []byte) (netip.AddrPort, bool) {
	switch {
	case len(p) >= 24 && p[0]>>4 == 4:
		ihl := int(p[0]&15) * 4
		addr := netip.AddrFrom4([4]byte(p[16:20]))
		return netip.AddrPortFrom(addr, uint16(p[ihl+2])<<8|uint16(p[ihl+3])), true
	case len(p) >= 44 && p[0]>>4 == 6:
		addr := netip.AddrFrom16([16]byte(p[24:40]))
		return netip.AddrPortFrom(addr, uint16(p[42])<<8|uint16(p[43])), true
	}
	return netip.AddrPort{}, false
}

// send sends one unmarked datagram, bound to a device or an address if named. An error is no failure:
// refusing is one way of not leaking.
func send(t *testing.T, dst netip.AddrPort, device, source string) error {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if device == "" {
			return nil
		}
		return onSocket(c, func(fd int) error { return unix.BindToDevice(fd, device) })
	}}
	if source != "" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))
	}
	c, err := d.DialContext(t.Context(), "udp", dst.String())
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("in clear?"))
	return err
}

// drain throws away what is waiting in f.
func drain(t *testing.T, files ...*os.File) {
	t.Helper()
	buf := make([]byte, 65536)
	for _, f := range files {
		for {
			must(t, f.SetReadDeadline(time.Now().Add(time.Millisecond)))
			if _, err := f.Read(buf); err != nil {
				break
			}
		}
	}
}
