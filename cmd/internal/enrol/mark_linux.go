package enrol

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// marked returns what sets the mark of a listening socket, which its connections inherit: it keeps their packets out of our own TUN.
func marked(mark uint32) func(network, address string, c syscall.RawConn) error {
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
