package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// datagramWires are two stacks, from one of which datagrams cross to the other, seen by bare packets at both ends.
//
//	client wire ---- near | far 10.9.0.2, fd09::2 ---- server wire
type datagramWires struct {
	near, far      *Stack
	client, server *wire
	passed         chan *PassedDatagrams
	ended          chan error
}

// stranger is the address of another client than all others.
var stranger = netip.MustParseAddr("10.1.0.7")

func anyButOne(a netip.Addr) (uint64, bool) {
	if a == stranger {
		return 2, true
	}
	return 1, true
}

func newDatagramWires(t *testing.T, look func([]byte) bool) *datagramWires {
	t.Helper()
	var read func([]byte, uint32) bool
	if look != nil {
		read = func(b []byte, _ uint32) bool { return look(b) }
	}
	return readDatagramWires(t, read)
}

func readDatagramWires(t *testing.T, read func([]byte, uint32) bool) *datagramWires {
	t.Helper()
	w := &datagramWires{passed: make(chan *PassedDatagrams, 100), ended: make(chan error, 100)}
	w.far, w.server = newWire(t, Config{Name: "far", Addrs: farAddrs, MTU: 1420}, nil)
	w.near, w.client = newWire(t, Config{Client: anyButOne, Handle: atOnce(func(_ context.Context, r *Request) {
		p, err := r.PassDatagrams(w.far, DatagramPassage{Port: r.Src.Port(), Read: read, Ended: func(err error) { w.ended <- err }})
		if err != nil {
			t.Errorf("pass %v: %v", r.Dst, err)
			return
		}
		w.passed <- p
	})}, nil)
	return w
}

// withHops gives a packet a hop count, and a service that no packet of our own has.
func withHops(b []byte, hops byte) []byte {
	packet.Manner{Hops: hops, Service: 0x2e, Whole: packet.MannerOf(b).Whole}.Put(b)
	return b
}

// isUDP says that a packet is a datagram to dst.
func isUDP(dst netip.AddrPort) func(packet.Packet) bool {
	return func(p packet.Packet) bool {
		return p.Proto == packet.ProtoUDP && p.Dst == dst.Addr() && binary.BigEndian.Uint16(p.Body[2:]) == dst.Port()
	}
}

// farEnd is the address of the far stack of the family of a.
func farEnd(a netip.Addr) netip.Addr {
	if a.Is4() {
		return farAddrs[0].Addr()
	}
	return farAddrs[1].Addr()
}

func (w *datagramWires) checkEmpty(t *testing.T) {
	t.Helper()
	eventually(t, "no flow in the tables", func() bool {
		return w.near.flows.Sweep(w.near.now()) == 0 && w.far.flows.Sweep(w.far.now()) == 0
	})
}

func TestDatagramsCrossAsTheyAre(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newDatagramWires(t, nil)
		client, server := ends[0], ends[1]
		for _, size := range []int{0, 1, 100, 1300} {
			data := bytes.Repeat([]byte{'x'}, size)
			w.client.send(withHops(udpFrom(client, server, data), 9))
			p := w.server.expect("datagram", isUDP(server)) // its checksum is right, or the wire would not take it
			if m, want := packet.MannerOf(p.Raw), (packet.Manner{Hops: 8, Service: 0x2e, Whole: true}); m != want {
				t.Errorf("%d bytes to %v: came as %+v, want %+v", size, server, m, want)
			}
			if got, want := fromFar(p), netip.AddrPortFrom(farEnd(client.Addr()), client.Port()); got != want || !bytes.Equal(p.Body[8:], data) {
				t.Errorf("%d bytes to %v: came from %v with %d bytes, want from %v", size, server, got, len(p.Body)-8, want)
			}
			w.server.send(withHops(udpFrom(server, fromFar(p), data), 5))
			p = w.client.expect("answer", isUDP(client))
			if m := packet.MannerOf(p.Raw); m.Hops != 4 || fromFar(p) != server || !bytes.Equal(p.Body[8:], data) {
				t.Errorf("an answer of %d bytes: came as %+v from %v with %d bytes", size, m, fromFar(p), len(p.Body)-8)
			}
		}
		p := within(t, w.passed)
		if in, out := p.Bytes(); in != 1401 || out != 1401 {
			t.Errorf("bytes: got %d and %d, want 1401 both ways", in, out)
		}
		p.Abort()
		if err := within(t, w.ended); err != nil {
			t.Errorf("ended with %v", err)
		}
		w.checkEmpty(t)
	}
}

