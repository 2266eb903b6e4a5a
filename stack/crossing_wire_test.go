package stack

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"penstock/stack/datagram"
	"penstock/stack/link"
	"penstock/stack/packet"
)

// crossingWires are two stacks, from one of which flows cross to the other, seen by bare packets at both ends.
//
//	client wire ---- near | far 10.9.0.2, fd09::2 ---- server wire
type crossingWires struct {
	near, far      *Stack
	client, server *wire
	requests       chan *Request
	passed         chan *Passed
	failed         chan error
	ended          atomic.Int32
}

var farAddrs = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/24"), netip.MustParsePrefix("fd09::2/64")}

func newCrossingWires(t testing.TB, c Config, farMTU int) *crossingWires {
	t.Helper()
	w := &crossingWires{requests: make(chan *Request, 20000), passed: make(chan *Passed, 20000), failed: make(chan error, 20000)}
	w.far, w.server = newWire(t, Config{Name: "far", Addrs: farAddrs, MTU: farMTU}, nil)
	c.Handle = atOnce(func(_ context.Context, r *Request) {
		w.requests <- r
		p, err := r.Pass(w.far, watching{ended: &w.ended}, nil)
		if err != nil {
			w.failed <- err
			return
		}
		w.passed <- p
	})
	w.near, w.client = newWire(t, c, nil)
	return w
}

// crossingFlow is a flow of a test: who began it, whom the server sees, and the next sequence numbers.
type crossingFlow struct {
	client, server, mapped netip.AddrPort
	up, down               uint32
	passed                 *Passed
}

// ends are a client and a server of each family.
var crossingEnds = [][2]netip.AddrPort{
	{addr("10.0.0.2:5000"), addr("203.0.113.9:80")},
	{addr("[fd00::2]:5000"), addr("[2001:db8::9]:80")},
}

// fromFar is the sender of a TCP packet at the server's end.
func fromFar(p packet.Packet) netip.AddrPort {
	return netip.AddrPortFrom(p.Src, binary.BigEndian.Uint16(p.Body))
}

// isTo says that a packet is a TCP segment to dst, with all of flags.
func isTo(dst netip.AddrPort, flags byte) func(packet.Packet) bool {
	return func(p packet.Packet) bool {
		return p.Proto == packet.ProtoTCP && p.Dst == dst.Addr() && binary.BigEndian.Uint16(p.Body[2:]) == dst.Port() && p.Body[13]&flags == flags
	}
}

func isICMP(p packet.Packet) bool {
	return p.Proto == packet.ProtoICMP4 || p.Proto == packet.ProtoICMP6
}

// begin sends a SYN and waits until the server gets it.
func (w *crossingWires) begin(client, server netip.AddrPort, isn uint32) *crossingFlow {
	w.client.t.Helper()
	w.client.send(segment(client, server, isn, 0, flagSYN, nil))
	return w.begun(client, server, isn)
}

// begun returns a flow whose SYN was sent.
func (w *crossingWires) begun(client, server netip.AddrPort, isn uint32) *crossingFlow {
	w.client.t.Helper()
	f := &crossingFlow{client: client, server: server, up: isn + 1, down: 7001}
	f.passed = within(w.client.t, w.passed)
	f.mapped = fromFar(w.server.expect("SYN", isTo(server, flagSYN)))
	return f
}

// open begins a flow and lets the server accept it.
func (w *crossingWires) open(client, server netip.AddrPort, isn uint32) *crossingFlow {
	w.client.t.Helper()
	f := w.begin(client, server, isn)
	w.accept(f)
	w.client.send(segment(client, server, f.up, f.down, flagACK, nil))
	w.server.expect("ACK", isTCP(f.mapped, server, flagACK))
	return f
}

