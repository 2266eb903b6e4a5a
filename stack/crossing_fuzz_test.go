package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/stack/gro"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// tap is a port that gives nothing, and keeps what is written to it.
type tap struct {
	mtu    int
	closed chan struct{}
	once   sync.Once

	mu  sync.Mutex // guards below
	out []link.Packet
}

func newTap(mtu int) *tap { return &tap{mtu: mtu, closed: make(chan struct{})} }

func (p *tap) Read([]link.Packet) (int, error) {
	<-p.closed
	return 0, net.ErrClosed
}

func (p *tap) Write(m link.Meta, pieces [][]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = append(p.out, link.Packet{Meta: m, Data: bytes.Join(pieces, nil)})
	return nil
}

func (p *tap) BatchSize() int { return 1 }
func (p *tap) MTU() int       { return p.mtu }

func (p *tap) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *tap) take() []link.Packet {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.out
	p.out = nil
	return out
}

// Ports of what the crossings of a fuzz test do.
const (
	portPassed  = 80
	portRefused = 81
	portDropped = 82
	portRead    = 83 // what is sent there may have no 'n'
)

// fuzzWorld is two stacks, from one of which flows cross to the other, and what has been seen at their ends.
type fuzzWorld struct {
	t         *testing.T
	near, far *Stack
	ends      [2]*tap                      // of near, of far
	seen      [2][]packet.Packet           // what has come out lately
	acked     map[[2]netip.AddrPort]uint32 // by servers, by their address and that of whom they see
	begun     atomic.Int32
	ended     atomic.Int32

	mu     sync.Mutex // guards below
	passed []interface{ Abort() }
}

// loud fails a test for whatever is worth an error in the log.
type loud struct{ t *testing.T }

func (loud) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (h loud) Handle(_ context.Context, r slog.Record) error {
	var attrs []any
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a.String()); return true })
	h.t.Errorf("%s %v", r.Message, attrs)
	return nil
}
func (h loud) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h loud) WithGroup(string) slog.Handler      { return h }

// noN permits what has no 'n', and resets what has.
type noN struct {
	w  *fuzzWorld
	mu sync.Mutex // guards below
	p  *Passed
	n  int  // fed, not permitted
	no bool // there was an 'n'
}

func (r *noN) feed(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := bytes.IndexByte(b, 'n'); i >= 0 && !r.no {
		r.n += i
		r.no = true
	} else if !r.no {
		r.n += len(b)
	}
}

func (r *noN) Heard() {
	r.mu.Lock()
	p, n, no := r.p, r.n, r.no
	if p != nil {
		r.n = 0
	}
	r.mu.Unlock()
	if p == nil {
		return
	}
	p.Permit(n)
	if no {
		p.Abort()
	}
}

func (*noN) Opened()       {}
func (*noN) Moved() bool   { return false }
func (r *noN) Ended(error) { r.w.ended.Add(1) }

