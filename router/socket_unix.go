//go:build unix

package router

import (
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	largestDatagram = 64 << 10
	// mostTogether is how many datagrams are passed on together, at most.
	mostTogether = 64
)

// together is room for datagrams that have come together.
type together struct {
	buf  [2 * largestDatagram]byte
	list [][]byte
}

var togetherPool = sync.Pool{New: func() any { return new(together) }}

// eachFromSocket passes the datagrams of a kernel socket to send, those together that have come. It needs no buffer while it waits.
func eachFromSocket(c net.Conn, send func([][]byte) error) (handled bool, err error) {
	u, ok := c.(*net.UDPConn)
	if !ok {
		return false, nil
	}
	rc, err := u.SyscallConn()
	if err != nil {
		return true, err
	}
	take := func(fd uintptr) (over bool) {
		b := togetherPool.Get().(*together)
		defer togetherPool.Put(b)
		for {
			var n int
			if n, err = b.fill(int(fd)); n > 0 {
				if sendErr := send(b.list); sendErr != nil {
					err = sendErr
				}
			}
			switch {
			case err == unix.EAGAIN:
				err = nil
				return false
			case err != nil:
				return true
			}
		}
	}
	for {
		if waitErr := rc.Read(take); waitErr != nil {
			return true, waitErr
		}
		if err != nil {
			return true, err
		}
	}
}

// fill receives what there is, as far as there is room. The error says why there is no more; EAGAIN: none has come yet.
func (b *together) fill(fd int) (n int, err error) {
	b.list = b.list[:0]
	for free := b.buf[:]; len(free) >= largestDatagram && len(b.list) < mostTogether; {
		size, _, err := unix.Recvfrom(fd, free, unix.MSG_DONTWAIT)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return len(b.list), err
		default:
			return len(b.list), os.NewSyscallError("recvfrom", err)
		}
		b.list = append(b.list, free[:size:size])
		free = free[size:]
	}
	return len(b.list), nil
}