func TestDatagramsWithoutAChecksumCross(t *testing.T) {
	w := newDatagramWires(t, nil)
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	for range 2 {
		b := udpFrom(client, server, []byte("x"))
		b[26], b[27] = 0, 0
		w.client.send(b)
		if p := w.server.expect("datagram", isUDP(server)); len(w.passed) > 1 && (p.Body[6] != 0 || p.Body[7] != 0) {
			t.Errorf("it has the checksum % x by now", p.Body[6:8])
		}
	}
}

func TestDatagramsThatAreNoPacketsCross(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newDatagramWires(t, nil)
		client, server := ends[0], ends[1]
		data := bytes.Repeat([]byte("0123456789abcdef"), 200)
		for range 3 { // the first makes the flow
			for _, f := range fragments(udpFrom(client, server, data), 1400) {
				w.client.send(f)
			}
			if got := w.server.whole(packet.ProtoUDP); !bytes.Equal(got[8:], data) {
				t.Errorf("the server got %d bytes, want %d", len(got)-8, len(data))
			}
			if client.Addr().Is4() {
				b := append(udpFrom(client, server, []byte("short")), "behind its end"...)
				binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
				b[10], b[11] = 0, 0
				binary.BigEndian.PutUint16(b[10:], link.Checksum(b[:20], 0))
				w.client.send(b)
				if p := w.server.expect("datagram", isUDP(server)); string(p.Body[8:]) != "short" {
					t.Errorf("got %q", p.Body[8:])
				}
			}
		}
	}
}

func TestASuperDatagramCrossesWhole(t *testing.T) {
	for _, read := range []func([]byte) bool{nil, func(b []byte) bool { return b[0] != 'n' }} {
		w := newDatagramWires(t, read)
		client, server := crossingEnds[0][0], crossingEnds[0][1]
		send := func(data string) {
			b := udpFrom(client, server, []byte(data))
			binary.BigEndian.PutUint16(b[26:], packet.PseudoHeader(packet.ProtoUDP, client.Addr(), server.Addr(), len(b)-20))
			m := link.Meta{GSO: link.GSOUDP, SegSize: 4, HdrLen: 28, Partial: true, CsumStart: 20, CsumOffset: 6}
			if err := w.client.port.Write(m, [][]byte{b}); err != nil {
				t.Fatal(err)
			}
		}
		for _, row := range []struct {
			send string
			want []string
		}{{"aaaabbbbcc", []string{"aaaa", "bbbb", "cc"}}, {"ddddeeee", []string{"dddd", "eeee"}}, {"ffffnnnngggg", []string{"ffff", "gggg"}}} {
			send(row.send)
			want := row.want
			if read == nil && len(row.want)*4 != len(row.send) && row.send[0] == 'f' {
				want = []string{"ffff", "nnnn", "gggg"}
			}
			got := ""
			for len(got) < len(join(want)) {
				p := within(t, w.server.in)
				got += string(p.Body[8:])
			}
			if got != join(want) {
				t.Errorf("sent %q, the server got %q, want %q", row.send, got, join(want))
			}
		}
		w.server.none("another datagram", isUDP(server))
	}
}

func join(list []string) (s string) {
	for _, one := range list {
		s += one
	}
	return s
}