func newFuzzWorld(t *testing.T) *fuzzWorld {
	w := &fuzzWorld{t: t, ends: [2]*tap{newTap(1500), newTap(1420)}, acked: map[[2]netip.AddrPort]uint32{}}
	log := slog.New(loud{t})
	var err error
	if w.far, err = New(Config{Name: "far", Log: log, Addrs: farAddrs, MTU: 1420}); err != nil {
		t.Fatal(err)
	}
	c := Config{Name: "near", Log: log, Addrs: serverAddrs, Client: anyButOne, Limits: Limits{TCPFlows: 20, UDPFlows: 40, Dials: 20}}
	c.Handle = func(_ context.Context, r *Request) func(context.Context) { w.handle(r); return nil }
	if w.near, err = New(c); err != nil {
		t.Fatal(err)
	}
	for i, s := range []*Stack{w.near, w.far} {
		if err := s.Attach(w.ends[i]); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *fuzzWorld) handle(r *Request) {
	switch r.Dst.Port() {
	case portRefused:
		r.Refuse()
		return
	case portDropped:
		r.Drop()
		return
	}
	reads := r.Dst.Port() == portRead
	if r.Network == "tcp" {
		watch, read := &noN{w: w}, (func([]byte))(nil)
		if reads {
			read = watch.feed
		}
		w.begun.Add(1)
		p, err := r.Pass(w.far, watch, read)
		if err != nil {
			w.begun.Add(-1)
			r.Refuse()
			return
		}
		watch.mu.Lock()
		watch.p = p
		watch.mu.Unlock()
		watch.Heard()
		w.keep(p)
		return
	}
	passage := DatagramPassage{Port: r.Src.Port(), Ended: func(error) { w.ended.Add(1) }}
	if reads {
		passage.Read = func(b []byte, _ uint32) bool { return bytes.IndexByte(b, 'n') < 0 }
	}
	w.begun.Add(1)
	p, err := r.PassDatagrams(w.far, passage)
	if err != nil {
		w.begun.Add(-1)
		r.Refuse()
		return
	}
	w.keep(p)
}

func (w *fuzzWorld) keep(p interface{ Abort() }) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passed = append(w.passed, p)
}

var (
	fuzzClients = []netip.Addr{netip.MustParseAddr("10.0.0.2"), stranger, netip.MustParseAddr("fd00::2")}
	fuzzServers = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::9")}
	fuzzPorts   = []uint16{portPassed, portRead, portPassed, portRead, portRefused, portDropped, 443, 53}
)

// give injects a packet at one of the ends.
func (w *fuzzWorld) give(end int, m link.Meta, b []byte) {
	s := receiver{[]*Stack{w.near, w.far}[end]}
	if m == (link.Meta{}) {
		s.inboundBatch([][]byte{b}, 0)
	} else {
		g := &gro.GRO{Dispatcher: s.nic.Dispatcher()}
		g.Init(false)
		view := buffer.NewViewSize(link.MaxPacket)
		n := copy(view.AsSlice(), b)
		s.inboundView(link.Packet{Meta: m, Data: view.AsSlice()[:n]}, view, g, nil)
		s.flush(g, nil)
	}
	w.look()
}

// look checks what has come out.
func (w *fuzzWorld) look() {
	w.t.Helper()
	for end, p := range w.ends {
		for _, out := range p.take() {
			var seg link.Segmenter
			if err := seg.Reset(out.Meta, out.Data); err != nil {
				w.t.Fatalf("end %d: %+v %x: %v", end, out.Meta, out.Data, err)
			}
			for !seg.Done() {
				b := make([]byte, len(out.Data))
				n, err := seg.Next(b)
				if err != nil {
					w.t.Fatal(err)
				}
				if n > p.mtu {
					w.t.Errorf("end %d: a packet of %d bytes", end, n)
				}
				h, fault := packet.Parse(link.Meta{}, b[:n])
				if fault != "" {
					w.t.Fatalf("end %d: a packet came out that is %s: %x", end, fault, b[:n])
				}
				w.check(end, &h)
				w.seen[end] = append(w.seen[end], h)
				if len(w.seen[end]) > 16 {
					w.seen[end] = w.seen[end][1:]
				}
			}
		}
	}
}

