package nowait

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Receive reads from a socket. It does not return EINTR.
func Receive(fd int, b []byte) (int, error) { return receive(fd, b, unix.MSG_DONTWAIT) }

// Peek is Receive that leaves in the socket what it reads.
func Peek(fd int, b []byte) (int, error) { return receive(fd, b, unix.MSG_DONTWAIT|unix.MSG_PEEK) }

func receive(fd int, b []byte, flags uintptr) (int, error) {
	return again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	})
}

// Send writes parts made by Part to a socket, of which there may be MaxParts. It does not return EINTR.
func Send(fd int, parts []unix.Iovec) (int, error) {
	var m unix.Msghdr
	m.Iov = unsafe.SliceData(parts)
	m.SetIovlen(len(parts))
	return again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
}

// Readable returns how many bytes wait in a socket.
func Readable(fd int) (n int, err error) {
	var waiting int32
	_, err = again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCINQ, uintptr(unsafe.Pointer(&waiting)))
	})
	return int(waiting), err
}

// Readv is readv for parts made by Part. It does not return EINTR.
func Readv(fd int, parts []unix.Iovec) (int, error) {
	return again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall(unix.SYS_READV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))), uintptr(len(parts)))
	})
}

// Writev is writev for parts made by Part, of which there may be MaxParts. It does not return EINTR.
func Writev(fd int, parts []unix.Iovec) (int, error) {
	return again(func() (uintptr, uintptr, unix.Errno) {
		return unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))), uintptr(len(parts)))
	})
}

// MaxParts is how many parts a call takes (IOV_MAX).
const MaxParts = 1024

// Part returns b as the kernel takes it. It keeps b alive.
func Part(b []byte) (p unix.Iovec) {
	p.Base = unsafe.SliceData(b)
	p.SetLen(len(b))
	return p
}

// again makes a call until no signal interrupts it.
func again(call func() (uintptr, uintptr, unix.Errno)) (int, error) {
	for {
		switch n, _, errno := call(); errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