// accept lets the server accept a flow, which the client has not acknowledged then.
func (w *crossingWires) accept(f *crossingFlow) {
	w.client.t.Helper()
	w.server.send(segment(f.server, f.mapped, f.down-1, f.up, flagSYN|flagACK, nil))
	w.client.expect("SYN-ACK", isTCP(f.server, f.client, flagSYN|flagACK))
}

// exchange sends a word each way.
func (w *crossingWires) exchange(f *crossingFlow) {
	w.client.t.Helper()
	w.client.send(segment(f.client, f.server, f.up, f.down, flagACK|flagPSH, []byte("question")))
	w.server.expect("question", isTCP(f.mapped, f.server, flagPSH))
	f.up += 8
	w.server.send(segment(f.server, f.mapped, f.down, f.up, flagACK|flagPSH, []byte("answer")))
	w.client.expect("answer", isTCP(f.server, f.client, flagPSH))
	f.down += 6
}

func (w *crossingWires) empty(t *testing.T) {
	t.Helper()
	eventually(t, "no flow in the tables", func() bool {
		w.near.tcp.mu.Lock()
		defer w.near.tcp.mu.Unlock()
		return w.near.crossings.begun.Len()+w.far.crossings.guests.Len() == 0 && w.near.tcp.open.Len()+w.near.tcp.dials.Len() == 0
	})
}

func TestTwoClientsThatWantOnePortGetTwo(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	var flows []*crossingFlow
	for _, client := range []string{"10.0.0.2:5000", "10.0.0.3:5000", "10.0.0.4:5000"} {
		flows = append(flows, w.open(addr(client), web, 100))
	}
	seen := map[netip.AddrPort]bool{}
	for _, f := range flows {
		seen[f.mapped] = true
		w.exchange(f)
	}
	if len(seen) != len(flows) || !seen[addr("10.9.0.2:5000")] {
		t.Errorf("the server saw %v, want three, of which one has the client's port", seen)
	}
	other := w.open(addr("10.0.0.3:5000"), addr("203.0.113.10:80"), 100)
	if other.mapped.Port() != 5000 {
		t.Errorf("another server saw port %d, want 5000, which is free there", other.mapped.Port())
	}
}

func TestACrossingGivesWayToADialAndTheOtherWayRound(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	dial := func() (port uint16) {
		done := make(chan error, 1)
		go func() {
			c, err := w.far.DialContext(t.Context(), "tcp", web.String())
			if err == nil {
				defer c.Close()
			}
			done <- err
		}()
		syn := w.server.expect("SYN of the dial", isTo(web, flagSYN))
		w.server.send(segment(web, fromFar(syn), 1, binary.BigEndian.Uint32(syn.Body[4:])+1, flagSYN|flagACK, nil))
		if err := within(t, done); err != nil {
			t.Fatalf("dial: %v", err)
		}
		return fromFar(syn).Port()
	}
	first := dial()
	f := w.open(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), first), web, 100)
	if f.mapped.Port() == first {
		t.Errorf("a flow crosses from port %d, from which a dial has left", first)
	}
	w.exchange(f)
	// The ports that the next dials would take are taken by crossings.
	next := w.far.lastPort.Load()
	taken := map[uint16]bool{}
	for i := range uint32(2 * portStep) {
		port := uint16(firstPort + (next+1+i)%(1<<16-firstPort))
		taken[w.open(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.3"), port), web, 100).mapped.Port()] = true
	}
	if port := dial(); taken[port] {
		t.Errorf("a dial left from port %d, from which a flow crosses", port)
	}
}

// TestADialThatIsNotConnectedYetKeepsItsPort: gVisor knows it only from then on.
func TestADialThatIsNotConnectedYetKeepsItsPort(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	dial := datagram.Pair{Remote: web, Local: addr("10.9.0.2:20000")}
	w.far.dials.begin(dial)
	if f := w.open(addr("10.0.0.2:20000"), web, 100); f.mapped.Port() == 20000 {
		t.Error("a flow crosses from the port of a dial")
	}
	w.far.dials.end(dial)
	if f := w.open(addr("10.0.0.3:20000"), web, 100); f.mapped.Port() != 20000 {
		t.Error("the port of a dial that has ended is not free")
	}
}

func TestASYNWithThePortsOfAnOpenConnectionIsJudgedAnew(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 1420)
		f := w.open(ends[0], ends[1], 100)
		w.exchange(f)
		within(t, w.requests)
		const isn = 500000
		w.client.send(segment(f.client, f.server, isn, 0, flagSYN, nil))
		within(t, w.requests)
		rst := w.server.expect("RST for the old connection", isTCP(f.mapped, f.server, flagRST))
		if got := binary.BigEndian.Uint32(rst.Body[4:]); got != f.up {
			t.Errorf("the server got RST %d, want %d", got, f.up)
		}
		syn := w.server.expect("SYN", isTo(f.server, flagSYN))
		if got := binary.BigEndian.Uint32(syn.Body[4:]); got != isn {
			t.Errorf("the server got SYN %d, want %d", got, isn)
		}
		rst = w.client.expect("RST for the old connection", isTCP(f.server, f.client, flagRST))
		if got := binary.BigEndian.Uint32(rst.Body[8:]); got == isn+1 {
			t.Error("the RST for the old connection refuses the new one")
		}
		w.server.send(segment(f.server, fromFar(syn), 9000, isn+1, flagSYN|flagACK, nil))
		w.client.expect("SYN-ACK", isTCP(f.server, f.client, flagSYN|flagACK))
		if got := w.ended.Load(); got != 1 {
			t.Errorf("Ended was called %d times, want once", got)
		}
	}
}

