package e2e

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// rawTCP is a TCP connection made by hand, packet by packet, from an address of the TUN's network that the kernel does
// not have: so it answers nothing itself.
type rawTCP struct {
	fd       int // reads and writes packets of the TUN
	src, dst netip.AddrPort
	seq, ack uint32
}

// segment is a TCP segment without options, with its right checksum.
func (c *rawTCP) segment(flags byte, payload []byte) []byte {
	b := make([]byte, 20, 20+len(payload))
	binary.BigEndian.PutUint16(b[0:], c.src.Port())
	binary.BigEndian.PutUint16(b[2:], c.dst.Port())
	binary.BigEndian.PutUint32(b[4:], c.seq)
	binary.BigEndian.PutUint32(b[8:], c.ack)
	b[12], b[13] = 5<<4, flags
	binary.BigEndian.PutUint16(b[14:], 65535)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], c.checksum(b))
	return b
}

// checksum is that of a segment, with its pseudo header (RFC 9293, 3.1).
func (c *rawTCP) checksum(segment []byte) uint16 {
	src, dst := c.src.Addr().As4(), c.dst.Addr().As4()
	all := append(append(src[:], dst[:]...), 0, unix.IPPROTO_TCP)
	all = binary.BigEndian.AppendUint16(all, uint16(len(segment)))
	all = append(all, segment...)
	if len(all)%2 == 1 {
		all = append(all, 0)
	}
	sum := uint32(0)
	for i := 0; i < len(all); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(all[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// send sends a segment, in as many fragments as it is cut into.
func (c *rawTCP) send(t *testing.T, parts ...[]byte) {
	t.Helper()
	offset := 0
	for i, part := range parts {
		b := ipv4(unix.IPPROTO_TCP, c.dst.Addr().String(), part)
		src := c.src.Addr().As4()
		copy(b[12:], src[:])
		field := uint16(offset / 8)
		if i < len(parts)-1 {
			field |= 0x2000 // more of them follow
		}
		binary.BigEndian.PutUint16(b[4:], uint16(c.seq)) // one identification for all
		binary.BigEndian.PutUint16(b[6:], field)
		if _, err := unix.Write(c.fd, withChecksum(b)); err != nil {
			t.Fatal(err)
		}
		offset += len(part)
	}
}

// read returns the next segment's flags, sequence number and payload; ok is false if none came within the limit.
func (c *rawTCP) read(t *testing.T, limit time.Duration) (flags byte, seq uint32, payload []byte, ok bool) {
	t.Helper()
	buf := make([]byte, 1<<16)
	for end := time.Now().Add(limit); time.Now().Before(end); {
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, int(time.Until(end).Milliseconds())+1); n < 1 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				t.Fatal(err)
			}
			continue
		}
		n, err := unix.Read(c.fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		b := buf[:n]
		src, dst := c.dst.Addr().As4(), c.src.Addr().As4()
		if n < 40 || b[0] != 0x45 || b[9] != unix.IPPROTO_TCP || !bytes.Equal(b[12:16], src[:]) || !bytes.Equal(b[16:20], dst[:]) ||
			binary.BigEndian.Uint16(b[22:]) != c.src.Port() {
			continue
		}
		b = b[20:binary.BigEndian.Uint16(b[2:])]
		return b[13], binary.BigEndian.Uint32(b[4:]), b[b[12]>>4*4:], true
	}
	return 0, 0, nil, false
}

// laptop: a raw socket ---> pen0 [penstock] === WireGuard ===> [penstock] gateway --- intranet: echo
func TestTCPInFragmentsIsChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t).up(t)
	const syn, ack, push = 0x02, 0x10, 0x08
	cut := func(segment []byte) [][]byte { return [][]byte{segment[:24], segment[24:]} }
	spoil := func(segment []byte) []byte { segment[17] ^= 1; return segment }
	for i, row := range []struct {
		sentence string
		parts    func(segment []byte) [][]byte
		arrives  bool
	}{
		{"whole, with a right checksum", func(s []byte) [][]byte { return [][]byte{s} }, true},
		{"in two fragments, with a right checksum", cut, true},
		{"whole, with a wrong checksum", func(s []byte) [][]byte { return [][]byte{spoil(s)} }, false},
		{"in two fragments, with a wrong checksum", func(s []byte) [][]byte { return cut(spoil(s)) }, false},
		{"in two fragments, with a byte changed on the way", func(s []byte) [][]byte { s[30] ^= 1; return cut(s) }, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			c := &rawTCP{fd: tunnelSocket(t, w), seq: 1000, src: netip.MustParseAddrPort(fmt.Sprintf("10.77.0.9:%d", 4000+i)),
				dst: netip.MustParseAddrPort(fmt.Sprintf("%s:%d", netlab.IntranetIPv4, netlab.EchoPort))}
			c.send(t, c.segment(syn, nil))
			flags, seq, _, ok := c.read(t, patience)
			if !ok || flags != syn|ack {
				t.Fatalf("got flags %#x, %v; want an answer to our SYN", flags, ok)
			}
			c.seq, c.ack = c.seq+1, seq+1
			c.send(t, c.segment(ack, nil))
			first, second := []byte("what comes first"), []byte("what comes again")
			c.send(t, row.parts(c.segment(ack|push, first))...)
			want := first
			if !row.arrives { // then the same bytes of the stream are still wanted
				c.send(t, c.segment(ack|push, second))
				want = second
			}
			var got []byte
			for end := time.Now().Add(patience); len(got) == 0 && time.Now().Before(end); {
				_, _, got, _ = c.read(t, time.Until(end))
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got the echo %q, want %q", got, want)
			}
		})
	}
	w.nothingInClear(t)
}
