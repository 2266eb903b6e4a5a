package meter

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// burst is how much time a lane that was idle makes up for. Timers of a busy machine are late by less.
	burst = 20 * time.Millisecond
	// minBurst is the least that it makes up for, in bytes, so that a short exchange is not slowed down.
	minBurst = 16 << 10
	// patience is how long the last of a full lane waits. It is longer than the round trip of most paths, so that one TCP
	// connection fills a lane, and short enough to talk while it is full.
	patience = 100 * time.Millisecond
	// A lane holds at least minQueue, in bytes, and all lanes together at most maxHeld.
	minQueue = 32 << 10
	maxQueue = 8 << 20
	maxHeld  = 64 << 20
	// batch is how many packets leave a lane at once.
	batch = 128
	// Sizes of the buffers of packets without data, and of ordinary ones.
	tiny, ordinary = 256, 2048
)

// Buffers of most packets. Larger ones are rare, and the collector's.
var (
	tinyPool     = sync.Pool{New: func() any { return &packet{buf: make([]byte, tiny)} }}
	ordinaryPool = sync.Pool{New: func() any { return &packet{buf: make([]byte, ordinary)} }}
)

// packet is a packet that waits.
type packet struct {
	buf  []byte
	size int
	of   *lane
	term uint64 // of the lane, when the packet came
}

// lane limits one direction of one peer.
type lane struct {
	account *Account
	dir     Direction
	rate    atomic.Int64  // bytes per second; 0: no limit
	leaving atomic.Int32  // packets on their way out
	term    atomic.Uint64 // what came in an earlier term is not let out

	mu     sync.Mutex // guards below
	tokens int64      // bytes that may pass now; below 0 after a packet that was larger than what was left
	filled time.Duration
	queue  []*packet // from head on
	head   int
	bytes  int  // of the buffers in queue
	listed bool // in Meter.lanes
}

// fillLocked adds what the time since the last call allows.
func (l *lane) fillLocked(now time.Duration, rate int64) {
	most := max(rate*int64(burst)/int64(time.Second), minBurst)
	since := min(max(now-l.filled, 0), 10*time.Second)
	gained := int64(float64(since) * float64(rate) / float64(time.Second))
	if gained == 0 {
		return
	}
	l.tokens = min(l.tokens+gained, most)
	// Keep the fraction of a byte: a lane that is looked at for every packet of a flood would lose much of its rate.
	l.filled = now - since + time.Duration(float64(gained)*float64(time.Second)/float64(rate))
}

// pass reports whether a packet may go on now. If not, the lane keeps a copy or drops it.
func (l *lane) pass(p []byte, t *table, now time.Duration) bool {
	rate := l.rate.Load()
	if rate == 0 {
		return true
	}
	m, limit := l.account.meter, rate/int64(time.Second/patience)
	l.mu.Lock()
	defer l.mu.Unlock()
	lifted := m.lifted.Load()
	l.fillLocked(now, rate)
	if (l.tokens > 0 || lifted) && l.head == len(l.queue) && l.leaving.Load() == 0 {
		l.tokens -= int64(len(p))
		return true
	}
	full := l.bytes > int(min(max(limit, minQueue), maxQueue)) && !lifted
	// Where the table is another by now, the packet's address may be too, and clear is over.
	if full || m.held.Load() > maxHeld || m.table.Load() != t {
		m.drop(l, len(p))
		return false
	}
	q := l.keep(p)
	m.held.Add(int64(len(q.buf)))
	l.bytes += len(q.buf)
	l.queue = append(l.queue, q)
	if !l.listed {
		l.listed = true
		m.list(l)
	}
	return false
}

// spend takes tokens, also such as are not there yet, and returns when they are.
func (l *lane) spend(size int64, now time.Duration) (wait time.Duration) {
	rate := l.rate.Load()
	if rate == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fillLocked(now, rate)
	l.tokens -= size
	return max(time.Duration(float64(-l.tokens)/float64(rate)*float64(time.Second)), 0)
}

// keep copies a packet.
func (l *lane) keep(p []byte) *packet {
	var q *packet
	switch {
	case len(p) <= tiny:
		q = tinyPool.Get().(*packet)
	case len(p) <= ordinary:
		q = ordinaryPool.Get().(*packet)
	default:
		q = &packet{buf: make([]byte, len(p))}
	}
	q.size, q.of, q.term = copy(q.buf, p), l, l.term.Load()
	return q
}

// release gives a packet's memory back.
func (m *Meter) release(q *packet) {
	m.held.Add(-int64(len(q.buf)))
	q.of.leaving.Add(-1)
	q.of = nil
	switch len(q.buf) {
	case tiny:
		tinyPool.Put(q)
	case ordinary:
		ordinaryPool.Put(q)
	}
}

// takeLocked moves packets, for which there are tokens, from the lane to out, which it does not enlarge.
func (l *lane) takeLocked(out []*packet, now time.Duration) []*packet {
	rate := l.rate.Load()
	if rate > 0 {
		l.fillLocked(now, rate)
	}
	free := rate == 0 || l.account.meter.lifted.Load()
	for l.head < len(l.queue) && len(out) < cap(out) && (free || l.tokens > 0) {
		q := l.queue[l.head]
		l.queue[l.head] = nil
		l.head++
		l.bytes -= len(q.buf)
		l.tokens -= int64(q.size)
		l.leaving.Add(1)
		out = append(out, q)
	}
	switch {
	case l.head == len(l.queue):
		l.queue, l.head = l.queue[:0], 0
	case l.head > len(l.queue)/2:
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	return out
}

// letOut lets out what may go now, and returns when the next packet may, or 0 if none waits. The caller holds Meter.pacing.
func (l *lane) letOut(now time.Duration) (next time.Duration) {
	m := l.account.meter
	l.mu.Lock()
	out := l.takeLocked(m.out[:0], now)
	switch rate := l.rate.Load(); {
	case l.head == len(l.queue):
		l.listed = false
		m.unlist(l)
	case len(out) == batch:
		next = 1 // after the other lanes
	default:
		next = max(time.Duration(float64(-l.tokens)/float64(max(rate, 1))*float64(time.Second)), quantum)
	}
	l.mu.Unlock()
	if len(out) > 0 {
		l.account.send(l.dir, out)
	}
	return next
}

// clear drops what waits, also what is on its way out.
func (l *lane) clear() {
	l.term.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.queue[l.head:] {
		l.leaving.Add(1) // release takes it back
		l.account.meter.drop(l, q.size)
		l.account.meter.release(q)
	}
	clear(l.queue)
	l.queue, l.head, l.bytes = l.queue[:0], 0, 0
}

func (m *Meter) drop(l *lane, size int) {
	l.account.dropped.Add(uint64(size))
	m.dropped[l.dir].packets.Add(1)
	m.dropped[l.dir].bytes.Add(uint64(size))
}

// list notes that a lane has something to let out.
func (m *Meter) list(l *lane) {
	m.mu.Lock()
	m.lanes = append(m.lanes, l)
	m.mu.Unlock()
	signal(m.crowded)
}

// unlist takes that back.
func (m *Meter) unlist(l *lane) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.lanes {
		if m.lanes[i] == l {
			last := len(m.lanes) - 1
			m.lanes[i], m.lanes[last] = m.lanes[last], nil
			m.lanes = m.lanes[:last]
			return
		}
	}
}

// signal leaves a signal in a channel of capacity 1, unless there is one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
