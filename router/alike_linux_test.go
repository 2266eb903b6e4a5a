package router

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/stack/link"
)

// TestAlikePendingTooBig: the kernel tells a socket once that the path of an earlier datagram is narrow, in place of sending. Whoever
// sends several together tells it on, and sends the next together again if they fit.
func TestAlikePendingTooBig(t *testing.T) {
	conn, _ := narrow(t, 1280)
	a := alike{conn: conn}
	list := [][]byte{make([]byte, 100), make([]byte, 100), make([]byte, 50)}
	if n, err := a.send(list); n != 3 || !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("the first send: %d, %v, want all, and that the path is narrow", n, err)
	}
	large := [][]byte{make([]byte, 1300), make([]byte, 1300)}
	if n, err := a.send(large); n != 0 || !errors.Is(err, syscall.EMSGSIZE) {
		t.Errorf("datagrams that need fragments: %d, %v, want none, and that the path is narrow", n, err)
	}
	if n, err := a.send(large); n != 0 || err != nil {
		t.Errorf("the same once more: %d, %v, want that nothing is tried", n, err)
	}
	if n, err := a.send(list); n != 3 || err != nil {
		t.Errorf("short ones after them: %d, %v, want all", n, err)
	}
}

// oneList is a flow that gives some datagrams together, and ends.
type oneList struct {
	net.Conn
	list [][]byte
}

func (o oneList) Each(f func([][]byte) error) error { return errors.Join(f(o.list), io.EOF) }

// TestANarrowPathIsToldAndNothingIsLost: nor does anything leave twice.
func TestANarrowPathIsToldAndNothingIsLost(t *testing.T) {
	near, far := narrow(t, 1280)
	list := [][]byte{[]byte("one"), []byte("two"), []byte("3"), make([]byte, 1300), make([]byte, 1300), []byte("last")}
	told := 0
	n, err := copyDatagrams(near, oneList{list: list}, func(err error) bool {
		told++
		return errors.Is(err, syscall.EMSGSIZE)
	})
	if n != int64(len(list)) || !errors.Is(err, io.EOF) || told == 0 {
		t.Errorf("got %d datagrams, %v, and were told %d times of a narrow path, want %d, and at least once", n, err, told, len(list))
	}
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 2048)
	for _, want := range list {
		if n, err := far.Read(b); err != nil || !bytes.Equal(b[:n], want) {
			t.Fatalf("got %d bytes, %v, want %d", n, err, len(want))
		}
	}
	far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := far.Read(b); err == nil {
		t.Errorf("%d bytes came twice", n)
	}
}

// narrow is a socket that the kernel has an ICMP error for: a router could not pass on one of its datagrams. far is who it sends to, at an
// address that nobody else uses: the kernel remembers for ten minutes that the path is narrow.
func narrow(t *testing.T, mtu int) (near, far *net.UDPConn) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_NET_RAW")
	} else if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if far, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 77, 66, 55)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	if near, err = net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	from, to := near.LocalAddr().(*net.UDPAddr).AddrPort(), far.LocalAddr().(*net.UDPAddr).AddrPort()
	b := []byte{
		3, 4, 0, 0, 0, 0, 0, 0, // fragmentation needed
		0x45, 0, 0x7, 0, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0, // and the packet
	}
	binary.BigEndian.PutUint16(b[6:], uint16(mtu))
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = append(b, 0x6, 0xec, 0, 0)
	binary.BigEndian.PutUint16(b[2:], link.Checksum(b, 0))
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: from.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(5 * time.Second); !isTold(t, near); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the socket has no error")
		}
	}
	return near, far
}

// isTold reports whether an error waits for a socket, which it leaves there.
func isTold(t *testing.T, c *net.UDPConn) (told bool) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}}
		_, err = unix.Poll(p, 0)
		told = p[0].Revents&unix.POLLERR != 0
	}); err != nil {
		t.Fatal(err)
	}
	return told
}
