package router

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"penstock/stack/nowait"
)

// alike sends datagrams of one size, and a shorter last one, with one call, and the kernel cuts them (UDP_SEGMENT, since Linux 4.18).
// One goroutine uses it.
type alike struct {
	conn    *net.UDPConn
	raw     syscall.RawConn // nil before the first
	tooLong int             // so many bytes need fragments; 0: that is not known
}

// mostAlike are the most datagrams of one call: a kernel takes no more (UDP_MAX_SEGMENTS before Linux 6.9).
const mostAlike = 64

// send sends the first of the list that can leave together, and returns how many they are. If it returns 0, none has left, and the first
// has to be sent by itself. The error, which may come with either, is one that the kernel reports once, in place of sending.
func (a *alike) send(list [][]byte) (n int, err error) {
	if n = a.count(list); n < 2 {
		return 0, nil
	}
	if a.raw == nil {
		if a.raw, err = a.conn.SyscallConn(); err != nil {
			return 0, err
		}
	}
	size := len(list[0])
	failed, err := a.sendCut(list[:n], size)
	if failed == unix.EMSGSIZE { // it may be about an earlier datagram: an ICMP error has said that the path is narrow
		told := os.NewSyscallError("sendmsg", failed)
		if failed, err = a.sendCut(list[:n], size); err == nil && failed == nil {
			return n, told
		} else if failed == unix.EMSGSIZE {
			a.tooLong = size
			return 0, told
		}
	}
	switch {
	case err != nil:
		return 0, err
	case failed == nil:
		return n, nil
	case failed == unix.EINVAL:
		a.tooLong = size // for the path, on an older kernel, or it does not know the option
	case failed == unix.EIO:
		a.tooLong = 1 // the interface cannot finish checksums
	default:
		return 0, os.NewSyscallError("sendmsg", failed)
	}
	return 0, nil
}

// sendCut sends a list as datagrams of size bytes. failed is the kernel's error.
func (a *alike) sendCut(list [][]byte, size int) (failed, err error) {
	oob := nowait.AppendCut(nil, size)
	err = a.raw.Write(func(fd uintptr) bool {
		_, failed = unix.SendmsgBuffers(int(fd), list, oob, nil, unix.MSG_DONTWAIT)
		return failed != unix.EAGAIN
	})
	return failed, err
}

// count returns how many of the first datagrams can leave together.
func (a *alike) count(list [][]byte) int {
	const mostBytes = 65507
	size, total := len(list[0]), 0
	if size == 0 || a.tooLong > 0 && size >= a.tooLong {
		return 1
	}
	for i, b := range list[:min(len(list), mostAlike)] {
		if len(b) == 0 || len(b) > size || total+len(b) > mostBytes {
			return i
		}
		total += len(b)
		if len(b) < size {
			return i + 1
		}
	}
	return min(len(list), mostAlike)
}