func TestEchoesCross(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newDatagramWires(t, nil)
		client, server := ends[0].Addr(), ends[1].Addr()
		for seq := range byte(3) {
			b := withHops(echoRequest(client.String(), server.String(), 40), 9)
			hdr := packet.HeaderLen(client)
			binary.BigEndian.PutUint16(b[hdr+4:], 0x1234)
			b[hdr+7], b[hdr+20] = seq, 'x'
			packet.PutEcho(b[hdr:], true, client, server)
			w.client.send(b)
			p := w.server.expect("request", isICMP)
			if m := packet.MannerOf(p.Raw); m.Hops != 8 || m.Service != 0x2e || p.Src != farEnd(client) || p.Body[7] != seq || p.Body[20] != 'x' {
				t.Errorf("request %d came from %v as %+v: % x", seq, p.Src, m, p.Body)
			}
			answer := withHops(append(make([]byte, hdr), p.Body...), 5)
			packet.PutIP(answer, packet.ICMPProto(server), server, p.Src, len(p.Body))
			withHops(answer, 5)
			packet.PutEcho(answer[hdr:], false, server, p.Src)
			w.server.send(answer)
			p = w.client.expect("reply", isICMP)
			if m := packet.MannerOf(p.Raw); m.Hops != 4 || p.Src != server || binary.BigEndian.Uint16(p.Body[4:]) != 0x1234 || p.Body[7] != seq || p.Body[20] != 'x' {
				t.Errorf("reply %d came from %v as %+v: % x", seq, p.Src, m, p.Body)
			}
		}
		within(t, w.passed).Abort()
		w.checkEmpty(t)
	}
}

// atomicFragment makes an IPv6 packet a fragment that is the whole of it (RFC 6946).
func atomicFragment(b []byte) []byte {
	f := append(make([]byte, 48), b[40:]...)
	copy(f, b[:40])
	packet.PutFragment6(f[40:], b[6], 77, 0, false)
	f[6] = packet.ProtoFragment6
	binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
	return f
}

func TestEchoesThatAreNoPacketsCross(t *testing.T) {
	for _, ends := range crossingEnds {
		client, server := ends[0].Addr(), ends[1].Addr()
		for _, size := range []int{0, 4, 40, 2000} { // an echo as long as its headers, less those of a packet, is no exception
			w := newDatagramWires(t, nil)
			hdr := packet.HeaderLen(client)
			b := append(echoRequest(client.String(), server.String(), 0)[:hdr+8], bytes.Repeat([]byte{'x'}, size)...)
			packet.PutIP(b, packet.ICMPProto(client), client, server, 8+size)
			packet.PutEcho(b[hdr:], true, client, server)
			for range 3 { // the first makes the flow
				switch {
				case size > 0:
					for _, f := range fragments(b, min(max(size&^7, 8), 1400)) {
						w.client.send(f)
					}
				case client.Is6():
					w.client.send(atomicFragment(b))
				default:
					w.client.send(bytes.Clone(b))
				}
				if got := w.server.whole(packet.ICMPProto(client)); len(got) != 8+size {
					t.Errorf("%d bytes to %v: the server got % x", size, server, got)
				}
			}
			within(t, w.passed).Abort()
		}
	}
}

// An ICMP error reaches whoever sent the packet, about that packet, from whoever says it; and the flow lives on.
func TestErrorsAboutDatagramsCross(t *testing.T) {
	for _, ends := range crossingEnds {
		client, server := ends[0], ends[1]
		router, kinds := netip.MustParseAddr("198.51.100.7"), [][2]byte{{packet.Unreachable4, 1}, {packet.Unreachable4, 4}, {packet.TimeExceeded4, 0}}
		if client.Addr().Is6() {
			router, kinds = netip.MustParseAddr("2001:db8:7::7"), [][2]byte{{packet.Unreachable6, 3}, {packet.PacketTooBig6, 0}, {packet.TimeExceeded6, 0}}
		}
		for _, kind := range kinds {
			for _, proto := range []string{"udp", "icmp"} {
				w := newDatagramWires(t, nil)
				request := udpFrom(client, server, []byte("question"))
				hdr := packet.HeaderLen(client.Addr())
				if proto == "icmp" {
					request = echoRequest(client.Addr().String(), server.Addr().String(), 40)
					binary.BigEndian.PutUint16(request[hdr+4:], 0x1234)
					packet.PutEcho(request[hdr:], true, client.Addr(), server.Addr())
				}
				w.client.send(bytes.Clone(request))
				sent := w.server.expect("question", func(p packet.Packet) bool { return p.Dst == server.Addr() })
				passed := within(t, w.passed)
				w.server.send(icmpError(router, sent.Src, kind[0], kind[1], sent.Raw))
				got := w.client.expect("error", func(p packet.Packet) bool { return p.Src == router })
				quoted, ok := packet.Quoted(got.Body[8:])
				if !ok || got.Body[0] != kind[0] || got.Body[1] != kind[1] || binary.BigEndian.Uint32(got.Body[4:]) != 1300 {
					t.Fatalf("%s: got % x, want type %d and code %d", proto, got.Body[:8], kind[0], kind[1])
				}
				if quoted.Src != client.Addr() || quoted.Dst != server.Addr() || !bytes.Equal(quoted.Body[:6], request[hdr:hdr+6]) &&
					proto == "udp" || proto == "icmp" && !bytes.Equal(quoted.Body[4:8], request[hdr+4:hdr+8]) {
					t.Errorf("%s: it quotes % x, want the head of % x", proto, quoted.Raw, request)
				}
				w.client.send(bytes.Clone(request))
				w.server.expect("another question", func(p packet.Packet) bool { return p.Dst == server.Addr() })
				passed.Abort()
				if err := within(t, w.ended); err == nil {
					t.Errorf("%s: ended without a reason, want the error that the client got", proto)
				}
			}
		}
	}
}

