//go:build unix

package router

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// eachFromSocket passes each datagram of a kernel socket to send. It needs no buffer while it waits.
func eachFromSocket(c net.Conn, send func([]byte) error) (handled bool, err error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return false, nil
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return true, err
	}
	var recvErr, sendErr error
	take := func(fd uintptr) bool {
		buf := bufferPool.Get().(*[]byte)
		defer bufferPool.Put(buf)
		for {
			n, _, err := unix.Recvfrom(int(fd), *buf, unix.MSG_DONTWAIT)
			switch err {
			case nil:
			case unix.EINTR:
				continue
			case unix.EAGAIN:
				return false
			default:
				recvErr = os.NewSyscallError("recvfrom", err)
				return true
			}
			if sendErr = send((*buf)[:n]); sendErr != nil {
				return true
			}
		}
	}
	for {
		if err := rc.Read(take); err != nil {
			return true, err
		}
		if recvErr != nil {
			return true, recvErr
		}
		if sendErr != nil {
			return true, sendErr
		}
	}
}