func TestASYNIsRepeatedUntilItIsAnswered(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 1420)
		f := w.begin(ends[0], ends[1], 100)
		syn := segment(f.client, f.server, 100, 0, flagSYN, nil)
		w.client.send(syn)
		w.server.expect("the SYN once more", isTCP(f.mapped, f.server, flagSYN))
		hdr := packet.HeaderLen(f.client.Addr())
		m := link.Meta{Partial: true, CsumStart: uint16(hdr), CsumOffset: 16} // as a kernel gives it
		binary.BigEndian.PutUint16(syn[hdr+16:], packet.PseudoHeader(packet.ProtoTCP, f.client.Addr(), f.server.Addr(), 20))
		if err := w.client.port.Write(m, [][]byte{syn}); err != nil {
			t.Fatal(err)
		}
		pkts := w.server.expect("the SYN once more, of a kernel", isTCP(f.mapped, f.server, flagSYN))
		if pkts.Body[16] == 0 && pkts.Body[17] == 0 {
			t.Error("no checksum")
		}
		w.server.send(segment(f.server, f.mapped, 7000, 101, flagSYN|flagACK, nil))
		w.client.expect("SYN-ACK", isTCP(f.server, f.client, flagSYN|flagACK))
		w.client.send(segment(f.client, f.server, 100, 0, flagSYN, nil)) // the SYN-ACK was lost
		w.server.expect("the SYN once more, late", isTCP(f.mapped, f.server, flagSYN))
		w.client.none("RST", isTCP(f.server, f.client, flagRST))
		if len(w.requests) != 1 {
			t.Errorf("got %d requests, want 1", len(w.requests))
		}
	}
}

// reassemble collects a packet that comes in fragments.
func (w *wire) reassemble(t *testing.T, mtu int) (body []byte, first packet.Packet) {
	t.Helper()
	for {
		p := w.expect("fragment", func(packet.Packet) bool { return true })
		if len(p.Raw) > mtu {
			t.Errorf("got a packet of %d bytes, want at most %d", len(p.Raw), mtu)
		}
		if body == nil {
			first = p
		}
		if !p.Fragment {
			return p.Body, p
		}
		if p.Src.Is6() {
			body = append(body, p.Body[8:]...)
			if p.Body[3]&1 == 0 {
				return body, first
			}
			continue
		}
		body = append(body, p.Body...)
		if p.Raw[6]&0x20 == 0 {
			return body, first
		}
	}
}