// TestFragmentsThatAreTooBigGetSmaller has a router beyond the far stack answer a fragment, as one of IPv6 does, which cuts nothing itself.
func TestFragmentsThatAreTooBigGetSmaller(t *testing.T) {
	client, server, router := crossingEnds[1][0], crossingEnds[1][1], netip.MustParseAddr("2001:db8:7::7")
	ping := echoRequest(client.Addr().String(), server.Addr().String(), 2000)
	for name, request := range map[string][]byte{"udp": udpFrom(client, server, make([]byte, 2000)), "icmp": ping} {
		w := newDatagramWires(t, nil)
		send := func(mtu int) packet.Packet {
			for _, f := range fragments(request, 1200) {
				w.client.send(f)
			}
			body, first := w.server.reassemble(t, mtu)
			if len(body) != len(request)-40 {
				t.Errorf("%s: %d bytes came, want %d", name, len(body), len(request)-40)
			}
			return first
		}
		first := send(1420)
		w.server.send(icmpError(router, first.Src, packet.PacketTooBig6, 0, first.Raw))
		got := w.client.expect("error", func(p packet.Packet) bool { return p.Src == router })
		if q, ok := packet.Quoted(got.Body[8:]); !ok || q.Src != client.Addr() || q.Dst != server.Addr() || !bytes.Equal(q.Body[4:6], request[44:46]) {
			t.Errorf("%s: the client was told of % x, want the head of its own packet", name, got.Body[8:])
		}
		send(1300)
	}
}

func TestErrorsAboutAnswersCross(t *testing.T) {
	w := newDatagramWires(t, nil)
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	w.client.send(udpFrom(client, server, []byte("question")))
	mapped := fromFar(w.server.expect("question", isUDP(server)))
	within(t, w.passed)
	w.server.send(udpFrom(server, mapped, []byte("answer")))
	answer := w.client.expect("answer", isUDP(client))
	w.client.send(icmpError(client.Addr(), server.Addr(), packet.Unreachable4, 3, answer.Raw))
	got := w.server.expect("error", isICMP)
	if quoted, ok := packet.Quoted(got.Body[8:]); !ok || got.Src != mapped.Addr() || quoted.Dst != mapped.Addr() || quoted.Src != server.Addr() ||
		binary.BigEndian.Uint16(quoted.Body[2:]) != mapped.Port() {
		t.Errorf("the server got % x from %v, want its answer to %v quoted", got.Body, got.Src, mapped)
	}
	w.client.send(icmpError(stranger, server.Addr(), packet.Unreachable4, 3, answer.Raw))
	w.server.none("an error of another client's", isICMP)
}

