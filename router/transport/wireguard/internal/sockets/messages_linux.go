package sockets

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is a struct mmsghdr: a datagram, and how many bytes of it were read.
type message struct {
	unix.Msghdr
	bytes uint32
}

func (m *message) setParts(parts []unix.Iovec) { m.Iov = &parts[0]; m.SetIovlen(len(parts)) }

func (m *message) setControl(control []byte) {
	m.Control = nil
	if len(control) > 0 {
		m.Control = &control[0]
	}
	m.SetControllen(len(control))
}

// sockaddr is a struct sockaddr_in or sockaddr_in6 {uint16 family; uint16 port; in_addr addr} or {...; uint32 flow; in6_addr addr;
// uint32 scope}. Port and address are in network order.
type sockaddr [unix.SizeofSockaddrInet6]byte

// sockaddrOf returns an address as the kernel takes it, and its size.
func sockaddrOf(a netip.AddrPort) (s sockaddr, size uint32) {
	binary.BigEndian.PutUint16(s[2:], a.Port())
	if addr := a.Addr(); addr.Is4() {
		binary.NativeEndian.PutUint16(s[:], unix.AF_INET)
		copy(s[4:], addr.AsSlice())
		return s, unix.SizeofSockaddrInet4
	}
	binary.NativeEndian.PutUint16(s[:], unix.AF_INET6)
	copy(s[8:], a.Addr().AsSlice())
	binary.NativeEndian.PutUint32(s[24:], scopeOf(a.Addr().Zone()))
	return s, unix.SizeofSockaddrInet6
}

// addr returns the address, an IPv4 address in its IPv4 form. It is the zero AddrPort for another family.
func (s *sockaddr) addr() netip.AddrPort {
	port := binary.BigEndian.Uint16(s[2:])
	switch binary.NativeEndian.Uint16(s[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(s[4:8])), port)
	case unix.AF_INET6:
		addr := netip.AddrFrom16([16]byte(s[8:24])).Unmap()
		return netip.AddrPortFrom(addr.WithZone(zoneOf(binary.NativeEndian.Uint32(s[24:]))), port) // nothing for an IPv4 address
	}
	return netip.AddrPort{}
}

// scopeOf returns the index of the interface of a zone, or 0.
func scopeOf(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if link, err := net.InterfaceByName(zone); err == nil {
		return uint32(link.Index)
	}
	index, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(index)
}

// zoneOf is the reverse of scopeOf.
func zoneOf(scope uint32) string {
	if scope == 0 {
		return ""
	}
	if link, err := net.InterfaceByIndex(int(scope)); err == nil {
		return link.Name
	}
	return strconv.FormatUint(uint64(scope), 10)
}

// exchange is a call of sendmmsg or recvmmsg that is made again when the socket is ready. It stays where it is, so that the functions
// that the runtime calls are made but once.
//
// The call is a RawSyscall, which the scheduler is not told of. It does not wait, because the socket does not block. What is not a
// RawSyscall wakes a thread of the runtime that looks every 20 µs whether it is over, and that took 8 % of the time of a gateway with many
// short connections.
type exchange struct {
	trap     uintptr // unix.SYS_SENDMMSG or unix.SYS_RECVMMSG
	name     string  // of the call
	messages []message
	n        int
	errno    syscall.Errno
	call     func(fd uintptr) bool // x.once
}

func newExchange(trap uintptr, name string) *exchange {
	x := &exchange{trap: trap, name: name}
	x.call = x.once
	return x
}

func (x *exchange) once(fd uintptr) (over bool) {
	for {
		n, _, errno := unix.RawSyscall6(x.trap, fd, uintptr(unsafe.Pointer(&x.messages[0])), uintptr(len(x.messages)), 0, 0, 0)
		if errno == unix.EINTR {
			continue
		}
		x.n, x.errno = int(n), errno
		return errno != unix.EAGAIN
	}
}

// by waits until some messages have been exchanged, at least one, and returns how many.
func (x *exchange) by(wait func(func(fd uintptr) bool) error, messages []message) (int, error) {
	x.messages = messages
	err := wait(x.call)
	x.messages = nil
	switch {
	case err != nil:
		return 0, err
	case x.errno != 0:
		return 0, &net.OpError{Op: x.name, Net: "udp", Err: os.NewSyscallError(x.name, x.errno)}
	}
	return x.n, nil
}