func TestAPacketTooBigForTheWayOnIsAnsweredOrCut(t *testing.T) {
	const mtu = 1280
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, mtu)
		f := w.open(ends[0], ends[1], 100)
		is4 := f.client.Addr().Is4()
		hdr := packet.HeaderLen(f.client.Addr())
		data := make([]byte, 1400-hdr-20)
		for i := range data {
			data[i] = byte(i)
		}
		tooBig := func(what string) {
			t.Helper()
			p := w.client.expect("ICMP error", isICMP)
			kind, code := byte(packet.PacketTooBig6), byte(0)
			if is4 {
				kind, code = packet.Unreachable4, packet.FragmentationNeeded
			}
			q, ok := packet.Quoted(p.Body[8:])
			if p.Body[0] != kind || p.Body[1] != code || binary.BigEndian.Uint32(p.Body[4:]) != mtu || !ok || q.Src != f.client.Addr() {
				t.Errorf("%s: got % x, want type %d, code %d, MTU %d", what, p.Body[:8], kind, code, mtu)
			}
		}
		big := segment(f.client, f.server, f.up, f.down, flagACK, data)
		w.client.send(big)
		tooBig("a packet")
		super := segment(f.client, f.server, f.up, f.down, flagACK, append(data, data...))
		m := link.Meta{GSO: link.GSOTCPv6, SegSize: uint16(len(data)), HdrLen: uint16(hdr + 20), Partial: true, CsumStart: uint16(hdr), CsumOffset: 16}
		if is4 {
			m.GSO = link.GSOTCPv4
		}
		binary.BigEndian.PutUint16(super[hdr+16:], packet.PseudoHeader(packet.ProtoTCP, f.client.Addr(), f.server.Addr(), len(super)-hdr))
		w.client.port.Write(m, [][]byte{super})
		tooBig("a super-packet")
		w.server.none("packet", func(packet.Packet) bool { return true })
		check := func(what string, want []byte, hops byte) {
			t.Helper()
			body, first := w.server.reassemble(t, mtu)
			p := packet.Packet{Src: f.mapped.Addr(), Dst: f.server.Addr(), Proto: packet.ProtoTCP, Body: body}
			if !p.ChecksumValid() || !slices.Equal(body[20:], want) {
				t.Errorf("%s: the server got %d bytes, checksum right %v, want %d bytes", what, len(body), p.ChecksumValid(), 20+len(want))
			}
			ttl := first.Raw[7]
			if is4 {
				ttl = first.Raw[8]
			}
			if ttl != hops || first.Src != f.mapped.Addr() {
				t.Errorf("%s: got hop count %d from %v, want %d from %v", what, ttl, first.Src, hops, f.mapped)
			}
		}
		if is4 {
			loose := mayBeCut(slices.Clone(big))
			loose[8] = 9
			loose[10], loose[11] = 0, 0
			binary.BigEndian.PutUint16(loose[10:], link.Checksum(loose[:20], 0))
			w.client.send(loose)
			check("a packet that may be cut", data, 8)
			w.client.port.Write(m, [][]byte{mayBeCut(slices.Clone(super))})
			check("the first of a super-packet that may be cut", data, 63)
			check("the second of it", data, 63)
		}
		for _, part := range fragments(big, 800) {
			w.client.send(part)
		}
		check("a packet that came in fragments", data, 63)
		for _, part := range fragments(segment(f.client, f.server, f.up, f.down, flagACK, data[:1000]), 800) {
			w.client.send(part)
		}
		check("a packet that came in fragments, and fits", data[:1000], 63)
	}
}

