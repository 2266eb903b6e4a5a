package direct

import (
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
)

func TestControlLeavesOtherBitsOfTheMark(t *testing.T) {
	if !hosttest.InNamespaces(t) {
		return
	}
	const theirs, ours, mask = 0x2, 0x1000000, 0x3000000
	got := 0
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		hosttest.Must(t, onSocket(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, 0x2000000|theirs) }))
		hosttest.Must(t, onSocket(c, func(fd int) error { return setMark(fd, ours, mask) }))
		return onSocket(c, func(fd int) (err error) {
			got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
			return err
		})
	}}
	pc, err := lc.ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	hosttest.Must(t, err)
	hosttest.Must(t, pc.Close())
	if want := ours | theirs; got != want {
		t.Errorf("mark: got %#x, want %#x", got, want)
	}
}