// What an ICMP error quotes is not read before it leaves: a client gets nothing out with one but about what has come for it.
func TestErrorsOfAFlowThatGetsNothingDoNotCross(t *testing.T) {
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	for _, row := range []struct {
		name     string
		end      func(*PassedDatagrams)
		answered bool
	}{
		{"refused", (*PassedDatagrams).Refuse, true},
		{"dropped", (*PassedDatagrams).Drop, true},
		{"killed", (*PassedDatagrams).Abort, true},
		{"not answered", nil, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newDatagramWires(t, func(b []byte) bool { return row.answered })
			w.client.send(udpFrom(client, server, []byte("question")))
			p := within(t, w.passed)
			if row.answered {
				mapped := fromFar(w.server.expect("question", isUDP(server)))
				w.server.send(udpFrom(server, mapped, []byte("answer")))
				w.client.expect("answer", isUDP(client))
			}
			if row.end != nil {
				row.end(p)
				within(t, w.ended)
			}
			w.client.send(icmpError(client.Addr(), server.Addr(), packet.Unreachable4, 3, udpFrom(server, client, []byte("smuggled"))))
			w.server.none("an error", isICMP)
		})
	}
}

// A packet without hops is answered where it is, whatever becomes of its flow.
func TestAClientSeesTheFirstHop(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newDatagramWires(t, nil)
		client, server := ends[0], ends[1]
		exceeded := byte(packet.TimeExceeded4)
		if client.Addr().Is6() {
			exceeded = packet.TimeExceeded6
		}
		for _, b := range [][]byte{
			udpFrom(client, server, []byte("probe")), echoRequest(client.Addr().String(), server.Addr().String(), 40),
			segment(client, server, 1, 0, flagSYN, nil),
			fragments(withHops(udpFrom(client, server, make([]byte, 800)), 1), 400)[0],
		} {
			b = withHops(b, 1)
			w.client.send(b)
			p := w.client.expect("answer", isICMP)
			if p.Body[0] != exceeded || !bytes.HasPrefix(b, p.Body[8:]) {
				t.Errorf("got % x, want that the hops of % x are exceeded", p.Body, b)
			}
			if !w.near.own(p.Src) {
				t.Errorf("the answer comes from %v, want from the stack", p.Src)
			}
		}
		w.client.send(fragments(withHops(udpFrom(client, server, make([]byte, 800)), 1), 400)[1])
		unreachable := byte(packet.Unreachable4)
		if client.Addr().Is6() {
			unreachable = packet.Unreachable6
		}
		about := icmpError(client.Addr(), server.Addr(), unreachable, 1, udpFrom(server, client, []byte("answer")))
		w.client.send(withHops(bytes.Clone(about), 1))
		w.client.send(fragments(withHops(about, 1), 16)[0])
		w.client.none("an answer to an error, or to the rest of a datagram", isICMP)
		w.server.none("anything", func(packet.Packet) bool { return true })
		if len(w.passed) > 0 {
			t.Error("there is a flow")
		}
	}
}

func TestADatagramThatIsTooBigIsNotCut(t *testing.T) {
	w := newDatagramWires(t, nil)
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	big := udpFrom(client, server, make([]byte, 1400))
	for range 2 { // the first makes the flow
		w.client.send(bytes.Clone(big))
		p := w.client.expect("error", isICMP)
		if p.Body[0] != packet.Unreachable4 || p.Body[1] != packet.FragmentationNeeded || binary.BigEndian.Uint32(p.Body[4:]) != 1420 {
			t.Errorf("got % x, want that 1420 bytes fit", p.Body[:8])
		}
		w.server.none("a datagram", func(packet.Packet) bool { return true })
	}
	w.client.send(mayBeCut(big))
	if got := w.server.whole(packet.ProtoUDP); len(got) != 1408 {
		t.Errorf("one that may be cut: the server got %d bytes, want 1408", len(got))
	}
}