func TestHopsEndAtEitherStack(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 1420)
		f := w.open(ends[0], ends[1], 100)
		for _, tt := range []struct {
			wire   *wire
			pkt    []byte
			router netip.Addr
		}{
			{w.client, segment(f.client, f.server, f.up, f.down, flagACK, []byte("x")), serverAddrs[f.client.Addr().BitLen()/128].Addr()},
			{w.server, segment(f.server, f.mapped, f.down, f.up, flagACK, []byte("x")), f.mapped.Addr()},
		} {
			if f.client.Addr().Is4() {
				tt.pkt[8] = 1
				tt.pkt[10], tt.pkt[11] = 0, 0
				binary.BigEndian.PutUint16(tt.pkt[10:], link.Checksum(tt.pkt[:20], 0))
			} else {
				tt.pkt[7] = 1
			}
			tt.wire.send(tt.pkt)
			p := tt.wire.expect("time exceeded", isICMP)
			kind := byte(packet.TimeExceeded6)
			if f.client.Addr().Is4() {
				kind = packet.TimeExceeded4
			}
			if p.Body[0] != kind || p.Src != tt.router || !slices.Equal(p.Body[8:], tt.pkt) {
				t.Errorf("got type %d from %v, want %d from %v that quotes the packet", p.Body[0], p.Src, kind, tt.router)
			}
		}
		w.exchange(f)
	}
}

func TestErrorsFromBeyondAreToldBothWays(t *testing.T) {
	router := map[bool]netip.Addr{true: netip.MustParseAddr("198.51.100.1"), false: netip.MustParseAddr("2001:db8:1::1")}
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 1420)
		f := w.open(ends[0], ends[1], 100)
		is4 := f.client.Addr().Is4()
		kind, code := byte(packet.PacketTooBig6), byte(0)
		if is4 {
			kind, code = packet.Unreachable4, packet.FragmentationNeeded
		}
		icmp := func(src, dst netip.Addr, quoted []byte) []byte { return icmpError(src, dst, kind, code, quoted) }
		w.client.send(segment(f.client, f.server, f.up, f.down, flagACK, make([]byte, 1000)))
		w.server.expect("data", isTCP(f.mapped, f.server, flagACK))
		w.server.send(segment(f.server, f.mapped, f.down, f.up, flagACK, make([]byte, 1000)))
		w.client.expect("data", isTCP(f.server, f.client, flagACK))
		for _, seq := range []uint32{f.up - 1, f.up + 1000, f.up + 1<<20} { // guesses
			w.server.send(icmp(router[is4], f.mapped.Addr(), segment(f.mapped, f.server, seq, f.down, flagACK, nil)))
			w.client.send(icmp(f.client.Addr(), f.server.Addr(), segment(f.server, f.client, seq, f.up, flagACK, nil)))
		}
		// A head of the other family whose addresses are these.
		w.server.send(icmp(router[!is4], map[bool]netip.Addr{true: farAddrs[1].Addr(), false: farAddrs[0].Addr()}[is4],
			segment(f.mapped, f.server, f.up, f.down, flagACK, make([]byte, 40))))
		w.client.none("ICMP error", isICMP)
		w.server.none("ICMP error", isICMP)
		w.server.send(icmp(router[is4], f.mapped.Addr(), segment(f.mapped, f.server, f.up, f.down, flagACK, nil)))
		p := w.client.expect("ICMP error", isICMP)
		q, _ := packet.Quoted(p.Body[8:])
		if p.Src != router[is4] || p.Dst != f.client.Addr() || p.Body[0] != kind || p.Body[1] != code || binary.BigEndian.Uint32(p.Body[4:]) != 1300 ||
			q.Src != f.client.Addr() || q.Dst != f.server.Addr() || binary.BigEndian.Uint16(q.Body) != f.client.Port() {
			t.Errorf("the client got %x", p.Raw)
		}
		w.client.send(icmp(f.client.Addr(), f.server.Addr(), segment(f.server, f.client, f.down, f.up, flagACK, nil)))
		p = w.server.expect("ICMP error", isICMP)
		q, _ = packet.Quoted(p.Body[8:])
		if p.Src != f.mapped.Addr() || p.Dst != f.server.Addr() || q.Src != f.server.Addr() || q.Dst != f.mapped.Addr() ||
			binary.BigEndian.Uint16(q.Body[2:]) != f.mapped.Port() {
			t.Errorf("the server got %x", p.Raw)
		}
	}
}

