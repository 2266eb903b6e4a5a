package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

const (
	// much is how much has to be in use for the heap to grow by less, in bytes: a flood's packets that wait, for example.
	much = 128 << 20
	// usual and tight are by how many per cent of what is in use the heap grows until it is collected. With tight a flood that has
	// 150 MiB in use makes 230 MiB resident, and 300 with usual. It costs more collections, and so is not for a small heap.
	usual = 100
	tight = 50
)

// tighten makes the heap grow by tight while much is in use, and by usual otherwise, until stop is called. Whoever has set GOGC knows
// better.
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
	if inUse > much {
		return tight
	}
	return usual
}

// inUse returns what the last collection found in use, in bytes.
func inUse() uint64 {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	return live[0].Value.Uint64()
}