func TestWhatEndsDatagramsThatCross(t *testing.T) {
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	for _, row := range []struct {
		name string
		end  func(w *datagramWires, p *PassedDatagrams)
		told bool // the client hears of it
	}{
		{"killed", func(_ *datagramWires, p *PassedDatagrams) { p.Abort() }, true},
		{"refused", func(_ *datagramWires, p *PassedDatagrams) { p.Refuse() }, true},
		{"dropped", func(_ *datagramWires, p *PassedDatagrams) { p.Drop() }, false},
		{"the client is closed", func(w *datagramWires, p *PassedDatagrams) { w.near.CloseClient(p.f.from.Client()) }, false},
		{"the far address is gone", func(w *datagramWires, _ *PassedDatagrams) { w.far.SetAddrs(nil) }, false},
		{"the far stack is closed", func(w *datagramWires, _ *PassedDatagrams) { w.far.Close() }, false},
		{"idle", func(w *datagramWires, _ *PassedDatagrams) { w.near.flows.Sweep(w.near.now() + int64(time.Hour)) }, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newDatagramWires(t, nil)
			w.client.send(udpFrom(client, server, []byte("question")))
			mapped := fromFar(w.server.expect("question", isUDP(server)))
			p := within(t, w.passed)
			row.end(w, p)
			within(t, w.ended)
			if row.told {
				w.client.expect("error", isICMP)
			}
			if row.name != "the far stack is closed" {
				w.server.send(udpFrom(server, mapped, []byte("late")))
			}
			w.client.none("a late answer", isUDP(client))
			eventually(t, "no flow in the tables", func() bool {
				now := w.near.now() + int64(2*time.Second) // a refused flow is remembered for a moment
				return w.near.flows.Sweep(now) == 0 && w.far.flows.Sweep(w.far.now()) == 0
			})
			if len(w.ended) > 0 {
				t.Error("it ended twice")
			}
		})
	}
}

// Both tables push flows out while packets come, and each flow ends once.
func TestDatagramsThatCrossUnderPressure(t *testing.T) {
	far, server := newWire(t, Config{Name: "far", Addrs: farAddrs, Limits: Limits{UDPFlows: 40}}, nil)
	var passed, ended, again atomic.Int32
	near, client := newWire(t, Config{Limits: Limits{UDPFlows: 60}, Handle: atOnce(func(_ context.Context, r *Request) {
		var once atomic.Bool
		_, err := r.PassDatagrams(far, DatagramPassage{Ended: func(error) {
			if once.Swap(true) {
				again.Add(1)
			}
			ended.Add(1)
		}})
		if err == nil {
			passed.Add(1)
		}
	})}, nil)
	over := make(chan struct{})
	defer close(over)
	go func() { // the server answers whatever comes
		for {
			select {
			case <-over:
				return
			case p := <-server.in:
				if p.Proto == packet.ProtoUDP {
					server.port.Write(link.Meta{}, [][]byte{udpFrom(netip.AddrPortFrom(p.Dst, 80), fromFar(p), []byte("answer"))})
				}
			}
		}
	}()
	for i := range 2000 {
		client.send(udpFrom(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(1000+i%500)), addr("203.0.113.9:80"), []byte("question")))
	}
	far.Close()
	near.Close() // also waits for the handlers
	eventually(t, "every flow end", func() bool { return ended.Load() == passed.Load() })
	if passed.Load() == 0 || again.Load() > 0 {
		t.Errorf("%d flows have passed, %d have ended twice", passed.Load(), again.Load())
	}
}

// What was queued before the flow crossed is read by the handler's goroutine, with the flow's lock let go.
func TestAReaderThatPanicsEndsNoProcess(t *testing.T) {
	w := newDatagramWires(t, func([]byte) bool { panic("what the client sent") })
	client, server := crossingEnds[0][0], crossingEnds[0][1]
	for range 2 {
		w.client.send(udpFrom(client, server, []byte("question")))
	}
	w.server.none("a datagram that nobody has read", isUDP(server))
	eventually(t, "the flow in the tables end", func() bool {
		later := w.near.now() + int64(time.Hour)
		return w.near.flows.Sweep(later) == 0 && w.far.flows.Sweep(later) == 0
	})
	within(t, w.ended)
}

