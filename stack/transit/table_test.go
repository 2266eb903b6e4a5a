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

// placed is something in a table.
type placed struct {
	src, dst netip.AddrPort
	owner    int
}

func newTable() *Table[*placed] {
	return NewTable(func(p *placed) (src, dst netip.AddrPort) { return p.src, p.dst })
}

// TestATableAgreesWithAMap does the same at random with a table and a naive map, while they grow and shrink.
func TestATableAgreesWithAMap(t *testing.T) {
	type pair struct{ src, dst netip.AddrPort }
	rng := rand.New(rand.NewPCG(9, 10))
	table := newTable()
	model := map[pair]*placed{}
	most := 0
	for step := range 300_000 {
		src, dst := pairOf(rng.IntN(2000))
		if rng.IntN(2) == 0 {
			src, dst = dst, src
		}
		k := pair{src, dst}
		adds := 60 // per cent
		if step/20_000%2 == 1 {
			adds = 10
		}
		switch op := rng.IntN(100); {
		case op < adds:
			_, taken := model[k]
			v := &placed{src: src, dst: dst}
			if got := table.Add(v); got == taken {
				t.Fatalf("step %d: Add got %v, want %v", step, got, !taken)
			}
			if !taken {
				model[k] = v
			}
		case op < 80:
			v, ok := model[k]
			if !ok || rng.IntN(4) == 0 {
				v, ok = &placed{src: src, dst: dst}, false
			}
			if got := table.Remove(v); got != ok {
				t.Fatalf("step %d: Remove got %v, want %v", step, got, ok)
			}
			if ok {
				delete(model, k)
			}
		default:
			want, wantOK := model[k]
			if got, ok := table.Find(src, dst); got != want || ok != wantOK {
				t.Fatalf("step %d: Find got %v, %v, want %v, %v", step, got, ok, want, wantOK)
			}
		}
		if most = max(most, len(model)); table.Len() != len(model) {
			t.Fatalf("step %d: got %d, want %d", step, table.Len(), len(model))
		}
		if step%997 == 0 {
			seen := map[*placed]bool{}
			table.Each(func(v *placed) { seen[v] = true })
			for k, v := range model {
				if got, _ := table.Find(k.src, k.dst); got != v || !seen[v] {
					t.Fatalf("step %d: %v is missing", step, k)
				}
			}
			if len(seen) != len(model) {
				t.Fatalf("step %d: Each has %d, want %d", step, len(seen), len(model))
			}
		}
	}
	if most < 1000 {
		t.Errorf("there were %d at most, too few", most)
	}
	for k, v := range model {
		if !table.Remove(v) {
			t.Fatalf("%v is missing", k)
		}
	}
	if table.Len() != 0 || len(table.places) != leastPlaces {
		t.Errorf("an emptied table has %d, and room for %d", table.Len(), len(table.places))
	}
}

func TestANewTableIsEmpty(t *testing.T) {
	table := newTable()
	if _, ok := table.Find(client4, server4); ok || table.Remove(&placed{src: client4, dst: server4}) || table.Len() != 0 {
		t.Error("a new table has something")
	}
	table.Each(func(*placed) { t.Error("a new table has something") })
}

// TestATableIsSharedByGoroutines lets each goroutine own some places, and try for all.
func TestATableIsSharedByGoroutines(t *testing.T) {
	table := newTable()
	var wg sync.WaitGroup
	for owner := 1; owner <= 8; owner++ {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(owner), 0))
			for range 3000 {
				src, dst := pairOf(rng.IntN(64))
				mine := &placed{src, dst, owner}
				if table.Add(mine) {
					if v, ok := table.Find(src, dst); !ok || v != mine {
						t.Errorf("got %v, %v, want %v", v, ok, mine)
					}
					if table.Remove(&placed{src, dst, owner}) {
						t.Error("removed for somebody else")
					}
					if !table.Remove(mine) {
						t.Error("somebody else has removed it")
					}
				}
				table.Find(src, dst)
				table.Each(func(*placed) {})
			}
		})
	}
	wg.Wait()
	if table.Len() != 0 {
		t.Errorf("got %d left, want none", table.Len())
	}
}
