package openvpn

import (
	"net"
	"syscall"
	"unsafe"
)

// Linux, include/uapi/linux/udp.h.
const (
	solUDP     = 17
	udpSegment = 103
)

// canSegment reports whether the system cuts one large send into datagrams (UDP_SEGMENT, since Linux 4.18).
func canSegment(conn *net.UDPConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		_, err := syscall.GetsockoptInt(int(fd), solUDP, udpSegment)
		ok = err == nil
	})
	return err == nil && ok
}

// segmentControl appends the control message that asks for datagrams of size bytes.
func segmentControl(b []byte, size int) []byte {
	start := len(b)
	b = append(b, make([]byte, syscall.CmsgSpace(2))...)
	head := (*syscall.Cmsghdr)(unsafe.Pointer(&b[start]))
	head.Level, head.Type = solUDP, udpSegment
	head.SetLen(syscall.CmsgLen(2))
	*(*uint16)(unsafe.Pointer(&b[start+syscall.CmsgLen(0)])) = uint16(size)
	return b
}
