package transit

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// seg is a TCP segment of a test, before it is bytes.
type seg struct {
	src, dst netip.AddrPort
	seq, ack uint32
	flags    byte
	window   uint16
	opts     []byte // a multiple of four bytes
	data     []byte
	tos, ttl byte // ttl 0 means 64
	urgent   uint16
}

// bytes is the segment as a finished packet.
func (s seg) bytes() []byte {
	hdr := packet.HeaderLen(s.src.Addr())
	b := make([]byte, hdr+20+len(s.opts)+len(s.data))
	body := b[hdr:]
	packet.PutIP(b, packet.ProtoTCP, s.src.Addr(), s.dst.Addr(), len(body))
	if s.ttl == 0 {
		s.ttl = 64
	}
	if hdr == 20 {
		b[1], b[8] = s.tos, s.ttl
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
	} else {
		binary.BigEndian.PutUint16(b, 6<<12|uint16(s.tos)<<4)
		b[7] = s.ttl
	}
	packet.PutPorts(body, s.src, s.dst)
	binary.BigEndian.PutUint32(body[atSeq:], s.seq)
	binary.BigEndian.PutUint32(body[atAck:], s.ack)
	body[atOffset], body[atFlags] = byte(20+len(s.opts))<<2, s.flags
	binary.BigEndian.PutUint16(body[14:], s.window)
	binary.BigEndian.PutUint16(body[atUrgent:], s.urgent)
	copy(body[20:], s.opts)
	copy(body[20+len(s.opts):], s.data)
	binary.BigEndian.PutUint16(body[atChecksum:], link.Checksum(body, packet.PseudoHeader(packet.ProtoTCP, s.src.Addr(), s.dst.Addr(), len(body))))
	return b
}

// packet is the segment as a flow gets it.
func (s seg) packet(t testing.TB) *packet.Packet { return parsed(t, link.Meta{}, s.bytes()) }

// unfinished is the segment as a kernel gives it to a card: its checksum is partial, and it is a super-packet if size is not 0.
func (s seg) unfinished(size int) (link.Meta, []byte) {
	b := s.bytes()
	hdr := packet.HeaderLen(s.src.Addr())
	m := link.Meta{Partial: true, CsumStart: uint16(hdr), CsumOffset: atChecksum}
	if size > 0 {
		m.SegSize, m.HdrLen, m.GSO = uint16(size), uint16(hdr+20+len(s.opts)), link.GSOTCPv6
		if hdr == 20 {
			m.GSO = link.GSOTCPv4
		}
	}
	binary.BigEndian.PutUint16(b[hdr+atChecksum:], packet.PseudoHeader(packet.ProtoTCP, s.src.Addr(), s.dst.Addr(), len(b)-hdr))
	return m, b
}

func parsed(t testing.TB, m link.Meta, b []byte) *packet.Packet {
	t.Helper()
	p, fault := packet.Parse(m, b)
	if fault != "" {
		t.Fatalf("a packet is %s: %x", fault, b)
	}
	return &p
}

// finished cuts a packet as a card does, and checks what comes out.
func finished(t testing.TB, m link.Meta, b []byte) []*packet.Packet {
	t.Helper()
	var s link.Segmenter
	if err := s.Reset(m, b); err != nil {
		t.Fatalf("cut %+v, %d bytes: %v", m, len(b), err)
	}
	var list []*packet.Packet
	for dst := make([]byte, len(b)); !s.Done(); {
		n, err := s.Next(dst)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, parsed(t, link.Meta{}, bytes.Clone(dst[:n])))
	}
	return list
}

// sent is a packet that a flow sent by itself.
type sent struct {
	m link.Meta
	b []byte
}

// track is a flow with what it says and sends.
type track struct {
	*Flow
	t             testing.TB
	opened, ended atomic.Int32
	carries       atomic.Int32
	result        atomic.Int32

	mu                 sync.Mutex // guards below
	toServer, toClient []sent
	read               []byte
}