// icmpError is an ICMP error with an MTU of 1300.
func icmpError(src, dst netip.Addr, kind, code byte, quoted []byte) []byte {
	b := packet.ICMPError(src, dst, kind, code, 1300, quoted)
	packet.PutIP(b, packet.ICMPProto(src), src, dst, len(b)-packet.HeaderLen(src))
	return b
}

func TestErrorsOfAnotherClientAreNotTold(t *testing.T) {
	w := newCrossingWires(t, Config{Client: byNetwork}, 1420)
	f := w.open(addr("10.0.1.2:5000"), web, 100)
	w.server.send(segment(f.server, f.mapped, f.down, f.up, flagACK, make([]byte, 1000)))
	w.client.expect("data", isTCP(f.server, f.client, flagACK))
	quoted := segment(f.server, f.client, f.down, f.up, flagACK, nil)
	for _, row := range []struct {
		from string
		told bool
	}{{"10.0.2.2", false}, {"10.0.1.3", true}} {
		w.client.send(icmpError(netip.MustParseAddr(row.from), f.server.Addr(), packet.Unreachable4, packet.FragmentationNeeded, quoted))
		if row.told {
			w.server.expect("ICMP error of "+row.from, isICMP)
		} else {
			w.server.none("ICMP error of "+row.from, isICMP)
		}
	}
}

func TestAFullTableLosesWhatIsNotOpen(t *testing.T) {
	w := newCrossingWires(t, Config{Limits: Limits{TCPFlows: 4}, Client: byNetwork}, 1420)
	from := func(client, port int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(client), 2}), uint16(port))
	}
	var opened []*crossingFlow
	for i := range 3 {
		opened = append(opened, w.open(from(1, 100+i), web, 1))
		w.exchange(opened[i])
	}
	first := w.begin(from(1, 200), web, 1)
	w.client.send(segment(from(1, 201), web, 1, 0, flagSYN, nil))
	p := w.client.expect("RST for the SYN that was not answered", isTCP(web, first.client, flagRST))
	if got := binary.BigEndian.Uint32(p.Body[8:]); got != 2 {
		t.Errorf("the client got RST with ACK %d, want 2", got)
	}
	w.server.expect("RST for it", isTCP(first.mapped, web, flagRST))
	w.server.expect("SYN of the newer one", isTo(web, flagSYN))
	within(t, w.passed)
	half := w.begin(from(1, 202), web, 1)
	w.accept(half)
	w.client.send(segment(from(1, 204), web, 1, 0, flagSYN, nil))
	w.client.expect("RST for the one that the client has not acknowledged", isTCP(web, half.client, flagRST))
	unused := w.begun(from(1, 204), web, 1)
	w.accept(unused)
	w.client.send(segment(unused.client, web, unused.up, unused.down, flagACK, nil))
	w.server.expect("ACK", isTCP(unused.mapped, web, flagACK))
	w.client.send(segment(from(1, 205), web, 1, 0, flagSYN, nil))
	w.client.expect("RST for the one that has carried nothing", isTCP(web, unused.client, flagRST))
	last := w.begun(from(1, 205), web, 1)
	w.accept(last)
	w.exchange(last)
	w.client.send(segment(from(1, 203), web, 1, 0, flagSYN, nil)) // all have carried something: nobody has to go for it
	w.client.expect("RST", isTCP(web, from(1, 203), flagRST))
	for _, f := range opened {
		w.exchange(f)
	}
	honest := from(2, 100) // another client has a share
	w.client.send(segment(honest, web, 1, 0, flagSYN, nil))
	w.server.expect("RST for the longest silent flow of the first", isTCP(last.mapped, web, flagRST))
	if got := w.near.tcp.open.Len(); got != 4 {
		t.Errorf("got %d flows, want 4", got)
	}
	if got := w.near.crossings.begun.Len(); got > 8 {
		t.Errorf("got %d in the table, want the open ones and those that have just ended", got)
	}
	mapped := fromFar(w.server.expect("SYN of another client", isTo(web, flagSYN)))
	within(t, w.passed)
	w.server.send(segment(web, mapped, 7000, 2, flagSYN|flagACK, nil))
	w.client.expect("SYN-ACK", isTCP(web, honest, flagSYN|flagACK))
	if n := w.near.CloseClient(1); n != 3 {
		t.Errorf("CloseClient: got %d, want 3", n)
	}
	w.exchange(&crossingFlow{client: honest, server: web, mapped: mapped, up: 2, down: 7001})
}

