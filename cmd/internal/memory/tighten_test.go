package memory

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// growthPercent is by how many per cent of what is in use the heap grows.
func growthPercent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func TestALargeHeapGrowsByLess(t *testing.T) {
	t.Setenv("GOGC", "") // of whoever runs the test
	stop := tighten()
	defer stop()
	want := func(what string, percent uint64) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); growthPercent() != percent; time.Sleep(time.Millisecond) {
			if time.Now().After(limit) {
				t.Fatalf("%s: the heap grows by %d %% with %d MiB in use, want %d %%", what, growthPercent(), inUse()>>20, percent)
			}
			runtime.GC()
		}
	}
	want("at first", usual)
	b := make([]byte, 4*room)
	want("with much in use", tight)
	runtime.KeepAlive(b)
	b = nil
	want("with little in use again", usual)
	b = make([]byte, 4*room)
	want("once more", tight)
	runtime.KeepAlive(b)
	stop()
	if got := growthPercent(); got != usual {
		t.Errorf("at the end the heap grows by %d %%, want %d", got, usual)
	}
}

func TestWhoHasSetGOGCKnowsBetter(t *testing.T) {
	t.Setenv("GOGC", "300")
	defer tighten()()
	b := make([]byte, 4*room)
	for range 5 {
		runtime.GC()
		time.Sleep(10 * time.Millisecond) // for what must not happen
	}
	runtime.KeepAlive(b)
	if got := growthPercent(); got != usual {
		t.Errorf("the heap grows by %d %%, want it left at %d", got, usual)
	}
}

func TestTheMoreIsInUseTheLessTheHeapGrows(t *testing.T) {
	for mib, want := range map[uint64]int64{0: usual, 10: usual, 64: usual, 65: 90, 80: 80, 100: 60, 127: tight, 128: tight, 1000: tight} {
		if got := percentFor(mib << 20); got != want {
			t.Errorf("%d MiB in use: got %d %%, want %d", mib, got, want)
		}
	}
}