var (
	client4, server4, mapped4 = netip.MustParseAddrPort("10.0.0.2:40000"), netip.MustParseAddrPort("203.0.113.9:443"), netip.MustParseAddrPort("10.9.0.2:40001")
	client6, server6, mapped6 = netip.MustParseAddrPort("[fd00::2]:40000"), netip.MustParseAddrPort("[2001:db8::9]:443"), netip.MustParseAddrPort("[fd09::2]:40001")
)

// ends are the addresses of a test's flows in both families.
var families = []Config{
	{Client: client4, Server: server4, Mapped: mapped4},
	{Client: client6, Server: server6, Mapped: mapped6},
}

// newTrack makes a flow of c and follows it. It reads if reading.
func newTrack(t testing.TB, c Config, reading bool) *track {
	w := &track{t: t}
	if c.MTU == 0 {
		c.MTU = 1420
	}
	c.Owner = w
	if reading {
		c.Read = func(b []byte) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.read = append(w.read, b...)
		}
	}
	w.Flow = New(c, 0)
	return w
}

func (w *track) ToServer(m link.Meta, b []byte) { w.keep(&w.toServer, m, b) }
func (w *track) ToClient(m link.Meta, b []byte) { w.keep(&w.toClient, m, b) }
func (w *track) Opened()                        { w.opened.Add(1) }
func (w *track) Heard()                         {}
func (w *track) Carries()                       { w.carries.Add(1) }

func (w *track) Ended(r Result) {
	w.result.Store(int32(r))
	w.ended.Add(1)
}

func (w *track) keep(list *[]sent, m link.Meta, b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*list = append(*list, sent{m, bytes.Clone(b)})
}

// up is a segment of the client's, and down one of the server's.
func (w *track) up(seq, ack uint32, flags byte, data ...byte) seg {
	return seg{src: w.Client, dst: w.Server, seq: seq, ack: ack, flags: flags, data: data, window: 1000}
}

func (w *track) down(seq, ack uint32, flags byte, data ...byte) seg {
	return seg{src: w.Server, dst: w.Mapped, seq: seq, ack: ack, flags: flags, data: data, window: 1000}
}

// give hands a finished segment to the flow, from whichever side it comes.
func (w *track) give(s seg) (Step, *packet.Packet) {
	w.t.Helper()
	p := s.packet(w.t)
	if s.src == w.Client {
		return w.FromClient(link.Meta{}, p, 0), p
	}
	return w.FromServer(link.Meta{}, p, 0), p
}

// want hands a finished segment to the flow and checks what becomes of it.
func (w *track) want(what string, want Step, s seg) *packet.Packet {
	w.t.Helper()
	got, p := w.give(s)
	if got != want {
		w.t.Errorf("%s: got step %d, want %d", what, got, want)
	}
	if got == Cross {
		checkCrossed(w.t, w.Config, s.src == w.Client, p.Raw)
	}
	return p
}

const serverISN = 0x7ffffff0

// open brings the flow as far as the client's ACK of the SYN-ACK.
func (w *track) open() *track {
	w.t.Helper()
	w.want("SYN", Cross, w.up(w.ISN, 0, flagSYN))
	w.want("SYN-ACK", Cross, w.down(serverISN, w.ISN+1, flagSYN|flagACK))
	w.want("ACK", Cross, w.up(w.ISN+1, serverISN+1, flagACK))
	return w
}

// checkCrossed checks that a finished packet is valid and has the addresses of the other side.
func checkCrossed(t testing.TB, c Config, up bool, b []byte) {
	t.Helper()
	p := parsed(t, link.Meta{}, b)
	src, dst := c.Server, c.Client
	if up {
		src, dst = c.Mapped, c.Server
	}
	from, to := netip.AddrPortFrom(p.Src, binary.BigEndian.Uint16(p.Body)), netip.AddrPortFrom(p.Dst, binary.BigEndian.Uint16(p.Body[2:]))
	if from != src || to != dst {
		t.Errorf("got %v -> %v, want %v -> %v", from, to, src, dst)
	}
}

// random returns n random bytes.
func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}