func (w *fuzzWorld) check(end int, h *packet.Packet) {
	w.t.Helper()
	inside := h.Dst
	if end == 1 {
		inside = h.Src
	}
	if end == 0 && !slices.Contains(fuzzClients, inside) || end == 1 && inside != farEnd(inside) {
		w.t.Fatalf("end %d: a packet from %v to %v came out: %x", end, h.Src, h.Dst, h.Raw)
	}
	if h.IsError() && !h.Fragment {
		q, ok := packet.Quoted(h.Body[8:])
		if !ok || q.Src != h.Dst {
			w.t.Fatalf("end %d: an error for %v quotes a packet of %v: %x", end, h.Dst, q.Src, h.Raw)
		}
		if end == 1 && q.Dst != farEnd(q.Dst) {
			w.t.Fatalf("an error for %v quotes a packet to %v: %x", h.Dst, q.Dst, h.Raw)
		}
		return
	}
	if end == 0 || h.Fragment || h.Proto == packet.ICMPProto(h.Src) {
		return
	}
	ports := flowAddrs(h)
	switch ports.Local.Port() {
	case portRefused, portDropped:
		w.t.Fatalf("a packet to port %d left: %x", ports.Local.Port(), h.Raw)
	case portRead:
		payload, at := h.Body[8:], 0
		if h.Proto == packet.ProtoTCP {
			payload = h.Body[h.Body[12]>>4*4:]
			acked := w.acked[[2]netip.AddrPort{ports.Local, ports.Remote}]
			seq := binary.BigEndian.Uint32(h.Body[4:])
			if has := int32(acked - seq); acked != 0 && has > 0 {
				at = min(int(has), len(payload))
			}
		}
		if bytes.IndexByte(payload[at:], 'n') >= 0 {
			w.t.Fatalf("an 'n' left: %x", h.Raw)
		}
	}
}

// play does what the bytes say, eight at a time.
func (w *fuzzWorld) play(ops []byte) {
	for ; len(ops) >= 8; ops = ops[8:] {
		w.step([8]byte(ops))
		w.look()
	}
	w.near.Close()
	w.far.Close()
	w.look()
	if n := w.near.crossings.begun.Len() + w.far.crossings.guests.Len() + w.near.flows.Sweep(0) + w.far.flows.Sweep(0); n > 0 {
		w.t.Errorf("%d flows are left", n)
	}
	eventually(w.t, "all flows that were passed have ended", func() bool { return w.begun.Load() == w.ended.Load() })
}

