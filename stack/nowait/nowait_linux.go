package nowait

import (
	"sync/atomic"
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

// Vectors reads and writes descriptors that are no sockets. Its methods may be called by several goroutines at once.
type Vectors struct {
	// Shared says that another process may have the descriptor too, and clear its O_NONBLOCK: the kernel is told for each call not to wait.
	Shared bool
	cannot atomic.Bool // the kernel cannot be told (before 6.5, for a TUN)
}

// Read is readv for parts made by Part, of which there may be MaxParts. It does not return EINTR.
func (v *Vectors) Read(fd int, parts []unix.Iovec) (int, error) {
	return v.call(unix.SYS_READV, unix.SYS_PREADV2, fd, parts)
}

// Write is writev for parts as those of Read. It does not return EINTR.
func (v *Vectors) Write(fd int, parts []unix.Iovec) (int, error) {
	return v.call(unix.SYS_WRITEV, unix.SYS_PWRITEV2, fd, parts)
}

func (v *Vectors) call(plain, flagged uintptr, fd int, parts []unix.Iovec) (int, error) {
	if !v.Shared {
		return again(func() (uintptr, uintptr, unix.Errno) {
			return unix.RawSyscall(plain, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))), uintptr(len(parts)))
		})
	}
	if !v.cannot.Load() {
		n, err := again(func() (uintptr, uintptr, unix.Errno) {
			const here = ^uintptr(0) // each half of an offset of -1
			return unix.RawSyscall6(flagged, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))), uintptr(len(parts)), here, here, unix.RWF_NOWAIT)
		})
		if err != unix.EOPNOTSUPP && err != unix.ENOSYS {
			return n, err
		}
		v.cannot.Store(true)
	}
	return again(func() (uintptr, uintptr, unix.Errno) { // it may wait, so the scheduler is told
		return unix.Syscall(plain, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(parts))), uintptr(len(parts)))
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
