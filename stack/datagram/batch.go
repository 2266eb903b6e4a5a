package datagram

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// mostSegments is how many datagrams a super-packet may have: a kernel takes no more (UDP_MAX_SEGMENTS before Linux 6.9).
const mostSegments = 64

var batchPool = sync.Pool{New: func() any { return new([link.MaxPacket]byte) }}

// WriteAll is Write for datagrams that have come together. Those of one size that follow each other, and a shorter last one, leave as one
// super-packet: a kernel that gets one passes on all of them for little more than what one datagram costs. The error is net.ErrClosed, or
// that of a datagram that was lost; the others have left.
func (c *Conn) WriteAll(list [][]byte) (err error) {
	for len(list) > 0 && !errors.Is(err, net.ErrClosed) {
		n := together{c}.count(list)
		var failed error
		if n == 1 {
			_, failed = c.Write(list[0])
		} else {
			failed = together{c}.write(list[:n])
		}
		if failed != nil {
			err = failed
		}
		list = list[n:]
	}
	return err
}

// together is a flow as it sends super-packets.
type together struct{ *Conn }

// count returns how many of the next datagrams one super-packet can have.
func (c together) count(list [][]byte) int {
	size := len(list[0])
	head := packet.HeaderLen(c.key.Local.Addr()) + c.key.headerLen()
	if c.key.Kind != UDP || size == 0 || head+size > c.t.sendMTU(c.Conn) {
		return 1
	}
	n, total := 1, head+size
	for n < min(len(list), mostSegments) && len(list[n]) > 0 && len(list[n]) <= size && total+len(list[n]) <= link.MaxPacket {
		total += len(list[n])
		n++
		if len(list[n-1]) < size {
			break
		}
	}
	return n
}

// write sends datagrams as a super-packet.
func (c together) write(list [][]byte) error {
	c.writing.Add(1)
	defer c.writing.Add(-1)
	if c.over.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.err
	}
	buf := batchPool.Get().(*[link.MaxPacket]byte)
	defer batchPool.Put(buf)
	src, dst := c.key.Local, c.key.Remote
	ip := packet.HeaderLen(src.Addr())
	b := buf[:ip+8]
	for _, d := range list {
		b = append(b, d...)
	}
	udp := b[ip:]
	packet.PutPorts(udp, src, dst)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	binary.BigEndian.PutUint16(udp[6:], packet.PseudoHeader(packet.ProtoUDP, src.Addr(), dst.Addr(), len(udp))) // the rest is the link's
	c.touch()
	c.answers.any.Store(true)
	if err := c.t.Sender.SendSegments(src.Addr(), dst.Addr(), b, len(list[0])); err != nil {
		return &net.OpError{Op: "write", Net: c.Network(), Addr: c.RemoteAddr(), Err: err}
	}
	c.out.Add(uint64(len(udp) - 8))
	return nil
}
