package meter

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.zx2c4.com/wireguard/tun"
)

// device is a stack: what is in out is read from it, and it keeps what is written.
type device struct {
	tun.Device
	out  chan []byte
	wake chan struct{}

	mu sync.Mutex // guards below
	in [][]byte
}

func newDevice() *device {
	return &device{out: make(chan []byte, 100_000), wake: make(chan struct{}, 1)}
}

func (d *device) Wake() { signal(d.wake) }

func (d *device) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	select {
	case p, ok := <-d.out:
		if !ok {
			return 0, os.ErrClosed
		}
		sizes[0] = copy(bufs[0][offset:], p)
		n = 1
	case <-d.wake:
		return 0, nil
	}
	for n < len(bufs) {
		select {
		case p, ok := <-d.out:
			if !ok {
				return n, nil
			}
			sizes[n] = copy(bufs[n][offset:], p)
			n++
			continue
		default:
		}
		break
	}
	return n, nil
}

func (d *device) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range bufs {
		d.in = append(d.in, append([]byte(nil), b[offset:]...))
	}
	return len(bufs), nil
}

func (d *device) written() [][]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.in
}

var (
	ana, bob, other = netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("10.99.0.3"), netip.MustParseAddr("10.20.0.1")
	ana6            = netip.MustParseAddr("fd99::2")
)

// from makes a packet with a number in it.
func from(src, dst netip.Addr, number, size int) []byte {
	p := make([]byte, size)
	if src.Is4() {
		p[0] = 0x45
		copy(p[12:], src.AsSlice())
		copy(p[16:], dst.AsSlice())
	} else {
		p[0] = 0x60
		copy(p[8:], src.AsSlice())
		copy(p[24:], dst.AsSlice())
	}
	binary.BigEndian.PutUint32(p[size-4:], uint32(number))
	return p
}

func number(p []byte) int { return int(binary.BigEndian.Uint32(p[len(p)-4:])) }

func peerOf(id string, addrs ...netip.Addr) Peer {
	p := Peer{ID: id}
	for _, a := range addrs {
		p.Addrs = append(p.Addrs, netip.PrefixFrom(a, a.BitLen()))
	}
	return p
}

// started returns a meter that runs until the test ends, and what its reader has read.
func started(t *testing.T, d *device) (*Meter, func() [][]byte) {
	t.Helper()
	m := New(d)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var got [][]byte
	wg.Go(func() { m.Run(ctx) })
	wg.Go(func() {
		bufs, sizes := make([][]byte, 128), make([]int, 128)
		for i := range bufs {
			bufs[i] = make([]byte, 16<<10)
		}
		for {
			n, err := m.Read(bufs, sizes, 16)
			if err != nil {
				return
			}
			mu.Lock()
			for i := range n {
				if sizes[i] > 0 {
					got = append(got, append([]byte(nil), bufs[i][16:16+sizes[i]]...))
				}
			}
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		close(d.out)
		wg.Wait()
	})
	return m, func() [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return got
	}
}

// inOrder returns an error unless the numbers of packets grow.
func inOrder(packets [][]byte) error {
	for i := 1; i < len(packets); i++ {
		if number(packets[i]) <= number(packets[i-1]) {
			return fmt.Errorf("packet %d comes after %d", number(packets[i]), number(packets[i-1]))
		}
	}
	return nil
}

func TestARateIsReachedAndNotExceeded(t *testing.T) {
	for name, c := range map[string]struct {
		rate     int64 // bits per second
		size     int
		overload float64
	}{
		"little":                {64_000, 500, 3},
		"a few megabits":        {10_000_000, 1420, 1.2},
		"a lot":                 {200_000_000, 1420, 1.2},
		"much more than a lot":  {2_000_000_000, 1420, 1.1},
		"many times the rate":   {10_000_000, 1420, 30},
		"packets without data":  {10_000_000, 52, 2},
		"larger than a segment": {50_000_000, 9000, 1.5},
	} {
		for _, way := range []Direction{Up, Down} {
			t.Run(fmt.Sprint(name, way), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := newDevice()
					m, got := started(t, d)
					m.Use([]Peer{peerOf("ana", ana)})["ana"].SetRates(c.rate*int64(1-way), c.rate*int64(way))
					const steps = 1000 // of 1 ms
					sent, due := 0, 0.0
					for range steps {
						for due += c.overload * float64(c.rate) / 8 / 1000; due >= float64(c.size); due -= float64(c.size) {
							if sent++; way == Up {
								m.Write([][]byte{from(ana, other, sent, c.size)}, 0)
							} else {
								d.out <- from(other, ana, sent, c.size)
							}
						}
						time.Sleep(time.Millisecond)
					}
					synctest.Wait()
					packets := d.written()
					if way == Down {
						packets = got()
					}
					if err := inOrder(packets); err != nil {
						t.Error(err)
					}
					rate, most := float64(len(packets)*c.size*8), float64(c.rate)+8*float64(max(int64(minBurst), c.rate/8/50)+int64(c.size))
					if rate > most*1.001 || rate < 0.97*float64(c.rate) {
						t.Errorf("got %.0f bits in a second, want %d, and at most %.0f", rate, c.rate, most)
					}
					if held := m.held.Load(); held > maxHeld+9000 || held < 0 {
						t.Errorf("lanes hold %d bytes", held)
					}
				})
			})
		}
	}
}

