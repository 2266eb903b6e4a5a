package openvpn

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"penstock/router/transport/openvpn/internal/datakey"
)

const (
	tcpReadAhead  = 128 << 10
	tcpBatch      = 64
	maxTCPPacket  = 4096
	controlQueued = 256 // packets; more than a session sends in a minute without an answer
)

var errLinkStalled = errors.New("openvpn: the TCP connection takes no more control packets")

// tcpLink frames packets with their length on a TCP connection.
type tcpLink struct {
	conn    *net.TCPConn
	reader  *bufio.Reader
	addr    netip.AddrPort
	slots   [][]byte
	packets [][]byte

	queue chan []byte // control packets: the session must not wait for a peer that does not read
	done  chan struct{}
	once  sync.Once
	wg    sync.WaitGroup
}

func newTCPLink(conn *net.TCPConn, addr netip.AddrPort) *tcpLink {
	l := &tcpLink{
		conn: conn, reader: bufio.NewReaderSize(conn, tcpReadAhead), addr: addr,
		queue: make(chan []byte, controlQueued), done: make(chan struct{}),
	}
	l.wg.Go(l.writeControl)
	return l
}

func (l *tcpLink) remote() netip.AddrPort { return l.addr }

func (l *tcpLink) close() error {
	err := l.conn.Close()
	l.once.Do(func() { close(l.done) })
	l.wg.Wait()
	return err
}

// read returns all packets that one read of the socket brought in whole.
func (l *tcpLink) read() ([][]byte, error) {
	l.packets = l.packets[:0]
	for len(l.packets) < tcpBatch {
		if len(l.packets) > 0 && !l.buffered() {
			break
		}
		head, err := l.reader.Peek(linkHead)
		if err != nil {
			return nil, err
		}
		size := int(binary.BigEndian.Uint16(head))
		if size == 0 || size > maxTCPPacket {
			return nil, fmt.Errorf("openvpn: a packet of %d bytes on TCP: this is not an OpenVPN server, or the stream is broken", size)
		}
		_, _ = l.reader.Discard(linkHead)
		if len(l.slots) == len(l.packets) {
			l.slots = append(l.slots, make([]byte, maxTCPPacket+datakey.Tail))
		}
		packet := l.slots[len(l.packets)][:size]
		if _, err := io.ReadFull(l.reader, packet); err != nil {
			return nil, err
		}
		l.packets = append(l.packets, packet)
	}
	return l.packets, nil
}

// buffered reports whether the next packet can be read without blocking.
func (l *tcpLink) buffered() bool {
	if l.reader.Buffered() < linkHead {
		return false
	}
	head, err := l.reader.Peek(linkHead)
	return err == nil && l.reader.Buffered() >= linkHead+int(binary.BigEndian.Uint16(head))
}

func (l *tcpLink) write(buffers [][]byte) error {
	vector := make(net.Buffers, len(buffers))
	for i, b := range buffers {
		binary.BigEndian.PutUint16(b, uint16(len(b)-linkHead))
		vector[i] = b
	}
	_, err := vector.WriteTo(l.conn)
	return err
}

func (l *tcpLink) control(buffer []byte) error {
	binary.BigEndian.PutUint16(buffer, uint16(len(buffer)-linkHead))
	select {
	case l.queue <- buffer:
		return nil
	default:
		return errLinkStalled
	}
}

// writeControl sends queued control packets until the link is closed. A write error shows in read as well.
func (l *tcpLink) writeControl() {
	for {
		select {
		case b := <-l.queue:
			if _, err := l.conn.Write(b); err != nil {
				return
			}
		case <-l.done:
			return
		}
	}
}
