package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// usual and tight are by how many per cent of what is in use the heap grows until it is collected, at most and at least. In between
	// it grows by room, in bytes. With tight a flood that has 150 MiB in use makes 230 MiB resident, and 300 with usual. It costs more
	// collections, and so is not for a small heap.
	usual = 100
	tight = 50
	room  = 64 << 20
	// step is what the percentage is a multiple of: each change stops the process for a moment.
	step = 10
)

// tighten makes the heap grow by less the more is in use, until stop is called. Whoever has set GOGC knows better.
func tighten() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	t := new(tightener)
	t.percent.Store(usual)
	t.arm()
	return t.stop
}

type tightener struct {
	stopped atomic.Bool
	percent atomic.Int64
}

// collection is unreachable at the next collection, of which the runtime tells in no other way.
type collection struct{ of *tightener }

func (t *tightener) arm() { runtime.AddCleanup(&collection{t}, (*tightener).collected, t) }

// collected is called after each collection.
func (t *tightener) collected() {
	if t.stopped.Load() {
		return
	}
	t.set(percentFor(inUse()))
	if t.stopped.Load() { // meanwhile
		t.set(usual)
	}
	t.arm()
}

func (t *tightener) set(percent int64) {
	if t.percent.Swap(percent) != percent {
		debug.SetGCPercent(int(percent))
	}
}

func (t *tightener) stop() {
	t.stopped.Store(true)
	t.set(usual)
}

func percentFor(inUse uint64) int64 {
	percent := int64(100 * room / max(inUse, 1))
	return min(max(percent-percent%step, tight), usual)
}

// inUse returns what the last collection found in use, in bytes.
func inUse() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}
