package openvpn

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
)

// linkHead are the bytes kept free in front of every packet given to a link: TCP puts its length there.
const linkHead = 2

// link carries whole packets to and from one address.
type link interface {
	// read blocks until packets have come and returns them in memory that is good until the next read. Each has
	// datakey.Tail bytes of capacity behind it, unless another packet follows there.
	read() ([][]byte, error)
	// write sends packets in order; each starts linkHead bytes into its buffer. TCP blocks while the peer does not read.
	write(buffers [][]byte) error
	// control sends a packet, which starts linkHead bytes into buffer and is kept. It never blocks.
	control(buffer []byte) error
	remote() netip.AddrPort
	close() error
}

// dial opens a link to addr.
func (c *Client) dial(ctx context.Context, network string, addr netip.AddrPort) (link, error) {
	dialer := net.Dialer{ControlContext: func(_ context.Context, network, address string, conn syscall.RawConn) error {
		if c.cfg.Control == nil {
			return nil
		}
		return c.cfg.Control(network, address, conn)
	}}
	conn, err := dialer.DialContext(ctx, network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("openvpn: dial %s %s: %w", network, addr, err)
	}
	switch conn := conn.(type) {
	case *net.UDPConn:
		return newUDPLink(conn, addr), nil
	case *net.TCPConn:
		return newTCPLink(conn, addr), nil
	}
	return nil, fmt.Errorf("openvpn: network %q is not supported", network)
}

func isTCP(network string) bool { return strings.HasPrefix(network, "tcp") }

const (
	maxDatagram = 2048    // bytes: announcedMTU and what stands around it
	socketBytes = 4 << 20 // asked for; the system may give less
)

func enlargeBuffers(conn *net.UDPConn) {
	_ = conn.SetReadBuffer(socketBytes) // more is better, less works
	_ = conn.SetWriteBuffer(socketBytes)
}