// TestAFloodGetsItsWholeRate looks at a lane more often than a byte of its rate takes.
func TestAFloodGetsItsWholeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m, _ := started(t, d)
		a := m.Use([]Peer{peerOf("ana", ana)})["ana"]
		a.SetRates(64_000, 0)
		for range 5 * 530 { // every 1.89 bytes of the rate
			m.Write([][]byte{from(ana, other, 1, 100)}, 0)
			time.Sleep(236 * time.Microsecond)
		}
		if rest := 5 * 530 * 236e-6 * 64_000 / 8; float64(a.Used()) < minBurst+0.9*rest {
			t.Errorf("got %d bytes, want the burst and %.0f more", a.Used(), rest)
		}
	})
}

func TestLiftedLimitsLetOutWhatWaitsAndNothingWaitsBehindIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m, got := started(t, d)
		a := m.Use([]Peer{peerOf("ana", ana)})["ana"]
		a.SetRates(64_000, 64_000)
		for i := range 200 { // far more than a lane holds
			m.Write([][]byte{from(ana, other, i, 1000)}, 0)
			d.out <- from(other, ana, i, 1000)
		}
		synctest.Wait()
		dropped, began := a.Dropped(), time.Now()
		if dropped == 0 {
			t.Fatal("the lanes are not full")
		}
		m.Lift()
		for i := range 300 {
			m.Write([][]byte{from(ana, other, 200+i, 1000)}, 0)
			d.out <- from(other, ana, 200+i, 1000)
		}
		m.Settle(time.Minute)
		synctest.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("what waits needs %v", took)
		}
		for way, packets := range map[string][][]byte{"up": d.written(), "down": got()} {
			if err := inOrder(packets); err != nil || number(packets[len(packets)-1]) != 499 {
				t.Errorf("%s: got %d packets, %v; want the last one, too", way, len(packets), err)
			}
		}
		if a.Dropped() != dropped || a.Used()+dropped != 2*500*1000 {
			t.Errorf("got %d used, %d dropped before and %d now", a.Used(), dropped, a.Dropped())
		}
	})
}

