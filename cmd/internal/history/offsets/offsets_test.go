package offsets

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestASetHasWhatWasPacked(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1, 2, 3, 100, Most} {
		list := make([]uint64, size)
		for i := range list {
			list[i] = uint64(i)
			if size < Most {
				list[i] = r.Uint64N(Most)
			}
		}
		slices.Sort(list)
		list = slices.Compact(list)
		high := slices.Clone(list)
		for i := range high {
			high[i] |= 77 << Bits // what stands above the low bits does not count
		}
		before := []byte("before")
		packed, rest := Pack(before, high)
		if string(rest[:6]) != "before" {
			t.Errorf("%d numbers: got %q, want the buffer to go on", size, rest[:6])
		}
		var s Set
		s.Add(packed)
		for n := range uint64(Most) {
			if _, want := slices.BinarySearch(list, n); s.Has(int64(n)) != want {
				t.Fatalf("%d numbers: %d is there: %t, want %t", size, n, s.Has(int64(n)), want)
			}
		}
	}
}

func TestSetsAreCut(t *testing.T) {
	var a, b, c Set
	a.Add(int64(3))
	a.Add(int64(Most - 1))
	b.Add(int64(Most - 1))
	c.Add(int64(4))
	if !a.And(&b) || a.Has(3) || !a.Has(Most-1) {
		t.Errorf("got 3: %t, the last: %t, want the last alone", a.Has(3), a.Has(Most-1))
	}
	if a.And(&c) || a != (Set{}) {
		t.Error("sets with nothing in common: got some, want none")
	}
}

func FuzzAdd(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0xff, 0xff, 0x7f, 0x80})
	f.Fuzz(func(t *testing.T, packed []byte) {
		var s Set
		s.Add(packed) // a damaged file must not end the process
		s.Add(int64(-1))
		s.Add(int64(Most))
		s.Add(nil)
	})
}
