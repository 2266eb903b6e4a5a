package hosttest

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
	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/rtnl"
)

const (
	insideEnv  = "PENSTOCK_HOSTNET_INSIDE"
	requireEnv = "PENSTOCK_REQUIRE_NETNS"
)

// InNamespaces runs the test in network and mount namespaces of its own: it runs the test again in a child that has them,
// and returns false in the parent, which has the result of the child.
func InNamespaces(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideEnv) != "" {
		Must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
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

// Must ends the test if there is an error.
func Must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Host is a laptop in a namespace:
//
//	pen0 (TUN, fd tun)      our TUN
//	up0  (TUN, fd uplink)   192.168.1.10/24, 2001:db8:1::10/64; default routes of both families
//
// Packets to either are read from its file.
type Host struct {
	Dir         string
	TUN, Uplink *os.File
}

// New makes a Host.
func New(t *testing.T) *Host {
	t.Helper()
	h := &Host{Dir: t.TempDir()}
	lo, err := netlink.LinkByName("lo")
	Must(t, err)
	Must(t, netlink.LinkSetUp(lo))
	h.Uplink = NewTUN(t, "up0")
	up, err := netlink.LinkByName("up0")
	Must(t, err)
	Must(t, netlink.LinkSetUp(up))
	for _, a := range []string{"192.168.1.10/24", "2001:db8:1::10/64"} {
		addr, err := netlink.ParseAddr(a)
		Must(t, err)
		addr.Flags = unix.IFA_F_NODAD
		Must(t, netlink.AddrAdd(up, addr))
	}
	for _, r := range []netlink.Route{
		{LinkIndex: up.Attrs().Index, Gw: net.ParseIP("192.168.1.1"), Dst: rtnl.IPNet(netip.MustParsePrefix("0.0.0.0/0"))},
		{LinkIndex: up.Attrs().Index, Dst: rtnl.IPNet(netip.MustParsePrefix("::/0"))},
	} {
		Must(t, netlink.RouteAdd(&r))
	}
	h.TUN = NewTUN(t, "pen0")
	Must(t, os.WriteFile(h.ResolvConf(), []byte("# from DHCP\nnameserver 192.168.1.1\noptions edns0\n"), 0o640))
	return h
}

// NewTUN makes a TUN that lives until its file is closed, at the end of the test at the latest.
func NewTUN(t *testing.T, name string) *os.File {
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

// ResolvConf is the path of the resolver file.
func (h *Host) ResolvConf() string { return filepath.Join(h.Dir, "resolv.conf") }

// StateFile is the path of a journal.
func (h *Host) StateFile() string { return filepath.Join(h.Dir, "state.json") }

// State is what ip rule, ip route, ip addr, nft, sysctl and cat would show.
func (h *Host) State(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rules, err := netlink.RuleList(family)
		Must(t, err)
		for _, r := range rules {
			mask := uint32(0)
			if r.Mask != nil {
				mask = *r.Mask
			}
			r.Mask = nil
			fmt.Fprintf(&b, "rule %d mask %#x %+v\n", family, mask, r)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		Must(t, err)
		for _, r := range routes {
			if r.Table == unix.RT_TABLE_LOCAL {
				continue // follows from the addresses, some time after them
			}
			fmt.Fprintf(&b, "route %d %s type %d proto %d scope %d metric %d\n", family, r, r.Type, r.Protocol, r.Scope, r.Priority)
		}
	}
	links, err := netlink.LinkList()
	Must(t, err)
	for _, l := range links {
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		Must(t, err)
		up := l.Attrs().Flags & net.FlagUp
		fmt.Fprintf(&b, "link %s up %d mtu %d queue %d\n", l.Attrs().Name, up, l.Attrs().MTU, l.Attrs().TxQLen)
		for _, a := range addrs {
			fmt.Fprintf(&b, "addr %s %s\n", l.Attrs().Name, a.IPNet)
		}
	}
	for _, path := range []string{"arp_ignore", "src_valid_mark", "rp_filter"} {
		fmt.Fprintf(&b, "%s %s\n", path, Sysctl("net/ipv4/conf/all/"+path))
	}
	nft, err := nftables.New()
	Must(t, err)
	tables, err := nft.ListTables()
	Must(t, err)
	for _, table := range tables {
		fmt.Fprintf(&b, "nft table %s\n", table.Name)
	}
	info, err := os.Lstat(h.ResolvConf())
	if err == nil {
		target, _ := os.Readlink(h.ResolvConf())
		content, _ := os.ReadFile(h.ResolvConf())
		stat := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "resolv.conf %s %d:%d -> %q\n%s", info.Mode(), stat.Uid, stat.Gid, target, content)
	}
	left, err := filepath.Glob(filepath.Join(h.Dir, "*"))
	Must(t, err)
	hidden, err := filepath.Glob(filepath.Join(h.Dir, ".*"))
	Must(t, err)
	fmt.Fprintf(&b, "files %s\n", slices.Concat(left, hidden))
	return b.String()
}

// WantSame compares two states.
func WantSame(t *testing.T, what, got, want string) {
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

// Arrives reports whether a UDP datagram to the port of dst is read from f, or a TCP SYN to it.
func Arrives(t *testing.T, f *os.File, dst netip.AddrPort) bool {
	t.Helper()
	buf := make([]byte, 65536)
	for {
		Must(t, f.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
		n, err := f.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
		Must(t, err)
		if to, ok := DestinationOf(buf[:n]); ok && to == dst {
			return true
		}
	}
}

// DestinationOf returns the destination of a UDP or TCP packet.
func DestinationOf(p []byte) (netip.AddrPort, bool) {
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

// Send sends one unmarked datagram, from a device or a source address if they are not "". An error is not a failure of the
// test: refusing is one way of not leaking.
func Send(t *testing.T, dst netip.AddrPort, device, source string) error {
	t.Helper()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		if device == "" {
			return nil
		}
		var err error
		if controlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), device) }); controlErr != nil {
			return controlErr
		}
		return err
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

// Drain throws away what is waiting in the files.
func Drain(t *testing.T, files ...*os.File) {
	t.Helper()
	buf := make([]byte, 65536)
	for _, f := range files {
		for {
			Must(t, f.SetReadDeadline(time.Now().Add(time.Millisecond)))
			if _, err := f.Read(buf); err != nil {
				break
			}
		}
	}
}

// Close removes the devices, for the next of several hosts in one test.
func (h *Host) Close(t *testing.T) {
	t.Helper()
	Must(t, h.TUN.Close())
	Must(t, h.Uplink.Close())
}

// Sysctl returns a kernel parameter by its path below /proc/sys, or "".
func Sysctl(path string) string {
	raw, _ := os.ReadFile(filepath.Join("/proc/sys", path))
	return strings.TrimSpace(string(raw))
}

// SetSysctl sets a kernel parameter by its path below /proc/sys.
func SetSysctl(t *testing.T, path, value string) {
	t.Helper()
	Must(t, os.WriteFile(filepath.Join("/proc/sys", path), []byte(value+"\n"), 0))
}

// Checksum is the Internet checksum (RFC 1071), for packets that tests make.
func Checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Eventually waits for a condition that has no event.
func Eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not so: %s", what)
		}
	}
}
