package program

import (
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Find returns the program that sends from local to remote through a socket of this machine. network is "tcp" or "udp".
// With withPath it searches /proc, which takes longer and needs the right to see other users' processes. The error wraps
// fs.ErrNotExist if there is no such socket.
func Find(network string, local, remote netip.AddrPort, withPath bool) (Program, error) {
	socket, err := findSocket(network, local, remote)
	if err != nil {
		return Program{}, fmt.Errorf("find the program that sends from %s to %s: %w", local, remote, err)
	}
	p := Program{UID: socket.UID}
	if withPath {
		p.Path = holderOf(socket)
	}
	return p, nil
}

// findSocket searches all of the kernel's sockets: a filtered dump compares ports alone, and nothing for datagrams.
func findSocket(network string, local, remote netip.AddrPort) (*netlink.Socket, error) {
	dump := netlink.SocketDiagTCP
	if network == "udp" {
		dump = netlink.SocketDiagUDP
	}
	families := []uint8{unix.AF_INET6}
	if local.Addr().Is4() {
		families = []uint8{unix.AF_INET, unix.AF_INET6} // IPv6 sockets may speak IPv4
	}
	var best *netlink.Socket
	score := 0
	for _, family := range families {
		sockets, err := dump(family)
		if err != nil {
			return nil, err
		}
		for _, s := range sockets {
			if n := likeness(s, local, remote); n > score {
				best, score = s, n
			}
		}
	}
	if best == nil {
		return nil, fs.ErrNotExist
	}
	return best, nil
}

// likeness says how well a socket fits a flow: 0 is not at all; connected and bound sockets fit better than open ones.
func likeness(s *netlink.Socket, local, remote netip.AddrPort) int {
	if s.ID.SourcePort != local.Port() {
		return 0
	}
	n := 1
	switch source := addrOf(s.ID.Source); {
	case source == local.Addr():
		n += 2
	case !source.IsUnspecified():
		return 0
	}
	switch {
	case s.ID.DestinationPort == remote.Port() && addrOf(s.ID.Destination) == remote.Addr():
		n += 4
	case s.ID.DestinationPort != 0:
		return 0
	}
	return n
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip) // the kernel's are valid
	return a.Unmap()
}

// holderOf finds a process of the socket's owner that holds it.
func holderOf(s *netlink.Socket) string {
	link := fmt.Sprintf("socket:[%d]", s.INode)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return ""
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if info, err := os.Stat(dir); err != nil || info.Sys().(*syscall.Stat_t).Uid != s.UID {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // it has ended, or we may not see it
		}
		for _, f := range files {
			if to, err := os.Readlink(filepath.Join(dir, "fd", f.Name())); err == nil && to == link {
				path, err := os.Readlink(filepath.Join(dir, "exe"))
				if err == nil {
					return path
				}
			}
		}
	}
	return ""
}
