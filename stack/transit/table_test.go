package transit

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
)

// pairOf is one of n pairs of addresses; many have addresses or ports in common.
func pairOf(i int) (src, dst netip.AddrPort) {
	c := families[i%2]
	return netip.AddrPortFrom(c.Client.Addr(), uint16(i/2%16)), netip.AddrPortFrom(c.Server.Addr(), uint16(i/32))
}

func TestATableAgreesWithAMap(t *testing.T) {
	type pair struct{ src, dst netip.AddrPort }
	rng := rand.New(rand.NewPCG(9, 10))
	var table Table[int]
	model := map[pair]int{}
	for step := range 100000 {
		src, dst := pairOf(rng.IntN(200))
		if rng.IntN(2) == 0 {
			src, dst = dst, src
		}
		k, v := pair{src, dst}, 1+rng.IntN(3)
		switch op := rng.IntN(20); {
		case op < 7:
			_, taken := model[k]
			if got := table.Add(src, dst, v); got == taken {
				t.Fatalf("step %d: Add got %v, want %v", step, got, !taken)
			}
			if !taken {
				model[k] = v
			}
		case op < 14:
			now, ok := model[k]
			want := ok && now == v
			if got := table.Remove(src, dst, v); got != want {
				t.Fatalf("step %d: Remove got %v, want %v", step, got, want)
			}
			if want {
				delete(model, k)
			}
		case op < 19:
			want, wantOK := model[k]
			if got, ok := table.Find(src, dst); got != want || ok != wantOK {
				t.Fatalf("step %d: Find got %d, %v, want %d, %v", step, got, ok, want, wantOK)
			}
		default:
			sum, want := 0, 0
			table.Each(func(v int) { sum += v })
			for _, v := range model {
				want += v
			}
			if sum != want || table.Len() != len(model) {
				t.Fatalf("step %d: Each got a sum of %d of %d, want %d of %d", step, sum, table.Len(), want, len(model))
			}
		}
		if step%10000 == 9999 { // empty it
			for k, v := range model {
				if !table.Remove(k.src, k.dst, v) {
					t.Fatalf("step %d: %v is missing", step, k)
				}
			}
			clear(model)
			if table.Len() != 0 {
				t.Fatalf("an emptied table has %d", table.Len())
			}
		}
	}
}

func TestAZeroTableIsEmpty(t *testing.T) {
	var table Table[int]
	if _, ok := table.Find(client4, server4); ok || table.Remove(client4, server4, 0) || table.Len() != 0 {
		t.Error("a zero table has something")
	}
	table.Each(func(int) { t.Error("a zero table has something") })
}

// TestATableIsSharedByGoroutines lets each goroutine own some places, and try for all.
func TestATableIsSharedByGoroutines(t *testing.T) {
	var table Table[int]
	var wg sync.WaitGroup
	for owner := 1; owner <= 8; owner++ {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(owner), 0))
			for range 3000 {
				src, dst := pairOf(rng.IntN(64))
				if table.Add(src, dst, owner) {
					if v, ok := table.Find(src, dst); !ok || v != owner {
						t.Errorf("got %d, %v, want %d", v, ok, owner)
					}
					if table.Remove(src, dst, owner+1) {
						t.Error("removed for somebody else")
					}
					if !table.Remove(src, dst, owner) {
						t.Error("somebody else has removed it")
					}
				}
				table.Find(src, dst)
				table.Each(func(int) {})
			}
		})
	}
	wg.Wait()
	if table.Len() != 0 {
		t.Errorf("got %d left, want none", table.Len())
	}
}
