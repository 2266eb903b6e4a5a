package meter

import (
	"sync"
	"sync/atomic"
	"time"
)

// Account is what a peer has sent and got since it was first counted, and its limits.
type Account struct {
	meter   *Meter
	lanes   [2]lane
	used    atomic.Uint64 // bytes, both ways
	dropped atomic.Uint64 // bytes, both ways
	mark    atomic.Uint64 // see SetMark; 0: none
}

func newAccount(m *Meter) *Account {
	a := &Account{meter: m}
	for d := range a.lanes {
		a.lanes[d].account, a.lanes[d].dir = a, Direction(d)
		a.lanes[d].tokens = minBurst
	}
	return a
}

// Used returns how many bytes have passed, both ways. It only grows.
func (a *Account) Used() uint64 { return a.used.Load() }

// Dropped returns how many bytes were dropped, both ways.
func (a *Account) Dropped() uint64 { return a.dropped.Load() }

// SetRates limits the bandwidth, in bits per second. 0 is no limit.
func (a *Account) SetRates(up, down int64) {
	a.lanes[Up].rate.Store(up / 8)
	a.lanes[Down].rate.Store(down / 8)
}

// SetMark makes Meter.Crossed tell when Used reaches a number. 0 is never.
func (a *Account) SetMark(used uint64) { a.mark.Store(used) }

// pass reports whether a packet may go on now, and counts it then.
func (a *Account) pass(d Direction, packet []byte, t *table, now time.Duration) bool {
	if !a.lanes[d].pass(packet, t, now) {
		return false
	}
	a.count(len(packet))
	return true
}

// Spend counts bytes that a peer has sent or got without the device, and returns how long it must wait for its rate. 0 bytes count
// nothing. It holds back the peer's packets too.
func (a *Account) Spend(d Direction, size int) (wait time.Duration) {
	if size > 0 {
		a.count(size)
	}
	return a.lanes[d].spend(int64(size), a.meter.elapsed())
}

func (a *Account) count(size int) {
	used := a.used.Add(uint64(size))
	if mark := a.mark.Load(); mark > 0 && used >= mark && used-uint64(size) < mark {
		signal(a.meter.crossed)
	}
}

// send sends packets on that have left a lane. The caller holds Meter.pacing.
func (a *Account) send(d Direction, packets []*packet) {
	m := a.meter
	if d == Down {
		m.exit.add(packets)
		m.Wake()
		return
	}
	bufs := m.bufs[:0]
	for _, q := range packets {
		if q.term == q.of.term.Load() {
			bufs = append(bufs, q.buf[:q.size])
			a.count(q.size)
		} else {
			m.drop(q.of, q.size)
		}
	}
	if len(bufs) > 0 {
		m.Device.Write(bufs, 0) // fails only once the device is closed
	}
	for _, q := range packets {
		m.release(q)
	}
}

// exit is where packets to peers wait for the reader. What it holds is bounded by maxHeld.
type exit struct {
	n  atomic.Int32 // len(packets)-head
	mu sync.Mutex   // guards below

	packets []*packet
	head    int
}

func (e *exit) add(packets []*packet) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.packets = append(e.packets, packets...)
	e.n.Store(int32(len(e.packets) - e.head))
}

// read moves packets to the reader's buffers.
func (e *exit) read(m *Meter, bufs [][]byte, sizes []int, offset int) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n < len(bufs) && e.head < len(e.packets) {
		q := e.packets[e.head]
		e.packets[e.head] = nil
		e.head++
		switch current := q.term == q.of.term.Load(); {
		case current && len(bufs[n]) >= offset+q.size:
			sizes[n] = copy(bufs[n][offset:], q.buf[:q.size])
			q.of.account.count(q.size)
			n++
		default:
			m.drop(q.of, q.size)
		}
		m.release(q)
	}
	if e.head == len(e.packets) {
		e.packets, e.head = e.packets[:0], 0
	} else if e.head > len(e.packets)/2 {
		left := copy(e.packets, e.packets[e.head:])
		clear(e.packets[left:])
		e.packets, e.head = e.packets[:left], 0
	}
	e.n.Store(int32(len(e.packets) - e.head))
	return n
}