func (w *fuzzWorld) step(o [8]byte) {
	kind, a, b, c, d := o[0], o[1], o[2], o[3], o[4]
	n := int(d)
	if c&0x80 > 0 {
		n = n * 13 % 3000
	}
	data := bytes.Repeat([]byte{'a'}, n)
	if c&0x40 > 0 && n > 0 {
		data[int(o[5])%n] = 'n'
	}
	client := fuzzClients[a%3]
	server := fuzzServers[a/3%2]
	if client.Is6() {
		server = fuzzServers[2]
	}
	src := netip.AddrPortFrom(client, 5000+uint16(a>>5&1))
	dst := netip.AddrPortFrom(server, fuzzPorts[a/6%8])
	hdr := packet.HeaderLen(client)
	switch kind % 12 {
	case 0: // SYN
		w.give(0, link.Meta{}, segment(src, dst, 100+uint32(b&1)*1000, 0, flagSYN, data[:min(n, int(b&2)*10)]))
	case 1, 2: // a segment near where it should be
		seq, ack := 101+uint32(b), uint32(7001)+uint32(o[6])
		flags := []byte{flagACK, flagACK | flagPSH, flagACK | flagFIN, flagRST, flagRST | flagACK, flagACK, flagSYN | flagACK, flagACK}[c&7]
		p := segment(src, dst, seq, ack, flags, data)
		w.cutOrWhole(0, c>>3&7, p, hdr, link.GSOTCPv4, link.GSOTCPv6, 16, o[7])
	case 3: // a datagram
		p := udpFrom(src, dst, data)
		w.cutOrWhole(0, c>>3&7, p, hdr, link.GSOUDP, link.GSOUDP, 6, o[7])
	case 4: // an echo
		p := echoRequest(client.String(), server.String(), n)
		binary.BigEndian.PutUint16(p[hdr+4:], uint16(b&3))
		packet.PutEcho(p[hdr:], true, client, server)
		w.cutOrWhole(0, c>>3&1, p, hdr, 0, 0, 2, o[7])
	case 5, 6, 7, 8: // an answer to what came out at the far end, or a packet of the server's that is near it
		if h, ok := w.pick(1, b); ok {
			w.answer(1, &h, c, data, o)
		}
	case 9: // an error about what came out at an end
		end := int(c & 1)
		if h, ok := w.pick(end, b); ok {
			quoted := bytes.Clone(h.Raw[:min(len(h.Raw), 28+int(d))])
			if o[5] > 0 && o[6] > 200 {
				quoted[int(o[5])%len(quoted)] ^= o[7]
			}
			from := h.Dst
			if c&2 > 0 && end == 1 {
				from = fuzzServers[1]
				if h.Src.Is6() {
					from = netip.MustParseAddr("2001:db8:7::7")
				}
			}
			kinds := [][2]byte{{packet.Unreachable4, 1}, {packet.Unreachable4, 3}, {packet.Unreachable4, 4}, {packet.TimeExceeded4, 0}, {12, 0}, {5, 1}, {4, 0}, {3, 13}}
			if h.Src.Is6() {
				kinds = [][2]byte{{packet.Unreachable6, 1}, {packet.Unreachable6, 4}, {packet.PacketTooBig6, 0}, {packet.TimeExceeded6, 0}, {4, 1}, {137, 0}, {135, 0}, {0, 0}}
			}
			k := kinds[c>>2&7]
			e := packet.ICMPError(from, h.Src, k[0], k[1], uint32(o[6])*256, quoted)
			packet.PutIP(e, packet.ICMPProto(from), from, h.Src, len(e)-packet.HeaderLen(from))
			w.cutOrWhole(end, c>>5&1, e, packet.HeaderLen(from), 0, 0, 2, o[7])
		}
	case 10: // what came out at the near end is answered
		if h, ok := w.pick(0, b); ok {
			w.answer(0, &h, c, data, o)
		}
	case 11:
		switch c % 8 {
		case 0:
			w.mu.Lock()
			var p interface{ Abort() }
			if len(w.passed) > 0 {
				p = w.passed[int(a)%len(w.passed)]
			}
			w.mu.Unlock()
			if p != nil {
				p.Abort()
			}
		case 1:
			w.near.CloseClient(uint64(a & 3))
		case 2:
			w.far.SetAddrs(farAddrs[:1])
			w.far.SetAddrs(farAddrs)
		case 3:
			w.far.Nudge()
		case 4: // of any bytes behind a header
			p := udpFrom(src, dst, data)
			p[9%hdr+int(o[5])%(len(p)-9%hdr)] ^= o[6]
			w.give(int(c>>3&1), link.Meta{}, p)
		case 5, 6:
			var all []*crossing
			w.near.crossings.begun.Each(func(c *crossing) { all = append(all, c) })
			for _, c := range all {
				c.Repeat()
			}
		case 7: // options or headers before what is in it
			w.give(0, link.Meta{}, withOption(segment(src, dst, 100, 0, flagSYN, nil)))
		}
	}
}

func (w *fuzzWorld) pick(end int, i byte) (packet.Packet, bool) {
	if len(w.seen[end]) == 0 {
		return packet.Packet{}, false
	}
	return w.seen[end][int(i)%len(w.seen[end])], true
}

