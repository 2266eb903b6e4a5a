package blocklist

import (
	"bytes"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const million = 1_000_000

// builtSet returns a Set of n generated names, and how many bytes it takes on the heap and outside it.
func builtSet(tb testing.TB, n int) (*Set, uint64) {
	tb.Helper()
	list := nameList(0, n)
	before := heap()
	b := NewBuilder()
	if _, err := b.Add("adult", bytes.NewReader(list), Options{}); err != nil {
		tb.Fatal(err)
	}
	s, err := b.Build()
	if err != nil {
		tb.Fatal(err)
	}
	grown := heap() - before + outsideBytes(s)
	runtime.KeepAlive(list)
	return s, grown
}

// outsideBytes returns the size of the tables outside the heap.
func outsideBytes(s *Set) uint64 {
	n := 0
	for _, w := range []words{s.filter, s.table} {
		if cap(w) >= outsideFrom {
			n += cap(w)
		}
	}
	return uint64(n)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func builtMap(n int) (map[string]struct{}, uint64) {
	before := heap()
	m := make(map[string]struct{}, n)
	for i := range n {
		m[generatedName(i)] = struct{}{}
	}
	return m, heap() - before
}

// mapLookup is the baseline: every suffix of two labels and more, the longest first.
func mapLookup(m map[string]struct{}, host string) bool {
	for {
		if _, ok := m[host]; ok {
			return true
		}
		i := strings.IndexByte(host, '.')
		if i < 0 || strings.IndexByte(host[i+1:], '.') < 0 {
			return false
		}
		host = host[i+1:]
	}
}

// asked returns hosts in random order: listed ones from 0, others from a million on. They are contiguous in memory, because
// a name that has just been parsed is in the CPU cache too.
func asked(from int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	hosts := make([]string, 1<<18)
	var text strings.Builder
	for i := range hosts {
		hosts[i] = generatedName(from + r.IntN(million))
		text.WriteString(hosts[i])
	}
	at := 0
	for i, h := range hosts {
		hosts[i] = text.String()[at : at+len(h)]
		at += len(h)
	}
	return hosts
}

func benchmarkSet(b *testing.B, from int, want bool) {
	s, size := builtSet(b, million)
	hosts := asked(from)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if (s.Lookup(hosts[i&(len(hosts)-1)]) != 0) != want {
			b.Fatalf("lookup of %s: got %v, want %v", hosts[i&(len(hosts)-1)], !want, want)
		}
		i++
	}
	b.ReportMetric(float64(size)/million, "B/name")
}

func benchmarkMap(b *testing.B, from int, want bool) {
	m, size := builtMap(million)
	hosts := asked(from)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if mapLookup(m, hosts[i&(len(hosts)-1)]) != want {
			b.Fatalf("lookup of %s: got %v, want %v", hosts[i&(len(hosts)-1)], !want, want)
		}
		i++
	}
	b.ReportMetric(float64(size)/million, "B/name")
}

func BenchmarkLookupHit1M(b *testing.B)  { benchmarkSet(b, 0, true) }
func BenchmarkLookupMiss1M(b *testing.B) { benchmarkSet(b, million, false) }
func BenchmarkMapHit1M(b *testing.B)     { benchmarkMap(b, 0, true) }
func BenchmarkMapMiss1M(b *testing.B)    { benchmarkMap(b, million, false) }

func BenchmarkLookupWireMiss1M(b *testing.B) {
	s, _ := builtSet(b, million)
	hosts := asked(million)
	wires := make([][]byte, len(hosts))
	for i, h := range hosts {
		wires[i] = wireName(h)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if s.LookupWire(wires[i&(len(wires)-1)]) != 0 {
			b.Fatal("found a name that is not listed")
		}
		i++
	}
}

func benchmarkLoad(b *testing.B, n int) {
	list := nameList(0, n)
	b.SetBytes(int64(len(list)))
	for b.Loop() {
		builder := NewBuilder()
		if _, err := builder.Add("adult", bytes.NewReader(list), Options{}); err != nil {
			b.Fatal(err)
		}
		if _, err := builder.Build(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoadText1M(b *testing.B) { benchmarkLoad(b, million) }
func BenchmarkLoadText5M(b *testing.B) { benchmarkLoad(b, 5*million) }

func BenchmarkReadCache1M(b *testing.B) {
	s, _ := builtSet(b, million)
	path := filepath.Join(b.TempDir(), "cache")
	if err := s.WriteFile(path); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
}
