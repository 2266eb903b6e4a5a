package openvpn

import (
	"sync/atomic"
	"time"

	"penstock/router/transport"
)

// counters are transport.Stats that goroutines add to.
type counters struct {
	rx, tx                        atomic.Uint64
	lastRx, lastTx, lastHandshake moment
}

func (c *counters) received(bytes int, now time.Time) {
	c.rx.Add(uint64(bytes))
	c.lastRx.set(now)
}

func (c *counters) sent(bytes int, now time.Time) {
	c.tx.Add(uint64(bytes))
	c.lastTx.set(now)
}

func (c *counters) stats() transport.Stats {
	return transport.Stats{
		RxBytes: c.rx.Load(), TxBytes: c.tx.Load(),
		LastRx: c.lastRx.get(), LastTx: c.lastTx.get(), LastHandshake: c.lastHandshake.get(),
	}
}

// moment is an atomic time of nanosecond resolution. It is a wall time: do not measure timeouts with it.
type moment struct{ nanos atomic.Int64 }

func (m *moment) set(t time.Time) { m.nanos.Store(t.UnixNano()) }

func (m *moment) get() time.Time {
	n := m.nanos.Load()
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// instant is an atomic point on the monotonic clock, as the time since a session began.
type instant struct {
	since atomic.Int64
}

func (i *instant) set(start, now time.Time) { i.since.Store(int64(now.Sub(start))) }

func (i *instant) get(start time.Time) time.Time { return start.Add(time.Duration(i.since.Load())) }