// cutOrWhole gives a packet whole, in fragments, or as a super-packet.
func (w *fuzzWorld) cutOrWhole(end int, how byte, p []byte, hdr int, gso4, gso6 link.GSO, sum uint16, size byte) {
	switch {
	case how == 1 && len(p) > hdr+24:
		list := fragments(p, max(8, int(size)*(len(p)-hdr)/256)&^7)
		if size&1 > 0 {
			slices.Reverse(list)
		}
		for _, f := range list {
			w.give(end, link.Meta{}, f)
		}
	case how > 4 && gso4 != 0:
		m := link.Meta{Partial: true, CsumStart: uint16(hdr), CsumOffset: sum, GSO: gso4, SegSize: 1 + uint16(size)*4, HdrLen: uint16(hdr + 20)}
		if hdr == 40 {
			m.GSO = gso6
		}
		h, _ := packet.Parse(link.Meta{}, p)
		if how == 5 {
			m.GSO, m.SegSize, m.HdrLen = link.GSONone, 0, 0
		}
		binary.BigEndian.PutUint16(p[hdr+int(sum):], packet.PseudoHeader(h.Proto, h.Src, h.Dst, len(p)-hdr))
		w.give(end, m, p)
	case how == 3 && hdr == 20: // DF clear
		p[6] &^= 0x40
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], link.Checksum(p[:20], 0))
		w.give(end, link.Meta{}, p)
	case how == 4:
		w.give(end, link.Meta{}, withHops(p, size&3))
	default:
		w.give(end, link.Meta{}, p)
	}
}

// answer gives a packet that goes the other way than one that has come out.
func (w *fuzzWorld) answer(end int, h *packet.Packet, c byte, data []byte, o [8]byte) {
	if h.Fragment || len(h.Body) < 8 {
		return
	}
	hdr := packet.HeaderLen(h.Src)
	switch h.Proto {
	case packet.ProtoTCP:
		ports := flowAddrs(h)
		seq, ack := binary.BigEndian.Uint32(h.Body[8:]), binary.BigEndian.Uint32(h.Body[4:])+uint32(len(h.Body)-int(h.Body[12]>>4)*4)
		flags := []byte{flagACK, flagACK, flagACK | flagFIN, flagRST, flagRST | flagACK, flagACK | flagPSH, flagACK, flagACK}[c&7]
		if h.Body[13]&(flagSYN|flagFIN) > 0 {
			ack++
		}
		if h.Body[13]&(flagSYN|flagACK) == flagSYN {
			seq = 7000
			if c&7 < 5 {
				flags, data = flagSYN|flagACK, nil
			}
		}
		if o[6] > 220 { // not quite
			seq += uint32(o[6]) - 240
		}
		if end == 1 && o[7] < 0xf0 {
			k := [2]netip.AddrPort{ports.Local, ports.Remote}
			if was := w.acked[k]; was == 0 || int32(ack-was) > 0 || h.Body[13]&flagSYN > 0 {
				w.acked[k] = ack
			}
		} else if end == 1 {
			ack -= uint32(o[7])
		}
		p := segment(ports.Local, ports.Remote, seq, ack, flags, data)
		w.cutOrWhole(end, c>>3&7, p, hdr, link.GSOTCPv4, link.GSOTCPv6, 16, o[7])
	case packet.ProtoUDP:
		ports := flowAddrs(h)
		w.cutOrWhole(end, c>>3&7, udpFrom(ports.Local, ports.Remote, data), hdr, link.GSOUDP, link.GSOUDP, 6, o[7])
	case packet.ICMPProto(h.Src):
		p := echoRequest(h.Dst.String(), h.Src.String(), len(data))
		copy(p[hdr+4:], h.Body[4:8])
		packet.PutEcho(p[hdr:], false, h.Dst, h.Src)
		w.cutOrWhole(end, c>>3&1, p, hdr, 0, 0, 2, o[7])
	}
}

func TestPacketsOfEveryKindThatCross(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		ops := make([]byte, 8*(1+rng.IntN(200)))
		for i := range ops {
			ops[i] = byte(rng.Uint32())
		}
		newFuzzWorld(t).play(ops)
	}
}

func FuzzCrossings(f *testing.F) {
	for i := range byte(12) {
		f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 9, 0, 0, 0, i, 0, 1, 2, 3, 4, 5, 6, 5, 0, 1, 0, 9, 0, 0, 0, i, 1, 2, 3, 200, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, ops []byte) { newFuzzWorld(t).play(ops[:min(len(ops), 1600)]) })
}
