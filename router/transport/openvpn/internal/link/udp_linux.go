package link

import (
	"net"
	"net/netip"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/net/ipv4"

	"penstock/router/transport/openvpn/internal/datakey"
)

const (
	udpBatch = 64

	// What one send may hand to the kernel to cut up: UDP_MAX_SEGMENTS and the size of an IP packet.
	maxSegments     = 64
	maxSegmentBytes = 65000
)

// udpLink is a connected UDP socket that is read and written in batches: recvmmsg, sendmmsg, and segmentation offload for
// runs of equal packets, which a bulk transfer is.
type udpLink struct {
	conn  *net.UDPConn
	batch *ipv4.PacketConn // works for IPv6 sockets as well: no address is given
	addr  netip.AddrPort

	in      []ipv4.Message
	packets [][]byte

	mu      sync.Mutex // guards below
	out     []ipv4.Message
	offload bool // the kernel cuts up large sends
}

func newUDP(conn *net.UDPConn, addr netip.AddrPort) *udpLink {
	enlargeBuffers(conn)
	l := &udpLink{conn: conn, batch: ipv4.NewPacketConn(conn), addr: addr, in: make([]ipv4.Message, udpBatch), offload: canSegment(conn)}
	for i := range l.in {
		l.in[i].Buffers = [][]byte{make([]byte, maxDatagram, maxDatagram+datakey.Tail)}
	}
	return l
}

func (l *udpLink) Remote() netip.AddrPort { return l.addr }

// Stalled is false: what a socket does not take is lost, as any packet can be.
func (l *udpLink) Stalled() bool { return false }

func (l *udpLink) Close() error { return l.conn.Close() }

func (l *udpLink) Read() ([][]byte, error) {
	n, err := l.batch.ReadBatch(l.in, 0)
	if err != nil {
		return nil, err
	}
	l.packets = l.packets[:0]
	for i := range l.in[:n] {
		l.packets = append(l.packets, l.in[i].Buffers[0][:l.in[i].N])
	}
	return l.packets, nil
}

func (l *udpLink) Write(buffers [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.offload {
		sent, err := l.sendLocked(buffers, maxSegments)
		if err == nil {
			return nil
		}
		// The path's MTU may be below what is cut, or the device without checksums (EINVAL, EIO): single packets go anyway.
		l.offload = false
		buffers = buffers[sent:]
	}
	sent, err := l.sendLocked(buffers, 1)
	if err == nil || sent == len(buffers) {
		return err
	}
	// An error may be of an earlier packet (ECONNREFUSED), in place of which this one was not sent.
	_, _ = l.sendLocked(buffers[sent:], 1)
	return err
}

// sendLocked sends packets in runs of up to limit, and returns how many went out.
func (l *udpLink) sendLocked(buffers [][]byte, limit int) (sent int, err error) {
	out := l.packLocked(buffers, limit)
	for len(out) > 0 {
		n, err := l.batch.WriteBatch(out, 0)
		if err != nil {
			return sent, err
		}
		for _, m := range out[:n] {
			sent += len(m.Buffers)
		}
		out = out[n:]
	}
	return sent, nil
}

// packLocked joins runs of equal packets, of which the last may be shorter, into one message each.
func (l *udpLink) packLocked(buffers [][]byte, limit int) []ipv4.Message {
	used, run, total := 0, 0, 0 // run is the packet size of the last message, 0 if it is complete
	for _, b := range buffers {
		packet := b[Head:]
		size := len(packet)
		if used > 0 && run > 0 && size <= run && len(l.out[used-1].Buffers) < limit && total+size <= maxSegmentBytes {
			m := &l.out[used-1]
			m.Buffers = append(m.Buffers, packet)
			m.OOB = segmentControl(m.OOB[:0], run)
			if total += size; size < run {
				run = 0
			}
			continue
		}
		if used == len(l.out) {
			l.out = append(l.out, ipv4.Message{})
		}
		m := &l.out[used]
		m.Buffers, m.OOB = append(m.Buffers[:0], packet), m.OOB[:0]
		used++
		run, total = size, size
	}
	return l.out[:used]
}

func (l *udpLink) Post(buffer []byte) error {
	_, err := l.conn.Write(buffer[Head:])
	return err
}

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