func TestASYNFloodLeavesRoomForOthers(t *testing.T) {
	w := newCrossingWires(t, Config{Limits: Limits{TCPFlows: 100, Dials: 100}, Client: byNetwork}, 1420)
	for i := range 5000 {
		w.client.send(segment(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), uint16(1000+i)), web, 1, 0, flagSYN, nil))
		if i%1000 == 999 {
			honest := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 2, 2}), uint16(i))
			isn := uint32(i) // tells this flow's SYNs from those of the former, which were repeated and may come now
			var mapped netip.AddrPort
			for try := 0; ; try++ {
				if try == 20 {
					t.Fatalf("after %d SYNs of one client, another's is not passed", i)
				}
				w.client.send(segment(honest, web, isn, 0, flagSYN, nil))
				found := false
				for deadline := time.After(300 * time.Millisecond); !found; {
					select {
					case p := <-w.server.in:
						if isTo(web, flagSYN)(p) && binary.BigEndian.Uint32(p.Body[4:]) == isn {
							mapped, found = fromFar(p), true
						}
						continue
					case <-deadline:
					}
					break
				}
				if found {
					break
				}
			}
			w.server.send(segment(web, mapped, 7000, isn+1, flagSYN|flagACK, nil))
			w.client.expect("SYN-ACK", isTCP(web, honest, flagSYN|flagACK))
		}
	}
	if got := w.near.crossings.begun.Len(); got > 210 {
		t.Errorf("got %d flows in the table, of which 100 may be open", got)
	}
	for _, f := range []func() error{w.near.Close, w.far.Close} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	w.empty(t)
}

func TestAClosedFarStackIsNotPassedTo(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	f := w.open(addr("10.0.0.2:100"), web, 1)
	w.far.Close()
	w.client.expect("RST", isTCP(web, f.client, flagRST))
	w.client.send(segment(addr("10.0.0.2:101"), web, 1, 0, flagSYN, nil))
	if err := within(t, w.failed); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
	w.empty(t)
}

func TestAFarStackWithoutAddressesIsNotPassedTo(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	f := w.open(addr("10.0.0.2:100"), web, 1)
	if err := w.far.SetAddrs(farAddrs[1:]); err != nil {
		t.Fatal(err)
	}
	w.client.expect("RST", isTCP(web, f.client, flagRST))
	w.client.send(segment(addr("10.0.0.2:101"), web, 1, 0, flagSYN, nil))
	if err := within(t, w.failed); !errors.Is(err, ErrNoAddress) {
		t.Errorf("got %v, want %v", err, ErrNoAddress)
	}
	w.empty(t)
}

