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
	"penstock/stack/nowait"
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

// tcpLink frames packets with their length on a TCP connection. Only one writes to the socket at a time: the sender of
// bulk data itself, which may wait for the peer, or a goroutine that takes what was posted, and bulk data behind that.
type tcpLink struct {
	conn    *net.TCPConn
	limit   time.Duration // see writeLimit
	reader  *bufio.Reader
	addr    netip.AddrPort
	slots   [][]byte
	packets [][]byte
	writer  *nowait.Writer // of who writes in Write
	vector  net.Buffers    // scratch of it
	wg      sync.WaitGroup

	mu      sync.Mutex // guards below
	room    sync.Cond  // for whom Write waits
	work    sync.Cond  // for what writeWaiting waits
	waiting []byte     // framed packets
	since   time.Time  // when who writes to the socket began; zero: nobody does
	err     error      // why nothing is written any more
}

func newTCP(conn *net.TCPConn, addr netip.AddrPort, limit time.Duration) *tcpLink {
	l := &tcpLink{conn: conn, limit: limit, reader: bufio.NewReaderSize(nowait.NewReader(conn), readAhead), writer: nowait.NewWriter(conn), addr: addr}
	l.room.L, l.work.L = &l.mu, &l.mu
	l.wg.Go(l.writeWaiting)
	return l
}

func (l *tcpLink) Remote() netip.AddrPort { return l.addr }

func (l *tcpLink) Close() error {
	l.mu.Lock()
	l.failLocked(net.ErrClosed)
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// failLocked ends all reading and writing, for the first reason given.
func (l *tcpLink) failLocked(err error) {
	if l.err != nil {
		return
	}
	l.err = err
	_ = l.conn.Close() // ends the write under way; the reader reports the reason
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
	if l.err == nil && l.since.IsZero() && len(l.waiting) == 0 {
		return l.writeNowLocked(buffers)
	}
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

// writeNowLocked writes to the socket without a copy. It gives up the lock meanwhile.
func (l *tcpLink) writeNowLocked(buffers [][]byte) error {
	l.since = time.Now()
	l.mu.Unlock()
	l.vector = l.vector[:0]
	for _, b := range buffers {
		binary.BigEndian.PutUint16(b, uint16(len(b)-Head))
		l.vector = append(l.vector, b)
	}
	rest := l.vector
	err := l.toSocket(func() (int64, error) { return l.writer.WriteBuffers(&rest) }, func() bool { return len(rest) == 0 })
	l.mu.Lock()
	l.since = time.Time{}
	if err != nil {
		l.failLocked(err)
	}
	l.work.Signal()
	return err
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
	l.mu.Lock()
	defer l.mu.Unlock()
	var taken []byte
	for {
		for l.err == nil && (len(l.waiting) == 0 || !l.since.IsZero()) {
			l.work.Wait()
		}
		if l.err != nil {
			return
		}
		taken, l.waiting = l.waiting, taken[:0]
		l.since = time.Now()
		l.room.Broadcast()
		l.mu.Unlock()
		rest := taken
		err := l.toSocket(func() (int64, error) {
			n, err := l.conn.Write(rest)
			rest = rest[n:]
			return int64(n), err
		}, func() bool { return len(rest) == 0 })
		l.mu.Lock()
		l.since = time.Time{}
		if err != nil {
			l.failLocked(err)
		}
	}
}

// toSocket calls write until all is done. A peer that reads slowly has the limit again after each byte it takes.
func (l *tcpLink) toSocket(write func() (int64, error), done func() bool) error {
	for !done() {
		_ = l.conn.SetWriteDeadline(time.Now().Add(l.limit))
		n, err := write()
		switch {
		case err == nil || n > 0:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the server has read nothing for %s: %w", l.limit, err)
		default:
			return err
		}
	}
	return nil
}