func TestWhatWaitsLeavesInOrderAndAllIsAccountedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m, got := started(t, d)
		a := m.Use([]Peer{peerOf("ana", ana, ana6)})["ana"]
		a.SetRates(8_000_000, 8_000_000)
		const count, size = 60, 1000
		for i := range count {
			m.Write([][]byte{from(ana, other, i, size)}, 0)
			d.out <- from(netip.MustParseAddr("fd20::1"), ana6, i, size)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		synctest.Wait()
		for way, packets := range map[string][][]byte{"up": d.written(), "down": got()} {
			if err := inOrder(packets); err != nil || len(packets) != count {
				t.Errorf("%s: got %d packets, %v; want %d in order", way, len(packets), err, count)
			}
		}
		if a.Used() != 2*count*size || a.Dropped() != 0 {
			t.Errorf("got %d used and %d dropped, want %d and none", a.Used(), a.Dropped(), 2*count*size)
		}
		for i := range 1000 { // far more than a lane holds
			m.Write([][]byte{from(ana, other, i, size)}, 0)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		packets, bytes := m.Dropped(Up)
		if a.Dropped() == 0 || bytes != a.Dropped() || packets*size != bytes {
			t.Errorf("the flood: got %d dropped, %d packets of %d bytes", a.Dropped(), packets, bytes)
		}
		if want := uint64(2*count*size) + 1000*size; a.Used()+a.Dropped() != want {
			t.Errorf("got %d used and %d dropped, want %d together", a.Used(), a.Dropped(), want)
		}
		if held := m.held.Load(); held != 0 {
			t.Errorf("empty lanes hold %d bytes", held)
		}
	})
}

func TestAPeerDoesNotWaitForAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice()
		m, got := started(t, d)
		m.Use([]Peer{peerOf("ana", ana), peerOf("bob", bob)})["ana"].SetRates(64_000, 64_000)
		for i := range 2000 {
			m.Write([][]byte{from(ana, other, i, 1000)}, 0)
			d.out <- from(other, ana, i, 1000)
		}
		began := time.Now()
		for i := range 100 {
			m.Write([][]byte{from(bob, other, i, 1000)}, 0)
			d.out <- from(other, bob, i, 1000)
			d.out <- from(other, other, i, 1000) // of nobody who is counted
		}
		synctest.Wait()
		count := func(packets [][]byte, at int, addr netip.Addr) (n int) {
			for _, p := range packets {
				if a, _ := netip.AddrFromSlice(p[at : at+4]); a == addr {
					n++
				}
			}
			return n
		}
		if up, down, rest := count(d.written(), 12, bob), count(got(), 16, bob), count(got(), 16, other); up != 100 || down != 100 || rest != 100 {
			t.Errorf("got %d and %d packets of bob's and %d of others, want 100 each", up, down, rest)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("that took %v", took)
		}
	})
}

func TestNothingOfARemovedPeerIsLetOut(t *testing.T) {
	for name, next := range map[string][]Peer{
		"it is gone":             {},
		"another has its place":  {peerOf("bob", ana)},
		"it has another address": {peerOf("ana", bob)},
		"it has one of two less": {peerOf("ana", ana6)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDevice()
				m, got := started(t, d)
				a := m.Use([]Peer{peerOf("ana", ana, ana6)})["ana"]
				a.SetRates(1_000_000, 1_000_000)
				for i := range 100 {
					m.Write([][]byte{from(ana, other, i, 1000)}, 0)
					d.out <- from(other, ana, i, 1000)
				}
				synctest.Wait()
				m.Use(next)
				up, down := len(d.written()), len(got())
				time.Sleep(time.Second)
				synctest.Wait()
				if up != len(d.written()) || down != len(got()) {
					t.Errorf("got %d and %d more packets", len(d.written())-up, len(got())-down)
				}
				if held := m.held.Load(); held != 0 {
					t.Errorf("%d bytes are held", held)
				}
				if len(m.lanes) != 0 {
					t.Errorf("%d lanes are listed", len(m.lanes))
				}
				m.Use([]Peer{peerOf("ana", ana, ana6)})["ana"].SetRates(1_000_000, 0)
				if m.Write([][]byte{from(ana, other, 1, 1000)}, 0); up+1 != len(d.written()) {
					t.Error("when it is back, it cannot send")
				}
			})
		})
	}
}