// TestNoFlowSlipsToAnAddressThatGoes lets flows begin while the far stack's address comes and goes.
func TestNoFlowSlipsToAnAddressThatGoes(t *testing.T) {
	w := newCrossingWires(t, Config{}, 1420)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; len(w.requests) < 2000 && i < 1_000_000; i++ { // one that comes while too many are judged is lost
			w.client.send(segment(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1000+i%60000)), web, 1, 0, flagSYN, nil))
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		for _, list := range [][]netip.Prefix{farAddrs, nil} {
			if err := w.far.SetAddrs(list); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "every SYN to be decided", func() bool {
		return len(w.passed)+len(w.failed) == len(w.requests) && len(w.requests) >= 2000
	})
	if n := w.far.crossings.guests.Len(); n > 0 {
		t.Errorf("%d flows cross from an address that is gone", n)
	}
	w.empty(t)
}

func TestClosingTheNearStackResetsWhatCrosses(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 1420)
		f := w.open(ends[0], ends[1], 100)
		w.begin(netip.AddrPortFrom(f.client.Addr(), 6000), f.server, 100)
		w.near.Close()
		w.server.expect("RST", isTCP(f.mapped, f.server, flagRST))
		w.empty(t)
		if got := w.ended.Load(); got != 2 {
			t.Errorf("Ended was called %d times, want 2", got)
		}
		w.server.send(segment(f.server, f.mapped, f.down, f.up, flagACK, []byte("late")))
		w.server.expect("RST for what is late", isTCP(f.mapped, f.server, flagRST))
	}
}

// TestFlowsThatEndAndBeginAtOnce lets both stacks lose and gain flows from all sides, for the race detector.
func TestFlowsThatEndAndBeginAtOnce(t *testing.T) {
	w := newCrossingWires(t, Config{Limits: Limits{TCPFlows: 50}}, 1420)
	stop := make(chan struct{})
	go func() { // a server that accepts, refuses or is silent
		defer close(stop)
		for i := 0; ; i++ {
			select {
			case p := <-w.server.in:
				if p.Proto != packet.ProtoTCP || p.Body[13]&flagSYN == 0 {
					continue
				}
				flags := []byte{flagSYN | flagACK, flagRST | flagACK, 0}[i%3]
				if flags != 0 {
					w.server.port.Write(link.Meta{}, [][]byte{segment(web, fromFar(p), 7000, binary.BigEndian.Uint32(p.Body[4:])+1, flags, nil)})
				}
			case <-time.After(500 * time.Millisecond):
				return
			}
		}
	}()
	for i := range 2000 {
		src := netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1000+i%100))
		isn := uint32(i) << 16
		w.client.send(segment(src, web, isn, 0, flagSYN, nil))
		w.client.send(segment(src, web, isn, 0, flagSYN, nil))
		w.client.send(segment(src, web, isn+1, 7001, flagACK, []byte("data")))
		switch i % 7 {
		case 0:
			w.client.send(segment(src, web, isn+1, 0, flagRST, nil))
		case 1:
			w.near.CloseClient(0)
		case 2:
			select {
			case p := <-w.passed:
				p.Abort()
				p.Bytes()
			default:
			}
		}
	}
	<-stop
	eventually(t, "every flow to have ended", func() bool {
		w.near.CloseClient(0) // some SYNs may still be on their way to their handler
		return int(w.ended.Load())+len(w.failed) == len(w.requests)
	})
	w.near.tcp.mu.Lock()
	defer w.near.tcp.mu.Unlock()
	if n := w.near.tcp.open.Len() + w.near.tcp.dials.Len(); n > 0 {
		t.Errorf("%d flows hold a place", n)
	}
}

// BenchmarkIdleCrossings is what flows cost that cross and are silent.
func BenchmarkIdleCrossings(b *testing.B) {
	const flows = 10000
	for b.Loop() {
		w := newCrossingWires(b, Config{}, 1420)
		src := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 7), byte(1 + i&127)}), uint16(20000+i))
		}
		w.open(src(0), web, 1)
		before := memory()
		for i := range flows {
			w.open(src(i+1), web, 1)
			<-w.requests
		}
		b.ReportMetric(float64(memory()-before)/flows, "B/flow")
		w.near.Close()
		w.far.Close()
	}
}
