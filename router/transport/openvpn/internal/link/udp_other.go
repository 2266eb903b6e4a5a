//go:build !linux

package link

import (
	"net"
	"net/netip"

	"penstock/router/transport/openvpn/internal/datakey"
)

// udpLink is a connected UDP socket that is read and written packet by packet.
type udpLink struct {
	conn *net.UDPConn
	addr netip.AddrPort
	in   []byte
}

func newUDP(conn *net.UDPConn, addr netip.AddrPort) *udpLink {
	enlargeBuffers(conn)
	return &udpLink{conn: conn, addr: addr, in: make([]byte, maxDatagram, maxDatagram+datakey.Tail)}
}

func (l *udpLink) Remote() netip.AddrPort { return l.addr }

// Stalled is false: what a socket does not take is lost, as any packet can be.
func (l *udpLink) Stalled() bool { return false }

func (l *udpLink) Close() error { return l.conn.Close() }

func (l *udpLink) Read() ([][]byte, error) {
	n, err := l.conn.Read(l.in)
	if err != nil {
		return nil, err
	}
	return [][]byte{l.in[:n]}, nil
}

func (l *udpLink) Write(buffers [][]byte) (err error) {
	for _, b := range buffers {
		if _, failed := l.conn.Write(b[Head:]); failed != nil {
			err = failed // of one packet; the others may pass
		}
	}
	return err
}

func (l *udpLink) Post(buffer []byte) error {
	_, err := l.conn.Write(buffer[Head:])
	return err
}
