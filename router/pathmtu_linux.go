package router

import (
	"net"

	"golang.org/x/sys/unix"
)

// socketMTU returns what the kernel knows of the MTU of the path of a connected socket, IP header included, or 0.
func socketMTU(c *net.UDPConn) (mtu int) {
	rc, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_MTU
	if c.RemoteAddr().(*net.UDPAddr).IP.To4() != nil {
		level, option = unix.IPPROTO_IP, unix.IP_MTU
	}
	rc.Control(func(fd uintptr) { mtu, _ = unix.GetsockoptInt(int(fd), level, option) })
	return mtu
}
