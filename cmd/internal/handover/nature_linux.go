package handover

import (
	"net/netip"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// natureOf asks the kernel what a socket is, and for its port.
func natureOf(socket any) (n nature, port uint16, err error) {
	err = control(socket, func(fd uintptr) error {
		n, port, err = read(int(fd))
		return err
	})
	return n, port, err
}

func read(fd int) (n nature, port uint16, err error) {
	at, err := unix.Getsockname(fd)
	if err != nil {
		return n, 0, err
	}
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		n.addr, port = netip.AddrFrom4(at.Addr), uint16(at.Port)
	case *unix.SockaddrInet6:
		n.addr, port = netip.AddrFrom16(at.Addr), uint16(at.Port)
		if at.ZoneId != 0 {
			n.addr = n.addr.WithZone(strconv.FormatUint(uint64(at.ZoneId), 10))
		}
		v, err := unix.GetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY)
		if err != nil {
			return n, 0, err
		}
		n.onlyIPv6 = v != 0
	default:
		return n, 0, unix.EAFNOSUPPORT
	}
	var listens, sharesAddr, sharesPort int
	for _, o := range []struct {
		option int
		to     *int
	}{
		{unix.SO_DOMAIN, &n.domain}, {unix.SO_TYPE, &n.kind}, {unix.SO_PROTOCOL, &n.protocol}, {unix.SO_MARK, &n.mark},
		{unix.SO_ACCEPTCONN, &listens}, {unix.SO_REUSEADDR, &sharesAddr}, {unix.SO_REUSEPORT, &sharesPort},
	} {
		if *o.to, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, o.option); err != nil {
			return n, 0, err
		}
	}
	n.listens, n.sharesAddr, n.sharesPort = listens != 0, sharesAddr != 0, sharesPort != 0
	n.device, err = unix.GetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	return n, port, err
}

// Marked returns what sets the mark of a socket that listens, for a net.ListenConfig: it keeps packets out of our own TUN. Connections
// inherit it. 0: nil, no mark.
func Marked(mark uint32) func(network, address string, c syscall.RawConn) error {
	if mark == 0 {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(mark)) })
		if err != nil {
			return err
		}
		return failed
	}
}
