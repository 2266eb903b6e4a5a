package direct

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/hosttest"
)

// TestTheQueueOfASocketOnlyGrows: hosts that carry much have larger buffers for every socket (net.core.rmem_default).
func TestTheQueueOfASocketOnlyGrows(t *testing.T) {
	d, err := NewDialer(Config{})
	hosttest.Must(t, err)
	defer func() { hosttest.Must(t, d.Close()) }()
	for _, row := range []struct{ has, want int }{
		{64 << 10, 2 * datagramQueue},
		{8 << 20, 2 * 8 << 20},
	} {
		got := 0
		lc := net.ListenConfig{Control: func(network, address string, c syscall.RawConn) error {
			err := onSocket(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, row.has) })
			if errors.Is(err, unix.EPERM) {
				t.Skip("needs CAP_NET_ADMIN")
			}
			hosttest.Must(t, errors.Join(err, d.controlDatagrams(network, address, c)))
			return onSocket(c, func(fd int) (err error) {
				got, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
				return err
			})
		}}
		pc, err := lc.ListenPacket(t.Context(), "udp4", "127.0.0.1:0")
		hosttest.Must(t, err)
		hosttest.Must(t, pc.Close())
		if got != row.want {
			t.Errorf("a socket with a queue of %d bytes: got %d, want %d", 2*row.has, got, row.want)
		}
	}
}
