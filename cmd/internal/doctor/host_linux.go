package doctor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
)

// The addresses that stand for the internet: those of a public resolver. Nothing is sent to them.
const internet4, internet6 = "9.9.9.9", "2620:fe::fe"

// mostRoutes bounds what is kept of a router's tables.
const mostRoutes = 4096

func rights(context.Context) (Rights, error) {
	r := Rights{User: os.Geteuid()}
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "CapEff:"); ok {
			set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			if err != nil {
				return r, fmt.Errorf("/proc/thread-self/status: %w", err)
			}
			r.NetAdmin = set&(1<<unix.CAP_NET_ADMIN) != 0
		}
	}
	return r, nil
}

// device opens /dev/net/tun. That makes no device.
func device(context.Context) (Device, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Device{Missing: true}, nil
	case errors.Is(err, fs.ErrPermission):
		return Device{Refused: true}, nil
	case err != nil:
		return Device{Error: err.Error()}, nil
	}
	defer unix.Close(fd)
	features, err := unix.IoctlGetInt(fd, unix.TUNGETFEATURES)
	return Device{Headers: err == nil && features&unix.IFF_VNET_HDR != 0}, nil
}

func kernelOffers(context.Context) (Kernel, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return Kernel{}, err
	}
	k := Kernel{Release: unix.ByteSliceToString(name.Release[:])}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return k, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	text := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return ""
	}
	k.GSO = text(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 1200))
	k.GRO = text(unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1))
	k.Marks = text(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, hostnet.DefaultMark))
	rules, err := netlink.RuleList(netlink.FAMILY_V4)
	if k.Rules = text(err); err == nil && len(rules) == 0 {
		k.Rules = "there is no rule"
	}
	return k, nil
}

func nftables(context.Context) (string, error) {
	err := hostnet.Nftables()
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", err
	case err != nil:
		return err.Error(), nil
	}
	return "", nil
}

func links(context.Context) ([]Link, error) {
	list, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Link
	for _, l := range list {
		a := l.Attrs()
		one := Link{Name: a.Name, Kind: l.Type(), Up: a.Flags&net.FlagUp != 0, InBridge: a.MasterIndex != 0, MTU: a.MTU}
		addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // it is gone
		}
		for _, addr := range addrs {
			if p, ok := prefixOf(addr.IPNet); ok {
				one.Addresses = append(one.Addresses, p)
			}
		}
		out = append(out, one)
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}

func routes(context.Context) ([]Route, error) {
	var out []Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if r.Table == unix.RT_TABLE_LOCAL || r.Type != unix.RTN_UNICAST || len(out) == mostRoutes {
				continue
			}
			one := Route{Table: r.Table, Metric: r.Priority, Ours: r.Protocol == hostnet.RouteProtocol}
			if to, ok := prefixOf(r.Dst); ok {
				one.To = to
			} else if family == netlink.FAMILY_V6 {
				one.To = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			} else {
				one.To = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
			index, gateway := wayOf(r)
			one.Gateway, _ = netip.AddrFromSlice(gateway)
			one.Gateway = one.Gateway.Unmap()
			if link, err := net.InterfaceByIndex(index); err == nil {
				one.Interface = link.Name
			}
			out = append(out, one)
		}
	}
	return out, nil
}

// wayOf returns the interface and the gateway of a route: of several ways the first, which is enough to judge.
func wayOf(r netlink.Route) (index int, gateway net.IP) {
	if len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex, r.MultiPath[0].Gw
	}
	return r.LinkIndex, r.Gw
}

func resolver() (Resolver, error) {
	r := Resolver{File: hostnet.DefaultResolvConf}
	r.Link, _ = os.Readlink(r.File)
	text, err := os.ReadFile(r.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		r.Missing = true
	case err != nil:
		return r, err
	}
	r.Servers, r.Writer = readResolvConf(string(text))
	if text, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil {
		r.Resolved = true
		r.Behind, _ = readResolvConf(string(text))
	}
	return r, nil
}

