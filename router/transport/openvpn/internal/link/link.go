// Package link carries whole OpenVPN packets to and from one address, over UDP in batches or over TCP with a length in
// front of each.
//
// It does not know what is in a packet, and does not connect again.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Head are the bytes kept free in front of every packet that is given to a Link: TCP puts its length there.
const Head = 2

// ErrStalled says that the peer takes nothing, and that more than a session should ever have to say waits for it.
var ErrStalled = errors.New("the TCP connection takes no more packets")

// Link is one connected socket. Read has one caller at a time; the other methods may be called at the same time.
type Link interface {
	// Read blocks until packets have come and returns them in memory that is good until the next Read. Each has
	// datakey.Tail bytes of capacity behind it, unless another packet follows there.
	Read() ([][]byte, error)
	// Write sends packets in order; each starts Head bytes into its buffer. It does not keep the buffers. Over TCP it
	// blocks while the peer does not read, until Close.
	Write(buffers [][]byte) error
	// Post is Write for what must not wait for the peer. It never blocks: over TCP it returns ErrStalled instead.
	Post(buffer []byte) error
	// Stalled reports that the peer has not taken what was sent.
	Stalled() bool
	// Remote is the peer's address.
	Remote() netip.AddrPort
	// Close ends Read and Write. It does not wait for what the peer has not taken.
	Close() error
}

// Dial opens a link to addr.
func Dial(ctx context.Context, dialer *net.Dialer, network string, addr netip.AddrPort) (Link, error) {
	conn, err := dialer.DialContext(ctx, network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("dial %s %s: %w", network, addr, err)
	}
	switch conn := conn.(type) {
	case *net.UDPConn:
		return newUDP(conn, addr), nil
	case *net.TCPConn:
		return newTCP(conn, addr, writeLimit), nil
	}
	_ = conn.Close()
	return nil, fmt.Errorf("network %q is not supported", network)
}

// IsTCP reports whether a network is one of TCP's.
func IsTCP(network string) bool { return strings.HasPrefix(network, "tcp") }

const (
	maxDatagram = 2048    // bytes: above push.MaxMTU and what stands around it
	socketBytes = 4 << 20 // asked for; the system may give less
)

func enlargeBuffers(conn *net.UDPConn) {
	_ = conn.SetReadBuffer(socketBytes) // more is better, less works
	_ = conn.SetWriteBuffer(socketBytes)
}
