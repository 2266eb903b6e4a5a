package hostnet

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// events receives a value whenever something about the host's network changed.
type events struct {
	changed  chan struct{} // of size 1: any number of changes is one
	complete bool          // the kernel announces changes of nftables too
	sockets  []*os.File
	wg       sync.WaitGroup
}

// listenAll listens for changes of links, addresses, routes, rules and, where the kernel has it, nftables.
func listenAll() (*events, error) {
	bit := func(group int) uint32 { return 1 << (group - 1) }
	e := &events{changed: make(chan struct{}, 1)}
	err := e.listen(unix.NETLINK_ROUTE, bit(unix.RTNLGRP_LINK)|bit(unix.RTNLGRP_IPV4_IFADDR)|bit(unix.RTNLGRP_IPV6_IFADDR)|
		bit(unix.RTNLGRP_IPV4_ROUTE)|bit(unix.RTNLGRP_IPV6_ROUTE)|bit(unix.RTNLGRP_IPV4_RULE)|bit(unix.RTNLGRP_IPV6_RULE)|
		bit(unix.RTNLGRP_IPV4_NETCONF)|bit(unix.RTNLGRP_IPV6_NETCONF)) // rp_filter and forwarding of each interface
	if err != nil {
		return nil, err
	}
	e.complete = e.listen(unix.NETLINK_NETFILTER, bit(unix.NFNLGRP_NFTABLES)) == nil
	return e, nil
}

func (e *events) listen(protocol int, groups uint32) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return os.NewSyscallError("bind", err)
	}
	socket := os.NewFile(uintptr(fd), "netlink")
	e.sockets = append(e.sockets, socket)
	e.wg.Go(func() { e.read(socket) })
	return nil
}

// read ends when the socket is closed. A full buffer means changes too.
func (e *events) read(socket *os.File) {
	buf := make([]byte, 1<<16)
	for {
		if _, err := socket.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		select {
		case e.changed <- struct{}{}:
		default:
		}
	}
}

func (e *events) close() {
	for _, s := range e.sockets {
		s.Close()
	}
	e.wg.Wait()
}
