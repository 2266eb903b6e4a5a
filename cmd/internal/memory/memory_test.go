package memory

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestABurstIsOverOnceHalfOfItHasEnded(t *testing.T) {
	type look struct {
		most, now int
		want      bool
	}
	for _, row := range []struct {
		name  string
		looks []look
	}{
		{"flows that come and go are none", []look{{900, 3, false}, {999, 0, false}}},
		{"while most of its flows are live it goes on", []look{{5000, 5000, false}, {5000, 2501, false}, {2501, 2500, true}}},
		{"it is over once", []look{{5000, 10, true}, {10, 10, false}, {10, 0, false}}},
		{"one between two looks counts", []look{{0, 0, false}, {5000, 0, true}}},
		{"the next one counts too", []look{{5000, 600, true}, {600, 0, false}, {2000, 2000, false}, {2000, 0, true}}},
		{"steady load is one until it falls", []look{{5000, 4900, false}, {5100, 5000, false}, {5000, 1000, true}, {1000, 1000, false}, {1000, 400, true}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var b burst
			for i, l := range row.looks {
				if got := b.over(l.most, l.now); got != l.want {
					t.Errorf("look %d: got %v, want %v", i+1, got, l.want)
				}
			}
		})
	}
}

func TestAWaveIsOverOnceItsFlowsStay(t *testing.T) {
	for _, row := range []struct {
		name  string
		looks []int
		want  int // the look that reports it, from 1; 0: none
	}{
		{"a few flows are none", []int{900, 900, 900}, 0},
		{"flows that came before the first look", []int{5000, 5000, 5000}, 2},
		{"flows that still come", []int{2000, 4000, 8000, 16000}, 0},
		{"flows that have stopped to come", []int{2000, 4000, 8000, 8100, 8100}, 4},
		{"flows that went at once", []int{5000, 10, 10}, 0},
		{"few more than before", []int{5000, 5000, 7000, 7000, 7400}, 2},
	} {
		t.Run(row.name, func(t *testing.T) {
			var w wave
			for i, now := range row.looks {
				if got, want := w.over(now), i+1 == row.want; got != want {
					t.Errorf("look %d: got %v, want %v", i+1, got, want)
				}
			}
		})
	}
	var w wave
	for i, row := range []struct {
		now  int
		want bool
	}{{5000, false}, {5000, true}, {8000, false}, {8000, true}, {100, false}, {1200, false}, {1200, true}} {
		if got := w.over(row.now); got != row.want {
			t.Errorf("the next waves, look %d: got %v, want %v", i+1, got, row.want)
		}
	}
}

// load is a number of flows that a test sets.
type load struct{ now, most atomic.Int64 }

func (l *load) Active() int  { return int(l.now.Load()) }
func (l *load) Busiest() int { return int(l.most.Load()) }

// collections is how often memory was given back in this process.
func collections() uint32 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.NumForcedGC
}

// none is an edition without peers.
func none() (edition uint64, peers int) { return 1, 0 }

func TestMemoryIsGivenBackAfterAnEditionWithManyPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var l load
		var edition, peers atomic.Int64
		edition.Store(1)
		peers.Store(manyPeers)
		done := make(chan error, 1)
		go func() {
			done <- GiveBack(ctx, &l, func() (uint64, int) { return uint64(edition.Load()), int(peers.Load()) })
		}()
		before := collections()
		after := func(what string, want uint32) {
			t.Helper()
			time.Sleep(5 * every)
			synctest.Wait()
			if got := collections() - before; got != want {
				t.Errorf("%s: memory was given back %d times in all, want %d", what, got, want)
			}
		}
		after("after the start", 1)
		edition.Store(2)
		after("after a reload", 2)
		peers.Store(manyPeers - 1)
		edition.Store(3)
		after("after one with few peers", 2)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v at the end, want nil", err)
		}
	})
}

func TestMemoryIsGivenBackAfterABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var l load
		l.now.Store(5000)
		l.most.Store(5000)
		done := make(chan error, 1)
		go func() { done <- GiveBack(ctx, &l, none) }()
		before := collections()
		time.Sleep(every + 1)
		synctest.Wait()
		if got := collections() - before; got != 0 {
			t.Errorf("memory was given back %d times while flows came, want 0", got)
		}
		time.Sleep(5 * every)
		synctest.Wait()
		if got := collections() - before; got != opened {
			t.Errorf("memory was given back %d times during the burst, want %d: what opening the flows took", got, opened)
		}
		before += opened
		l.now.Store(3)
		l.most.Store(3)
		time.Sleep(every + 1)
		synctest.Wait()
		if got := collections() - before; got != 1 {
			t.Errorf("memory was given back %d times at the first look after the burst, want once", got)
		}
		time.Sleep(20 * every)
		synctest.Wait()
		if got := collections() - before; got != lingering {
			t.Errorf("memory was given back %d times in all, want %d: what lingers is given back, and then it ends", got, lingering)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v at the end, want nil", err)
		}
	})
}

func TestAHeapThatHasGrownIsGivenBackOnceItIsQuiet(t *testing.T) {
	const much, little = 100<<20 + muchGrowth, 100<<20 + muchGrowth - 1
	now := heap{100 << 20, 7}
	g := newGrowth(func() heap { return now })
	for i, row := range []struct {
		now  heap
		want bool
	}{
		{heap{100 << 20, 7}, false},
		{heap{little, 7}, false},
		{heap{much, 8}, false}, // it was collected since
		{heap{much, 9}, false},
		{heap{much, 9}, true},
		{heap{50 << 20, 10}, false},
		{heap{50<<20 + muchGrowth, 10}, true}, // beside the least
	} {
		now = row.now
		if got := g.over(); got != row.want {
			t.Errorf("look %d: got %v, want %v", i+1, got, row.want)
		}
	}
	now = heap{much, 11}
	g.givenBack()
	if now.bytes += muchGrowth - 1; g.over() {
		t.Error("what stayed in use is to be given back again")
	}
	if now.bytes++; !g.over() {
		t.Error("what has come since is not to be given back")
	}
}

// TestMemoryIsGivenBackWithFewFlows: few flows can hold much.
func TestMemoryIsGivenBackWithFewFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var l load
		done := make(chan error, 1)
		go func() { done <- GiveBack(ctx, &l, none) }()
		synctest.Wait()
		b := make([]byte, 2*muchGrowth)
		for i := range b {
			b[i] = 1
		}
		runtime.KeepAlive(b)
		full, before := readHeap().bytes, collections()
		for range 20 { // the runtime may collect by itself between two looks
			time.Sleep(every)
			synctest.Wait()
		}
		if got := readHeap().bytes; collections() == before || got+muchGrowth > full {
			t.Errorf("the heap has %d bytes of %d, after memory was given back %d times", got, full, collections()-before)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("got %v at the end, want nil", err)
		}
	})
}

func BenchmarkLook(b *testing.B) {
	g := newGrowth(readHeap)
	b.ReportAllocs()
	for b.Loop() {
		g.over()
	}
}
