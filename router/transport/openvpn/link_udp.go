package openvpn

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/ipv4"

	"penstock/router/transport/openvpn/internal/datakey"
)

const (
	udpBatch    = 64
	maxDatagram = 2048    // bytes: the server is told that our MTU ends at 1600
	socketBytes = 4 << 20 // asked for; the system may give less
)

// udpLink is a connected UDP socket that is read and written in batches where the system can (Linux: recvmmsg, sendmmsg).
type udpLink struct {
	conn  *net.UDPConn
	batch *ipv4.PacketConn // works for IPv6 sockets as well: no address or option is given
	addr  netip.AddrPort

	in      []ipv4.Message
	packets [][]byte

	mu  sync.Mutex // guards below
	out []ipv4.Message
}

func newUDPLink(conn *net.UDPConn, addr netip.AddrPort) *udpLink {
	_ = conn.SetReadBuffer(socketBytes) // more is better, less works
	_ = conn.SetWriteBuffer(socketBytes)
	l := &udpLink{conn: conn, batch: ipv4.NewPacketConn(conn), addr: addr, in: make([]ipv4.Message, udpBatch)}
	for i := range l.in {
		l.in[i].Buffers = [][]byte{make([]byte, maxDatagram, maxDatagram+datakey.Tail)}
	}
	return l
}

func (l *udpLink) remote() netip.AddrPort { return l.addr }

func (l *udpLink) close() error { return l.conn.Close() }

func (l *udpLink) read() ([][]byte, error) {
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

func (l *udpLink) write(buffers [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.out) < len(buffers) {
		l.out = append(l.out, ipv4.Message{Buffers: make([][]byte, 1)})
	}
	out := l.out[:len(buffers)]
	for i, b := range buffers {
		out[i].Buffers[0] = b[linkHead:]
	}
	for len(out) > 0 {
		n, err := l.batch.WriteBatch(out, 0)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

func (l *udpLink) control(buffer []byte) error {
	_, err := l.conn.Write(buffer[linkHead:])
	return err
}
