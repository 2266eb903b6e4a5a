package shrink

import (
	"maps"
	"math/rand/v2"
	"runtime"
	"testing"
)

// TestAMapIsAMap does the same at random with a Map and with a map of Go.
func TestAMapIsAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var m Map[int, int]
	model := make(map[int]int)
	most := 0
	for i := range 200_000 {
		k := r.IntN(5000)
		if grows := i/10_000%2 == 0; grows == (r.IntN(10) > 0) {
			m.Put(k, i)
			model[k] = i
		} else {
			m.Delete(k)
			delete(model, k)
		}
		most = max(most, len(model))
		v, ok := m.Find(k)
		want, wantOK := model[k]
		if v != want || ok != wantOK || m.Get(k) != want || m.Len() != len(model) {
			t.Fatalf("after %d steps: got %v, %v of %d entries, want %v, %v of %d", i+1, v, ok, m.Len(), want, wantOK, len(model))
		}
		if i%1000 == 0 && !maps.Equal(maps.Collect(m.All), model) {
			t.Fatalf("after %d steps the entries differ", i+1)
		}
	}
	if most < 2*small {
		t.Fatalf("there were %d entries at most, too few to shrink", most)
	}
}

// TestAMapShrinks compares what a Map keeps of a burst with what it took.
func TestAMapShrinks(t *testing.T) {
	var m Map[int, [4]int]
	heap := func() int {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return int(s.HeapAlloc)
	}
	before := heap()
	const n = 100_000
	for i := range n {
		m.Put(i, [4]int{})
	}
	full := heap() - before
	for i := range n - 100 {
		m.Delete(i)
	}
	if left := heap() - before; left > full/20 {
		t.Errorf("100 of %d entries keep %d bytes of %d", n, left, full)
	}
	for i := range n {
		if _, ok := m.Find(i); ok != (i >= n-100) {
			t.Fatalf("entry %d is there: %v", i, ok)
		}
	}
	runtime.KeepAlive(&m)
}

// TestWhoLooksAtAllMayDelete: each entry is seen once, or was deleted before.
func TestWhoLooksAtAllMayDelete(t *testing.T) {
	var m Map[int, int]
	const n = 10_000
	for i := range n {
		m.Put(i, i)
	}
	seen := make(map[int]bool)
	for k := range m.All {
		if seen[k] {
			t.Fatalf("%d was seen twice", k)
		}
		seen[k] = true
		m.Delete(k)
	}
	if len(seen) != n || m.Len() != 0 {
		t.Errorf("%d of %d were seen, %d are left", len(seen), n, m.Len())
	}
}

func BenchmarkPutAndDelete(b *testing.B) {
	for _, c := range []struct {
		name string
		live int
	}{{"10 live", 10}, {"10000 live", 10_000}} {
		b.Run(c.name+"/map of Go", func(b *testing.B) {
			m := make(map[uint64]*int)
			for i := range c.live {
				m[uint64(i)] = nil
			}
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				m[i+uint64(c.live)] = nil
				delete(m, i)
			}
		})
		b.Run(c.name+"/that shrinks", func(b *testing.B) {
			var m Map[uint64, *int]
			for i := range c.live {
				m.Put(uint64(i), nil)
			}
			b.ReportAllocs()
			for i := uint64(0); b.Loop(); i++ {
				m.Put(i+uint64(c.live), nil)
				m.Delete(i)
			}
		})
	}
}
