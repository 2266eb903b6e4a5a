package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"penstock/router/transport/openvpn/internal/datakey"
)

const (
	readAhead    = 128 << 10
	tcpBatch     = 64
	maxTCPPacket = 4096

	// Packets wait in memory for a peer that does not read: Write fills up to maxWaiting bytes and blocks, Post may use
	// maxPosted more, which is above what a session posts in a minute without an answer.
	maxWaiting = 128 << 10
	maxPosted  = 128 << 10

	// writeLimit is how long a peer may take nothing at all before the link is given up.
	writeLimit = time.Minute

	stallAfter = 100 * time.Millisecond // in one write to the socket
)

// tcpLink frames packets with their length on a TCP connection. A goroutine of its own writes to the socket, so that
// nobody but the sender of bulk data ever waits for the peer.
type tcpLink struct {
	conn    *net.TCPConn
	limit   time.Duration // see writeLimit
	reader  *bufio.Reader
	addr    netip.AddrPort
	slots   [][]byte
	packets [][]byte
	wg      sync.WaitGroup

	mu      sync.Mutex // guards below
	room    sync.Cond  // for whom Write waits
	work    sync.Cond  // for what writeWaiting waits
	waiting []byte     // framed packets
	since   time.Time  // when the write to the socket under way began; zero: none is
	err     error      // why nothing is written any more
}

func newTCP(conn *net.TCPConn, addr netip.AddrPort, limit time.Duration) *tcpLink {
	l := &tcpLink{conn: conn, limit: limit, reader: bufio.NewReaderSize(conn, readAhead), addr: addr}
	l.room.L, l.work.L = &l.mu, &l.mu
	l.wg.Go(l.writeWaiting)
	return l
}

func (l *tcpLink) Remote() netip.AddrPort { return l.addr }

func (l *tcpLink) Close() error {
	l.fail(net.ErrClosed)
	err := l.conn.Close() // ends the write under way
	l.wg.Wait()
	return err
}

// fail ends all writing.
func (l *tcpLink) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		l.err = err
	}
	l.room.Broadcast()
	l.work.Broadcast()
}

// cause is why the link has ended, if the reader's error is only a consequence.
func (l *tcpLink) cause(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	return err
}

// Read returns all packets that one read of the socket brought in whole.
func (l *tcpLink) Read() ([][]byte, error) {
	l.packets = l.packets[:0]
	for len(l.packets) < tcpBatch {
		if len(l.packets) > 0 && !l.buffered() {
			break
		}
		head, err := l.reader.Peek(Head)
		if err != nil {
			return nil, l.cause(err)
		}
		size := int(binary.BigEndian.Uint16(head))
		if size == 0 || size > maxTCPPacket {
			return nil, fmt.Errorf("a packet of %d bytes on TCP: this is not an OpenVPN server, or the stream is broken", size)
		}
		_, _ = l.reader.Discard(Head)
		if len(l.slots) == len(l.packets) {
			l.slots = append(l.slots, make([]byte, maxTCPPacket+datakey.Tail))
		}
		packet := l.slots[len(l.packets)][:size]
		if _, err := io.ReadFull(l.reader, packet); err != nil {
			return nil, l.cause(err)
		}
		l.packets = append(l.packets, packet)
	}
	return l.packets, nil
}

// buffered reports whether the next packet can be read without blocking.
func (l *tcpLink) buffered() bool {
	if l.reader.Buffered() < Head {
		return false
	}
	head, err := l.reader.Peek(Head)
	return err == nil && l.reader.Buffered() >= Head+int(binary.BigEndian.Uint16(head))
}

func (l *tcpLink) Write(buffers [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range buffers {
		for len(l.waiting) >= maxWaiting && l.err == nil {
			l.room.Wait()
		}
		if l.err != nil {
			return l.err
		}
		l.appendLocked(b)
	}
	return nil
}

func (l *tcpLink) Post(buffer []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return l.err
	case len(l.waiting) >= maxWaiting+maxPosted:
		return ErrStalled
	}
	l.appendLocked(buffer)
	return nil
}

func (l *tcpLink) appendLocked(buffer []byte) {
	binary.BigEndian.PutUint16(buffer, uint16(len(buffer)-Head))
	l.waiting = append(l.waiting, buffer...)
	l.work.Signal()
}

func (l *tcpLink) Stalled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err != nil || !l.since.IsZero() && time.Since(l.since) > stallAfter
}

// writeWaiting sends what waits until the link is closed or the peer takes nothing for writeLimit.
func (l *tcpLink) writeWaiting() {
	var taken []byte
	for {
		l.mu.Lock()
		l.since = time.Time{}
		for len(l.waiting) == 0 && l.err == nil {
			l.work.Wait()
		}
		if l.err != nil {
			l.mu.Unlock()
			return
		}
		taken, l.waiting = l.waiting, taken[:0]
		l.since = time.Now()
		l.room.Broadcast()
		l.mu.Unlock()
		if err := l.drain(taken); err != nil {
			l.fail(err)
			_ = l.conn.Close() // the reader reports it
			return
		}
	}
}

func (l *tcpLink) drain(b []byte) error {
	for len(b) > 0 {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.limit))
		n, err := l.conn.Write(b)
		if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) { // else the peer reads, if slowly
			return fmt.Errorf("the server has read nothing for %s: %w", l.limit, err)
		}
		if n == 0 && err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
