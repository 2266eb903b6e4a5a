//go:build !linux

package openvpn

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

func newUDPLink(conn *net.UDPConn, addr netip.AddrPort) *udpLink {
	enlargeBuffers(conn)
	return &udpLink{conn: conn, addr: addr, in: make([]byte, maxDatagram, maxDatagram+datakey.Tail)}
}

func (l *udpLink) remote() netip.AddrPort { return l.addr }

func (l *udpLink) close() error { return l.conn.Close() }

func (l *udpLink) read() ([][]byte, error) {
	n, err := l.conn.Read(l.in)
	if err != nil {
		return nil, err
	}
	return [][]byte{l.in[:n]}, nil
}

func (l *udpLink) write(buffers [][]byte) (err error) {
	for _, b := range buffers {
		if _, failed := l.conn.Write(b[linkHead:]); failed != nil {
			err = failed // of one packet; the others may pass
		}
	}
	return err
}

func (l *udpLink) control(buffer []byte) error {
	_, err := l.conn.Write(buffer[linkHead:])
	return err
}
