package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/stack/link"
	"penstock/stack/packet"
)

// TestAFlowIsBegunWhereItsFirstPacketIsRead writes first packets to a device and looks whether their flows were handled when the write
// returned, by the goroutine that wrote.
func TestAFlowIsBegunWhereItsFirstPacketIsRead(t *testing.T) {
	src := addr("10.0.0.2:5000")
	for _, row := range []struct {
		name   string
		packet []byte
		here   bool
	}{
		{"TCP", segment(src, web, 1, 0, flagSYN, nil), true},
		{"TCP, IPv6", segment(addr("[fd00::2]:5000"), addr("[2001:db8::9]:80"), 1, 0, flagSYN, nil), true},
		{"UDP", udpFrom(src, web, []byte("x")), true},
		{"TCP with IP options", withOption(segment(src, web, 1, 0, flagSYN, nil)), false}, // gVisor reads them
	} {
		t.Run(row.name, func(t *testing.T) {
			var here atomic.Bool
			handled := make(chan *Request, 1)
			s, err := New(Config{Addrs: serverAddrs, Handle: atOnce(func(_ context.Context, r *Request) {
				stack := make([]byte, 64<<10)
				here.Store(bytes.Contains(stack[:runtime.Stack(stack, false)], []byte("testing.tRunner(")))
				r.Drop()
				handled <- r
			})})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			b := append(make([]byte, 16), row.packet...)
			if _, err := s.Device().Write([][]byte{b}, 16); err != nil {
				t.Fatal(err)
			}
			within(t, handled)
			if here.Load() != row.here {
				t.Errorf("handled where the packet was read: got %v, want %v", here.Load(), row.here)
			}
		})
	}
}

// withOption gives a packet of IPv4 an option that says nothing.
func withOption(b []byte) []byte {
	o := append(append(bytes.Clone(b[:20]), 1, 1, 1, 0), b[20:]...)
	o[0] = 0x46
	o[3] += 4
	o[10], o[11] = 0, 0
	sum := link.Checksum(o[:24], 0)
	o[10], o[11] = byte(sum>>8), byte(sum)
	return o
}

// TestFlowsThatAreClosedWhileTheyBeginLeaveNothing has handlers of every kind while their client is closed again and again, and then
// wants each of its ports answered once more.
func TestFlowsThatAreClosedWhileTheyBeginLeaveNothing(t *testing.T) {
	var refuse atomic.Bool
	s, w := newWire(t, Config{Client: byNetwork, Limits: Limits{Handshake: 50 * time.Millisecond}, Handle: func(_ context.Context, r *Request) func(context.Context) {
		if refuse.Load() {
			r.Refuse()
			return nil
		}
		switch rand.IntN(5) {
		case 0:
			r.Drop()
			return nil
		case 1:
			return func(context.Context) { r.Refuse() }
		case 2:
			return func(context.Context) { r.Accept() }
		case 3:
			return func(ctx context.Context) { <-ctx.Done() }
		}
		return nil
	}}, nil)
	const ports = 50
	from := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(1000+i))
	}
	var closing sync.WaitGroup
	stop := make(chan struct{})
	closing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.CloseClient(1)
			}
		}
	})
	for round := range 200 {
		for i := range ports {
			w.send(segment(from(i), web, uint32(round), 0, flagSYN, nil))
			if i%7 == 0 {
				w.send(segment(from(i), web, uint32(round)+1, 0, flagRST, nil))
			}
		}
	}
	close(stop)
	closing.Wait()
	eventually(t, "all flows are over", func() bool {
		s.CloseClient(1) // the stack may still read the last ones
		s.tcp.mu.Lock()
		defer s.tcp.mu.Unlock()
		return s.tcp.syns.Len() == 0 && len(s.tcp.dials.Owners()) == 0 && len(s.tcp.open.Owners()) == 0
	})
	refuse.Store(true)
	for i := range ports {
		w.send(segment(from(i), web, 5, 0, flagSYN, nil))
		w.expect("RST", isTCP(web, from(i), flagRST|flagACK))
	}
}

