package share

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func client(key uint64) Owner { return Owner{Client: key} }

// tableOf is a table in which each owner has as many places as its entry says, silent in the order of their making.
func tableOf(t *testing.T, limit, share int, yields bool, held map[uint64]int) (*Table, map[uint64][]*Place) {
	t.Helper()
	s, places := NewTable(limit, share), make(map[uint64][]*Place)
	for key, n := range held {
		for i := range n {
			p := &Place{Yields: yields}
			p.Active.Store(int64(i))
			if evicted, ok := s.Add(p, client(key)); !ok || evicted != nil {
				t.Fatalf("place %d of client %d: got ok %v and an eviction %v in a table with room", i, key, ok, evicted != nil)
			}
			places[key] = append(places[key], p)
		}
	}
	return &s, places
}

func TestWhoMakesRoom(t *testing.T) {
	for _, row := range []struct {
		name   string
		yields bool
		share  int
		held   map[uint64]int // of a table of ten
		asks   uint64
		pays   uint64 // 0: nobody
		ok     bool
	}{
		{"a table with room", false, 2, map[uint64]int{1: 9}, 1, 0, true},
		{"alone with a full table, places that yield", true, 2, map[uint64]int{1: 10}, 1, 1, true},
		{"alone with a full table, places that do not yield", false, 2, map[uint64]int{1: 10}, 1, 0, false},
		{"a newcomer takes from the one that has all", false, 2, map[uint64]int{1: 10}, 2, 1, true},
		{"below its share it takes from the one that has most", true, 3, map[uint64]int{1: 5, 2: 2, 3: 3}, 2, 1, true},
		{"at its share it replaces its own", true, 3, map[uint64]int{1: 5, 2: 2, 3: 3}, 3, 3, true},
		{"at its share it is refused where places do not yield", false, 3, map[uint64]int{1: 5, 2: 2, 3: 3}, 3, 0, false},
		{"who has most pays itself", true, 8, map[uint64]int{1: 6, 2: 4}, 1, 1, true},
		{"as many as the one that has most is most", true, 8, map[uint64]int{1: 5, 2: 5}, 2, 2, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			s, places := tableOf(t, 10, row.share, row.yields, row.held)
			if got := s.Room(client(row.asks)); got != row.ok {
				t.Errorf("room: got %v, want %v", got, row.ok)
			}
			evicted, ok := s.Add(&Place{Yields: row.yields}, client(row.asks))
			if ok != row.ok {
				t.Fatalf("add: got %v, want %v", ok, row.ok)
			}
			switch {
			case row.pays == 0 && evicted != nil:
				t.Error("a place was taken away, want none")
			case row.pays != 0 && evicted != places[row.pays][0]:
				t.Errorf("the longest silent place of client %d did not go", row.pays)
			}
			if s.count > 10 {
				t.Errorf("got %d places, want at most 10", s.count)
			}
		})
	}
}

func TestPlacesThatYieldGoFirst(t *testing.T) {
	s, places := tableOf(t, 3, 3, false, map[uint64]int{1: 3})
	s.Yield(places[1][2]) // the newest
	evicted, ok := s.Add(new(Place), client(2))
	if !ok || evicted != places[1][2] {
		t.Error("got another place, want the one that yields although it is the newest")
	}
}

func TestGivingBackTwiceIsOnce(t *testing.T) {
	s, places := tableOf(t, 10, 3, false, map[uint64]int{1: 2, 2: 1})
	s.Remove(places[1][0])
	s.Remove(places[1][0])
	if s.count != 2 || len(s.owners) != 2 {
		t.Errorf("got %d places of %d owners, want 2 of 2", s.count, len(s.owners))
	}
	if got := s.RemoveOwner(client(1)); len(got) != 1 || got[0] != places[1][1] {
		t.Errorf("got %d places of client 1, want the one that is left", len(got))
	}
	s.Remove(places[1][1])
	if s.count != 1 || len(s.owners) != 1 || s.RemoveOwner(client(1)) != nil {
		t.Errorf("got %d places of %d owners, want 1 of 1 and none of client 1", s.count, len(s.owners))
	}
}

// The table is compared with a list that is searched from end to end.
func TestEvictionIsExact(t *testing.T) {
	const limit, share, clients = 50, 12, 7
	rng := rand.New(rand.NewPCG(1, 2))
	s := NewTable(limit, share)
	naive := make(map[uint64][]*Place)
	count := func() (n int) {
		for _, list := range naive {
			n += len(list)
		}
		return n
	}
	now := int64(0)
	for step := range 20000 {
		now++
		key := uint64(min(rng.IntN(clients), rng.IntN(clients))) // some want more than others
		list := naive[key]
		switch op := rng.IntN(10); {
		case op < 5 && len(list) > 0:
			list[rng.IntN(len(list))].Active.Store(now)
		case op == 5 && len(list) > 0:
			i := rng.IntN(len(list))
			s.Remove(list[i])
			naive[key] = slices.Delete(list, i, i+1)
		default:
			p := &Place{Yields: true}
			p.Active.Store(now)
			full := count() == limit
			evicted, ok := s.Add(p, client(key))
			if !ok {
				t.Fatalf("step %d: refused, although all places yield", step)
			}
			if full != (evicted != nil) {
				t.Fatalf("step %d: got an eviction %v in a table that is full %v", step, evicted != nil, full)
			}
			if full {
				checkVictim(t, naive, key, share, evicted)
			}
			naive[key] = append(naive[key], p)
		}
		if s.count != count() {
			t.Fatalf("step %d: got %d places, want %d", step, s.count, count())
		}
	}
}

// checkVictim checks an eviction against the rule, and carries it out in naive.
func checkVictim(t *testing.T, naive map[uint64][]*Place, asks uint64, share int, evicted *Place) {
	t.Helper()
	most := 0
	for _, list := range naive {
		most = max(most, len(list))
	}
	pays := uint64(0)
	for key, list := range naive {
		if slices.Contains(list, evicted) {
			pays = key
		}
	}
	own := len(naive[asks]) >= share || len(naive[asks]) == most
	if own != (pays == asks) || !own && len(naive[pays]) != most {
		t.Fatalf("client %d, which has %d, made room for client %d, which has %d; most is %d", pays, len(naive[pays]), asks, len(naive[asks]), most)
	}
	for _, p := range naive[pays] {
		if p.Active.Load() < evicted.Active.Load() {
			t.Fatalf("a place active at %d went before one active at %d", evicted.Active.Load(), p.Active.Load())
		}
	}
	naive[pays] = slices.DeleteFunc(naive[pays], func(p *Place) bool { return p == evicted })
}

func TestWhoHasMany(t *testing.T) {
	table := NewTable(100, 50)
	for client, n := range map[uint64]int{1: 4, 2: 5, 3: 6} {
		for range n {
			table.Add(new(Place), Owner{Client: client})
		}
	}
	if got := table.Above(5); len(got) != 2 || !got[Owner{Client: 2}] || !got[Owner{Client: 3}] {
		t.Errorf("got %v, want those with 5 and 6", got)
	}
	if got := table.Above(7); got != nil {
		t.Errorf("got %v, want nobody", got)
	}
}
