package link

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"penstock/router/transport/openvpn/internal/datakey"
	"penstock/stack/nowait"
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
	conn *net.UDPConn
	raw  syscall.RawConn // of conn
	addr netip.AddrPort

	receipt *nowait.Exchange
	in      [udpBatch]nowait.Message
	parts   [udpBatch]unix.Iovec // of in
	buffers [udpBatch][]byte     // of in
	packets [][]byte

	mu       sync.Mutex // guards below
	send     *nowait.Exchange
	out      []nowait.Message
	counts   []int        // how many packets each of out has
	outParts []unix.Iovec // of out
	control  []byte       // of out
	offload  bool         // the kernel cuts up large sends
}

func newUDP(conn *net.UDPConn, addr netip.AddrPort) *udpLink {
	enlargeBuffers(conn)
	raw, _ := conn.SyscallConn() // only nil has none
	l := &udpLink{conn: conn, raw: raw, addr: addr, receipt: nowait.NewReceive(), send: nowait.NewSend(), offload: canSegment(raw)}
	for i := range l.in {
		l.buffers[i] = make([]byte, maxDatagram, maxDatagram+datakey.Tail)
		l.parts[i] = nowait.Part(l.buffers[i])
		l.in[i].SetParts(l.parts[i : i+1])
	}
	return l
}

func (l *udpLink) Remote() netip.AddrPort { return l.addr }

// Stalled is false: what a socket does not take is lost, as any packet can be.
func (l *udpLink) Stalled() bool { return false }

func (l *udpLink) Close() error { return l.conn.Close() }

func (l *udpLink) Read() ([][]byte, error) {
	n, err := l.receipt.Do(l.raw.Read, l.in[:])
	if err != nil {
		return nil, err
	}
	l.packets = l.packets[:0]
	for i := range l.in[:n] {
		l.packets = append(l.packets, l.buffers[i][:l.in[i].N])
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
	l.packLocked(buffers, limit)
	defer clear(l.outParts) // no packet is kept
	for done := 0; done < len(l.out); {
		n, err := l.send.Do(l.raw.Write, l.out[done:])
		if err != nil {
			return sent, err
		}
		for _, count := range l.counts[done : done+n] {
			sent += count
		}
		done += n
	}
	return sent, nil
}

// packLocked joins runs of equal packets, of which the last may be shorter, into one message each.
func (l *udpLink) packLocked(buffers [][]byte, limit int) {
	l.out, l.counts, l.outParts = l.out[:0], l.counts[:0], l.outParts[:0]
	for _, b := range buffers {
		l.outParts = append(l.outParts, nowait.Part(b[Head:]))
	}
	l.control = slices.Grow(l.control[:0], len(buffers)*nowait.CutBytes())
	for first := 0; first < len(buffers); {
		count := runOf(buffers[first:], limit)
		var m nowait.Message
		m.SetParts(l.outParts[first : first+count])
		if count > 1 {
			start := len(l.control)
			l.control = nowait.AppendCut(l.control, len(buffers[first])-Head)
			m.SetOOB(l.control[start:])
		}
		l.out, l.counts = append(l.out, m), append(l.counts, count)
		first += count
	}
}

// runOf returns how many of the first packets, up to limit, are of one size, but for the last, which may be shorter.
func runOf(buffers [][]byte, limit int) int {
	size := len(buffers[0]) - Head
	total := size
	for n, b := range buffers[1:min(len(buffers), limit)] {
		last := len(b) - Head
		if total += last; last > size || total > maxSegmentBytes {
			return n + 1
		}
		if last < size {
			return n + 2
		}
	}
	return min(len(buffers), limit)
}

func (l *udpLink) Post(buffer []byte) error {
	_, err := l.conn.Write(buffer[Head:])
	return err
}

// canSegment reports whether the system cuts one large send into datagrams (UDP_SEGMENT, since Linux 4.18).
func canSegment(raw syscall.RawConn) bool {
	ok := false
	err := raw.Control(func(fd uintptr) {
		_, err := syscall.GetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT)
		ok = err == nil
	})
	return err == nil && ok
}
