package pathmon

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// events receives a value whenever something changed that a path may depend on.
type events struct {
	changed chan struct{} // of size 1: any number of changes is one
	socket  *os.File
	wg      sync.WaitGroup
}

// listen listens for changes of links, addresses, routes and rules.
func listen(f filter) (*events, error) {
	bit := func(group int) uint32 { return 1 << (group - 1) }
	groups := bit(unix.RTNLGRP_LINK) | bit(unix.RTNLGRP_IPV4_IFADDR) | bit(unix.RTNLGRP_IPV6_IFADDR) |
		bit(unix.RTNLGRP_IPV4_ROUTE) | bit(unix.RTNLGRP_IPV6_ROUTE) | bit(unix.RTNLGRP_IPV4_RULE) | bit(unix.RTNLGRP_IPV6_RULE)
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	e := &events{changed: make(chan struct{}, 1), socket: os.NewFile(uintptr(fd), "netlink")}
	e.wg.Go(func() { e.read(f) })
	return e, nil
}

// read ends when the socket is closed. Lost messages count as a change.
func (e *events) read(f filter) {
	buf := make([]byte, 1<<16)
	for {
		n, err := e.socket.Read(buf)
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		if err == nil && !f.anyMatters(buf[:n]) {
			continue
		}
		select {
		case e.changed <- struct{}{}:
		default:
		}
	}
}

func (e *events) close() {
	e.socket.Close()
	e.wg.Wait()
}

// filter leaves out our own changes.
type filter struct {
	tun      string // our own interface
	index    int    // its index; 0 if not known
	protocol int    // of our own routes and rules
}

// anyMatters reports whether one of the messages is about another change than our own. What cannot be read matters.
func (f *filter) anyMatters(b []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return true
	}
	for _, m := range messages {
		if f.matters(m.Header.Type, m.Data) {
			return true
		}
	}
	return false
}

// matters reports the same about the body of one message, which is a fixed header and attributes.
func (f *filter) matters(kind uint16, b []byte) bool {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(b) < unix.SizeofIfInfomsg {
			return true
		}
		index := int(int32(binary.NativeEndian.Uint32(b[4:])))
		name, _ := attribute(b[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)
		if f.tun == "" || unix.ByteSliceToString(name) != f.tun {
			return true
		}
		f.index = index // a device that was made again has another
		return false
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return len(b) < unix.SizeofIfAddrmsg || !f.isTUN(binary.NativeEndian.Uint32(b[4:]))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(b) < unix.SizeofRtMsg {
			return true
		}
		if f.protocol != 0 && int(b[5]) == f.protocol {
			return false
		}
		out, ok := attribute(b[unix.SizeofRtMsg:], unix.RTA_OIF)
		return !ok || len(out) != 4 || !f.isTUN(binary.NativeEndian.Uint32(out))
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		if len(b) < unix.SizeofRtMsg { // struct fib_rule_hdr is as long
			return true
		}
		origin, ok := attribute(b[unix.SizeofRtMsg:], unix.FRA_PROTOCOL)
		return !ok || len(origin) != 1 || f.protocol == 0 || int(origin[0]) != f.protocol
	}
	return false
}

func (f *filter) isTUN(index uint32) bool { return f.index != 0 && uint32(f.index) == index }

// nlaTypeMask removes the flags from an attribute's type (linux/netlink.h).
const nlaTypeMask = 0x3fff

// attribute returns the value of an attribute.
func attribute(b []byte, kind uint16) ([]byte, bool) {
	const head = unix.SizeofRtAttr
	for len(b) >= head {
		n := int(binary.NativeEndian.Uint16(b))
		if n < head || n > len(b) {
			return nil, false
		}
		if binary.NativeEndian.Uint16(b[2:])&nlaTypeMask == kind {
			return b[head:n], true
		}
		b = b[min(len(b), (n+3)&^3):]
	}
	return nil, false
}