// ways asks where packets to the internet and to the host's resolvers would go.
func ways() ([]direct.Way, error) {
	targets := []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(internet4), 443), netip.AddrPortFrom(netip.MustParseAddr(internet6), 443)}
	if r, err := resolver(); err == nil {
		for _, server := range r.Servers {
			targets = append(targets, netip.AddrPortFrom(server, 53))
		}
	}
	var list []direct.Way
	for _, to := range targets {
		way, err := direct.WayOf(to)
		if err != nil {
			return nil, err
		}
		list = append(list, way)
	}
	return list, nil
}

// sockets returns those that listen on a port of the list, with their programs where this process may see them.
func sockets(ctx context.Context, ports []Port) ([]Socket, error) {
	found := make(map[string]Socket) // by inode
	for _, table := range []struct{ file, network, state string }{
		{"tcp", "tcp", "0A"}, {"tcp6", "tcp", "0A"}, {"udp", "udp", "07"}, {"udp6", "udp", "07"},
	} {
		f, err := os.Open("/proc/thread-self/net/" + table.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6 here
		}
		if err != nil {
			return nil, err
		}
		for lines := bufio.NewScanner(f); lines.Scan(); {
			words := strings.Fields(lines.Text())
			if len(words) < 10 || words[3] != table.state {
				continue
			}
			at, ok := parseSocket(words[1])
			if ok && slices.ContainsFunc(ports, func(p Port) bool { return p.Network == table.network && p.Address.Port() == at.Port() }) {
				found[words[9]] = Socket{Network: table.network, Address: at}
			}
		}
		f.Close()
	}
	if len(found) > 0 {
		nameHolders(ctx, found)
	}
	var list []Socket
	for _, s := range found {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Socket) int { return strings.Compare(a.String(), b.String()) })
	return list, nil
}

// parseSocket reads an address as /proc/net/tcp has it: words of 32 bits in the order of the host, hexadecimal.
func parseSocket(text string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(text, ":")
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil || len(host) != 8 && len(host) != 32 {
		return netip.AddrPort{}, false
	}
	var octets []byte
	for i := 0; i < len(host); i += 8 {
		word, err := strconv.ParseUint(host[i:i+8], 16, 32)
		if err != nil {
			return netip.AddrPort{}, false
		}
		octets = append(octets, nativeWord(uint32(word))...)
	}
	addr, ok := netip.AddrFromSlice(octets)
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), ok
}

// nameHolders finds the programs that hold sockets, by their inodes. Of several that hold one, penstock is named if it is among them: the
// service manager holds its sockets too.
func nameHolders(ctx context.Context, found map[string]Socket) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	us, _ := os.Stat("/proc/self/exe") // nil where it is gone
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || ctx.Err() != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // it has ended, or we may not see it
		}
		for _, f := range files {
			to, err := os.Readlink(filepath.Join(dir, "fd", f.Name()))
			inode, ok := strings.CutPrefix(to, "socket:[")
			if err != nil || !ok {
				continue
			}
			inode = strings.TrimSuffix(inode, "]")
			s, ok := found[inode]
			if !ok {
				continue
			}
			exe, err := os.Stat(filepath.Join(dir, "exe"))
			ours := err == nil && us != nil && os.SameFile(exe, us)
			if s.PID != 0 && !ours {
				continue
			}
			name, _ := os.ReadFile(filepath.Join(dir, "comm"))
			s.Program, s.PID = strings.TrimSpace(string(name)), pid
			if ours {
				s.Program = "penstock" // whatever the file is called
			}
			found[inode] = s
		}
	}
}

// room returns what is free on the file system of a folder, or of the nearest one above that exists.
func room(dir string) (Disk, error) {
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return Disk{Path: dir, Free: s.Bavail * uint64(s.Bsize), Files: s.Ffree, Full: s.Files > 0 && s.Ffree == 0}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return Disk{}, fmt.Errorf("%s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// unit asks systemd for the service.
func unit(ctx context.Context) (Unit, error) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return Unit{}, errors.New("systemd does not run here")
	}
	out, err := exec.CommandContext(ctx, "systemctl", "show", "penstock.service", "--property",
		"LoadState,ActiveState,UnitFileState,NRestarts,Result,ExecMainStatus").Output()
	if err != nil {
		return Unit{}, fmt.Errorf("systemctl show: %w", err)
	}
	return readUnit(string(out)), nil
}