// TestASYNIsAnsweredHoweverItCame refuses and accepts SYNs of every form that a client may send.
func TestASYNIsAnsweredHoweverItCame(t *testing.T) {
	v6 := addr("[fd00::2]:5000")
	site := addr("[2001:db8::9]:80")
	plain := func(flags byte, data []byte) [2][]byte {
		return [2][]byte{segment(addr("10.0.0.2:5000"), web, 77, 0, flags, data), segment(v6, site, 77, 0, flags, data)}
	}
	bare := plain(flagSYN, nil)
	long := plain(flagSYN, make([]byte, 40))
	for _, row := range []struct {
		name    string
		packets [][]byte
		ack     uint32
	}{
		{"with IP options", [][]byte{withOption(bare[0])}, 78},
		{"in an atomic fragment", [][]byte{atomicFragment(bare[1])}, 78},
		{"with data, in fragments", fragments(long[0], 40), 118},
		{"with data, in fragments, IPv6", fragments(long[1], 40), 118},
		{"with data", [][]byte{plain(flagSYN, []byte("abc"))[0]}, 81},
		{"with FIN", [][]byte{plain(flagSYN|flagFIN, nil)[0]}, 79},
		{"with FIN and IP options", [][]byte{withOption(plain(flagSYN|flagFIN, nil)[0])}, 79},
	} {
		src, dst := addr("10.0.0.2:5000"), web
		if row.packets[0][0]>>4 == 6 {
			src, dst = v6, site
		}
		for how, handle := range map[string]Handler{
			"refused":       atOnce(func(_ context.Context, r *Request) { r.Refuse() }),
			"refused later": Waiting(func(_ context.Context, r *Request) { r.Refuse() }),
		} {
			t.Run(row.name+", "+how, func(t *testing.T) {
				_, w := newWire(t, Config{Handle: handle}, nil)
				for _, b := range row.packets {
					w.send(b)
				}
				if got := binary.BigEndian.Uint32(w.expect("RST", isTCP(dst, src, flagRST|flagACK)).Body[8:]); got != row.ack {
					t.Errorf("got RST that acknowledges %d, want %d", got, row.ack)
				}
			})
		}
		t.Run(row.name+", accepted", func(t *testing.T) {
			flows := make(chan *kept, 1)
			_, w := newWire(t, Config{Handle: Waiting(keeping(flows))}, nil)
			for _, b := range row.packets {
				w.send(b)
			}
			p := w.expect("SYN-ACK", isTCP(dst, src, flagSYN|flagACK))
			w.send(segment(src, dst, 78, binary.BigEndian.Uint32(p.Body[4:])+1, flagACK, nil))
			if k := within(t, flows); k.err != nil {
				t.Error(k.err)
			}
		})
	}
}

// TestASYNInFragmentsCrosses passes a SYN that came in fragments.
func TestASYNInFragmentsCrosses(t *testing.T) {
	for _, ends := range crossingEnds {
		w := newCrossingWires(t, Config{}, 0)
		for _, f := range fragments(segment(ends[0], ends[1], 77, 0, flagSYN, nil), 16) {
			w.client.send(f)
		}
		f := w.begun(ends[0], ends[1], 77)
		w.accept(f)
	}
}

// TestASYNToOrFromABroadcastAddressIsNoFlow sends SYNs that no host may answer (RFC 1122, 4.2.3.10).
func TestASYNToOrFromABroadcastAddressIsNoFlow(t *testing.T) {
	_, w := newWire(t, Config{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24")}, Handle: atOnce(func(_ context.Context, r *Request) {
		r.Refuse()
	})}, nil)
	w.send(segment(addr("10.0.0.2:5000"), addr("10.0.0.255:80"), 1, 0, flagSYN, nil))
	w.send(segment(addr("10.0.0.255:5000"), web, 1, 0, flagSYN, nil))
	w.send(segment(addr("10.0.0.2:5000"), addr("10.0.1.255:80"), 1, 0, flagSYN, nil)) // of no network of the stack
	p := w.expect("RST", func(packet.Packet) bool { return true })
	if !isTCP(addr("10.0.1.255:80"), addr("10.0.0.2:5000"), flagRST)(p) {
		t.Errorf("a SYN to or from a broadcast address was answered: %v to %v", p.Src, p.Dst)
	}
}

// TestPortsAreFreeOnceTheirClientIsClosed closes a client whose handlers go on, while gVisor has its SYNs.
func TestPortsAreFreeOnceTheirClientIsClosed(t *testing.T) {
	begun := make(chan struct{}, 1)
	release := make(chan struct{})
	s, w := newWire(t, Config{Client: byNetwork, Handle: func(context.Context, *Request) func(context.Context) {
		begun <- struct{}{}
		return func(context.Context) { <-release }
	}}, nil)
	defer close(release)
	for i := range 200 {
		w.send(segment(netip.AddrPortFrom(netip.MustParseAddr("10.0.1.2"), uint16(1000+i)), web, 1, 0, flagSYN, nil))
		within(t, begun)
		s.CloseClient(1)
		eventually(t, "the port is free", func() bool {
			s.tcp.mu.Lock()
			defer s.tcp.mu.Unlock()
			return s.tcp.syns.Len() == 0
		})
	}
}
