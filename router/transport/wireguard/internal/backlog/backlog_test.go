package backlog

import (
	"encoding/binary"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// world is a Backlog and what came of what was received for it.
type world struct {
	*Backlog
	drops    int
	counters map[uint32]uint64
	now      time.Time
}

func newWorld() *world {
	w := &world{counters: make(map[uint32]uint64), now: time.Now()}
	w.Backlog = New(func() { w.drops++ })
	return w
}

// data makes a small packet of a session.
func data(index uint32, counter uint64) []byte { return dataOf(index, counter, 100) }

func dataOf(index uint32, counter uint64, size int) []byte {
	b := make([]byte, device.MessageTransportSize+size)
	b[0] = device.MessageTransportType
	binary.LittleEndian.PutUint32(b[device.MessageTransportOffsetReceiver:], index)
	binary.LittleEndian.PutUint64(b[device.MessageTransportOffsetCounter:], counter)
	return b
}

// come receives n packets of a session, and returns those that were not dropped.
func (w *world) come(index uint32, n int) (passed [][]byte) {
	packets, sizes := make([][]byte, n), make([]int, n)
	for i := range packets {
		w.counters[index]++
		packets[i] = data(index, w.counters[index])
		sizes[i] = len(packets[i])
	}
	w.received(packets, sizes, w.now)
	for i, size := range sizes {
		if size > 0 {
			passed = append(passed, packets[i])
		}
	}
	return passed
}

// know has a session handed on a packet, as the first of a peer is.
func (w *world) know(indices ...uint32) {
	for _, index := range indices {
		w.handed(w.come(index, 1), w.now)
	}
}

func TestOnePeerDoesNotFillADevice(t *testing.T) {
	w := newWorld()
	w.know(1, 2)
	if got := len(w.come(1, 10*Most)); got != Most/2 || w.drops != 10*Most-Most/2 {
		t.Fatalf("got %d packets of a flood passed and %d dropped, want %d and the others", got, w.drops, Most/2)
	}
	if got := len(w.come(2, Most/4)); got != Most/4 {
		t.Errorf("beside a flood: got %d of %d packets of another peer passed, want all", got, Most/4)
	}
}

func TestLargePacketsMayWaitLonger(t *testing.T) {
	w := newWorld()
	w.know(1, 2)
	passed := 0
	for i := range uint64(2 * MostLarge) {
		packet := dataOf(1, 2+i, 1400)
		sizes := []int{len(packet)}
		w.received([][]byte{packet}, sizes, w.now)
		if sizes[0] > 0 {
			passed++
		}
	}
	if passed != MostLarge/2 {
		t.Errorf("got %d large packets passed, want %d", passed, MostLarge/2)
	}
	if got := len(w.come(2, least)); got != least {
		t.Errorf("beside them: got %d of %d small ones of another peer passed, want all", got, least)
	}
}

func TestTwoFloodsShare(t *testing.T) {
	w := newWorld()
	w.know(1, 2, 3)
	got := make(map[uint32]int)
	for range 2 * Most {
		for _, index := range []uint32{1, 2} {
			got[index] += len(w.come(index, 1))
		}
	}
	for _, index := range []uint32{1, 2} {
		if n := got[index]; n < Most/3-1 || n > Most/3+1 {
			t.Errorf("flood %d: got %d packets passed, want about %d", index, n, Most/3)
		}
	}
	if n := len(w.come(3, least)); n != least {
		t.Errorf("beside two floods: got %d of %d packets passed, want all", n, least)
	}
}

func TestWhatWasHandedOnWaitsNoMore(t *testing.T) {
	w := newWorld()
	w.know(1)
	for range 100 {
		passed := w.come(1, Most/2)
		if len(passed) != Most/2 {
			t.Fatalf("got %d packets passed, want %d", len(passed), Most/2)
		}
		for len(passed) > 0 {
			n := min(128, len(passed))
			w.handed(passed[:n], w.now)
			passed = passed[n:]
		}
		if w.waiting != 0 {
			t.Fatalf("got %d packets waiting after all were handed on, want none", w.waiting)
		}
	}
}

// TestWhatTheDeviceDropsDoesNotWait has packets come that are not handed on, because somebody else has made them.
func TestWhatTheDeviceDropsDoesNotWait(t *testing.T) {
	w := newWorld()
	w.know(1)
	w.come(1, Most/4)
	w.handed(w.come(1, 1), w.now)
	if w.waiting != 0 {
		t.Errorf("got %d packets waiting when a later one was handed on, want none", w.waiting)
	}
	w.come(1, Most)
	if got := len(w.come(1, 1)); got != 0 {
		t.Fatalf("got %d packets passed by a full session, want none", got)
	}
	w.now = w.now.Add(stale)
	if got := len(w.come(1, 1)); got != 1 {
		t.Errorf("got %d packets passed after none was handed on for %v, want 1", got, stale)
	}
}

func TestWhatIsNoDataPasses(t *testing.T) {
	w := newWorld()
	w.know(1)
	w.come(1, Most)
	keepalive, handshake := data(1, 1)[:device.MessageTransportSize], make([]byte, device.MessageInitiationSize)
	handshake[0] = device.MessageInitiationType
	packets, sizes := [][]byte{keepalive, handshake, nil, {4}}, []int{len(keepalive), len(handshake), 0, 1}
	w.received(packets, sizes, w.now)
	if sizes[0] != len(keepalive) || sizes[1] != len(handshake) || sizes[3] != 1 {
		t.Errorf("got sizes %v, want nothing dropped", sizes)
	}
}

func TestStrangersAreNotKept(t *testing.T) {
	w := newWorld()
	for i := range uint32(10_000) {
		if len(w.come(i, 1)) != 1 {
			t.Fatal("a packet of no session was dropped, want that left to the device")
		}
	}
	if len(w.sessions) != 0 || w.waiting != 0 {
		t.Errorf("got %d sessions and %d waiting, want none", len(w.sessions), w.waiting)
	}
}

func TestOldSessionsAreForgotten(t *testing.T) {
	w := newWorld()
	for i := range uint32(10_000) {
		w.know(i)
		w.come(i, 2)
		w.now = w.now.Add(sessionLasts / 100)
	}
	if n := len(w.sessions); n > 300 {
		t.Errorf("got %d sessions, of which 100 can be alive, want the others forgotten", n)
	}
	if n := w.waiting; n > 2*len(w.sessions) {
		t.Errorf("got %d packets waiting of %d sessions, want those of others forgotten", n, len(w.sessions))
	}
}

// BenchmarkBatch is what a full batch of one peer costs, in and out.
func BenchmarkBatch(b *testing.B) {
	for _, row := range []struct {
		name  string
		peers uint32
	}{{"one peer", 1}, {"a peer for each packet", 128}} {
		b.Run(row.name, func(b *testing.B) {
			w, packets, sizes, counter := newWorld(), make([][]byte, 128), make([]int, 128), uint64(0)
			for i := range packets {
				packets[i] = data(uint32(i)%row.peers, 0)
				w.know(uint32(i) % row.peers)
			}
			b.ReportAllocs()
			for b.Loop() {
				counter++
				for i := range packets {
					binary.LittleEndian.PutUint64(packets[i][device.MessageTransportOffsetCounter:], counter*128+uint64(i))
					sizes[i] = len(packets[i])
				}
				w.received(packets, sizes, w.now)
				w.handed(packets, w.now)
			}
			if w.drops > 0 || w.waiting > 0 {
				b.Fatalf("got %d dropped and %d waiting, want none", w.drops, w.waiting)
			}
		})
	}
}