func TestAMarkIsTold(t *testing.T) {
	m := New(newDevice())
	a := m.Use([]Peer{peerOf("ana", ana)})["ana"]
	a.SetMark(2500)
	for i, want := range []bool{false, false, true, false} {
		m.Write([][]byte{from(ana, other, i, 1000)}, 0)
		select {
		case <-m.Crossed():
			if !want {
				t.Errorf("after %d bytes: the mark is told", a.Used())
			}
		default:
			if want {
				t.Errorf("after %d bytes: the mark is not told", a.Used())
			}
		}
	}
}

// TestChangesWhilePacketsCross is for the race detector.
func TestChangesWhilePacketsCross(t *testing.T) {
	d := newDevice()
	m, _ := started(t, d)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for _, src := range []netip.Addr{ana, bob} {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				m.Write([][]byte{from(src, other, i, 1000), {}, make([]byte, 19), from(src, other, i, 1000)}, 0)
				select {
				case d.out <- from(other, src, i, 1000):
				default:
				}
			}
		})
	}
	for i := range 200 {
		peers := []Peer{peerOf("ana", ana), peerOf("bob", bob)}[:i%3]
		for _, a := range m.Use(peers) {
			a.SetRates(int64(i%2)*80_000_000, 80_000_000)
			a.SetMark(a.Used() + 1000)
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	wg.Wait()
}

// sink is a device that costs nothing.
type sink struct {
	tun.Device
	packet []byte
}

func (sink) Wake() {}

func (sink) Write(bufs [][]byte, _ int) (int, error) { return len(bufs), nil }

func (s sink) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	for i := range bufs {
		sizes[i] = copy(bufs[i][offset:], s.packet)
	}
	return len(bufs), nil
}

// BenchmarkMeter carries 16 packets of 1420 bytes each way: without a meter, with one and no limits, and with limits on
// 1000 peers.
func BenchmarkMeter(b *testing.B) {
	var many []Peer
	for i := range 1000 {
		many = append(many, peerOf(fmt.Sprint(i), netip.AddrFrom4([4]byte{10, 99, byte(i / 256), byte(i)})))
	}
	peer := netip.AddrFrom4([4]byte{10, 99, 1, 1})
	inner := sink{packet: from(other, peer, 1, 1420)}
	for _, c := range []struct {
		name  string
		meter bool
		rate  int64
		peers []Peer
	}{{"none", false, 0, nil}, {"no limits", true, 0, nil}, {"quotas", true, 0, many}, {"rates", true, 1e12, many}} {
		b.Run(c.name, func(b *testing.B) {
			var d Device = inner
			if c.meter {
				m := New(inner)
				for _, a := range m.Use(c.peers) {
					a.SetRates(c.rate, c.rate)
				}
				d = m
			}
			up, bufs, sizes := make([][]byte, 16), make([][]byte, 16), make([]int, 16)
			for i := range up {
				up[i], bufs[i] = from(peer, other, 1, 1420), make([]byte, 2048)
			}
			b.ReportAllocs()
			for b.Loop() {
				d.Write(up, 0)
				d.Read(bufs, sizes, 16)
			}
		})
	}
}

// BenchmarkCrowdedLane carries 16 packets a round through a lane that holds them all.
func BenchmarkCrowdedLane(b *testing.B) {
	m := New(sink{})
	m.Use([]Peer{peerOf("ana", ana)})["ana"].SetRates(1e9, 0)
	l := &m.table.Load().accounts["ana"].lanes[Up]
	up := make([][]byte, 16)
	for i := range up {
		up[i] = from(ana, other, 1, 1420)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.mu.Lock()
		l.tokens, l.filled = -1, m.elapsed()+time.Hour // nothing passes at once
		l.mu.Unlock()
		m.Write(append([][]byte(nil), up...)[:16:16], 0)
		l.mu.Lock()
		l.tokens, l.filled = 1<<30, 0
		l.mu.Unlock()
		m.pace()
	}
}