// How long a flow may be silent is its client's side's to say: the port that was dialled from is any.
func TestAnAnsweredFlowThatCrossesIsIdleAsItsPortSays(t *testing.T) {
	for _, row := range []struct {
		server string
		port   uint16 // that the flow leaves from
		lasts  time.Duration
	}{
		{"203.0.113.9:443", 4000, 10 * time.Minute}, {"203.0.113.9:443", 443, 10 * time.Minute},
		{"203.0.113.9:4000", 3478, 5 * time.Minute}, {"203.0.113.9:53", 4000, 10 * time.Second},
	} {
		var clock atomic.Int64
		far, server := newWire(t, Config{Name: "far", Addrs: farAddrs}, clock.Load)
		near, client := newWire(t, Config{Limits: Limits{UDPIdle: 5 * time.Minute, UDPIdleQUIC: 10 * time.Minute}, Handle: atOnce(func(_ context.Context, r *Request) {
			if _, err := r.PassDatagrams(far, DatagramPassage{Port: row.port}); err != nil {
				t.Error(err)
			}
		})}, clock.Load)
		from, to := addr("10.0.0.2:5000"), addr(row.server)
		client.send(udpFrom(from, to, []byte("question")))
		server.send(udpFrom(to, fromFar(server.expect("question", isUDP(to))), []byte("answer")))
		client.expect("answer", isUDP(from))
		lasts := int64(row.lasts)
		if n, f := near.flows.Sweep(lasts), far.flows.Sweep(lasts); n != 1 || f != 1 {
			t.Errorf("%s from port %d: got %d and %d flows after %s of silence, want 1", row.server, row.port, n, f, row.lasts)
		}
		near.flows.Sweep(lasts + 1)
		eventually(t, "the flow end on both sides", func() bool { return near.flows.Sweep(lasts) == 0 && far.flows.Sweep(lasts) == 0 })
	}
}

// What a client's flow that ends has dialled goes a moment later: the flows of others do not make room meanwhile.
func TestAFloodThatCrossesTakesNobodysPlace(t *testing.T) {
	limits := Limits{UDPFlows: 64}
	far, _ := newWire(t, Config{Name: "far", Addrs: farAddrs, Limits: limits}, nil)
	var quietEnded atomic.Int32
	quiet := netip.MustParseAddr("10.0.2.2")
	passed := make(chan netip.Addr, 20000)
	near, client := newWire(t, Config{Client: byNetwork, Limits: limits, Handle: atOnce(func(_ context.Context, r *Request) {
		src := r.Src.Addr()
		_, err := r.PassDatagrams(far, DatagramPassage{Ended: func(error) {
			if src == quiet {
				quietEnded.Add(1)
			}
		}})
		if err == nil {
			passed <- src
		}
	})}, nil)
	for port := range uint16(5) {
		client.send(udpFrom(netip.AddrPortFrom(quiet, 1000+port), web, []byte("question")))
		within(t, passed)
	}
	for sent, n := 0, 0; n < 5000; { // a flow that comes while too many begin is lost
		for range 100 {
			client.send(udpFrom(netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(1000+sent%50000)), web, []byte("question")))
			sent++
		}
		within(t, passed)
		for n++; len(passed) > 0; n++ {
			<-passed
		}
		if sent > 1_000_000 {
			t.Fatalf("of %d flows only %d have passed", sent, n)
		}
	}
	if n := quietEnded.Load(); n > 0 || near.flows.Held(2) != 5 {
		t.Errorf("%d flows of the quiet client have ended, it has %d, want 5", n, near.flows.Held(2))
	}
}

// Otherwise traceroute would reach the server too early, and a marked flow would lose its mark.
func TestWhatLeavesLaterLeavesInTheMannerThatItCame(t *testing.T) {
	manners := make(chan uint32, 1)
	w := readDatagramWires(t, func(_ []byte, manner uint32) bool { manners <- manner; return false })
	for _, ends := range crossingEnds {
		client, server := ends[0], ends[1]
		w.client.send(withHops(udpFrom(client, server, []byte("held")), 2))
		within(t, w.passed).Send([]byte("held"), within(t, manners))
		got := packet.MannerOf(w.server.expect("held", isUDP(server)).Raw)
		if got.Hops != 1 || got.Service != 0x2e {
			t.Errorf("%v: got %+v, want one hop and the service", client, got)
		}
	}
}

// Its other half, beyond, is closed a moment later.
func TestNothingOfAClientThatIsGoneLeaves(t *testing.T) {
	w := newDatagramWires(t, func(b []byte) bool { return string(b) == "question" })
	server := crossingEnds[0][1]
	for port := range uint16(100) {
		w.client.send(udpFrom(netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), 2000+port), server, []byte("question")))
		w.server.expect("question", isUDP(server))
		p := within(t, w.passed)
		w.near.CloseClient(1)
		p.Send([]byte("judged just now"), 0)
		within(t, w.ended)
	}
	w.server.none("what was sent for a client that is gone", isUDP(server))
}
