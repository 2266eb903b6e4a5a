package fleet

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"penstock/router/transport/wireguard"
)

// TestWhoTakesWhatIsTooMuch has rows for a gateway own and others in its region, if they do not say otherwise.
func TestWhoTakesWhatIsTooMuch(t *testing.T) {
	others := func(peers ...int) (all []load) {
		for i, p := range peers {
			all = append(all, load{name: string(rune('a' + i)), region: "eu", peers: p, open: true})
		}
		return all
	}
	change := func(l []load, how func(*load)) []load {
		how(&l[0])
		return l
	}
	for _, row := range []struct {
		sentence string
		own      int
		others   []load
		shedding bool
		to       string
		peers    int
		still    bool
	}{
		{"alone it keeps all", 1000, nil, false, "", 0, false},
		{"a little more is nothing", 4, others(0), false, "", 0, false},
		{"one more than that is", 5, others(0), false, "a", 2, true},
		{"a quarter more is nothing with many", 1254, others(1000), false, "", 0, false},
		{"more than that is", 1255, others(1000), false, "a", 127, true},
		{"once it has begun it goes on", 4, others(0), true, "a", 2, true},
		{"until little is left", 2, others(0), true, "", 0, false},
		{"the least loaded one gets what it lacks", 300, others(50, 0, 90), false, "b", 110, true},
		{"of two equals it is always the same", 40, others(0, 0), false, "a", 14, true},
		{"two that have too much share what one lacks", 100, others(100, 10), false, "b", 30, true},
		{"who has the average hands over nobody", 40, others(80, 0), false, "", 0, true},
		{"it may have the least itself", 0, others(50, 60), false, "", 0, false},
		{"a stale or unfit one gets nobody", 100, change(others(0), func(l *load) { l.open = false }), false, "", 0, false},
		{"nor one of another region", 100, change(others(0), func(l *load) { l.region = "us" }), false, "", 0, false},
		{"the other one is asked then", 100, change(others(0, 20), func(l *load) { l.region = "" }), false, "b", 40, true},
		{"and it is never itself", 100, change(others(0), func(l *load) { l.name = "own" }), false, "", 0, false},
	} {
		to, peers, still := surplus(load{name: "own", region: "eu", peers: row.own, open: true}, row.others, row.shedding)
		if to != row.to && peers > 0 || peers != row.peers || still != row.still {
			t.Errorf("%s: got %d to %q, %v, want %d to %q, %v", row.sentence, peers, to, still, row.peers, row.to, row.still)
		}
	}
	if _, peers, still := surplus(load{name: "own", region: "eu", peers: 100}, others(0), true); peers > 0 || still {
		t.Error("a gateway that does not serve, or does not hear the others, hands peers over for their number")
	}
}

// TestEqualViewsMakeNobodySwing lets gateways with any loads decide again and again, all at once by one view, while no peer comes or
// goes. What a gateway has got it never hands over, all come to rest, and a view that stays the same leads to the same choice.
func TestEqualViewsMakeNobodySwing(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	moved := 0
	for try := range 3000 {
		all := make([]load, 1+rng.IntN(12))
		for i := range all {
			all[i] = load{name: fmt.Sprint("g", i), region: []string{"", "eu"}[rng.IntN(2)], peers: rng.IntN(1 + rng.IntN(2000)), open: rng.IntN(8) > 0}
		}
		began := slices.Clone(all)
		shedding, gave, got := make([]bool, len(all)), make([]bool, len(all)), make([]bool, len(all))
		rest := false
		for round := 0; !rest; round++ {
			if round > 500 {
				t.Fatalf("try %d: from %v no rest after %d rounds: %v", try, began, round, all)
			}
			rest = true
			next := slices.Clone(all)
			for i, own := range all {
				to, n, still := surplus(own, all, shedding[i])
				to2, n2, still2 := surplus(own, all, still)
				if to2 != to || n2 != n || still2 != still {
					t.Fatalf("try %d: %+v of %v: got %d to %q, then %d to %q", try, own, all, n, to, n2, to2)
				}
				if shedding[i] = still; n == 0 {
					continue
				}
				j := slices.IndexFunc(all, func(l load) bool { return l.name == to })
				if !own.open || !all[j].open || all[j].region != own.region {
					t.Fatalf("try %d: %+v hands over to %+v", try, own, all[j])
				}
				next[i].peers -= n
				next[j].peers += n
				gave[i], got[j], rest = true, true, false
				moved += n
			}
			for i := range all {
				if gave[i] && got[i] {
					t.Fatalf("try %d: from %v to %v: %s gave and got peers", try, began, next, all[i].name)
				}
			}
			all = next
		}
	}
	if moved == 0 {
		t.Error("nobody was moved: the test proves nothing")
	}
}

// TestAPeerIsOfferedOnceWhileItIsNew runs the clock of balance by hand.
func TestAPeerIsOfferedOnceWhileItIsNew(t *testing.T) {
	now := time.Now()
	b, list, ours := newBalance(), peers(40), make(map[wireguard.PublicKey]time.Time)
	for _, p := range list {
		ours[p] = now
		b.begun(p, now)
	}
	own, others := load{name: "own", peers: len(list), open: true}, []load{{name: "a", open: true}}
	to, n, from := b.choose(own, others, ours)
	if to != "a" || n != 20 || len(from) != len(list) {
		t.Fatalf("got %d of %d to %q, want 20 of 40 to a", n, len(from), to)
	}
	for _, p := range from[:n] {
		b.keep(p, now)
		b.offers[p] = offer{"a", now.Add(offerLife)}
	}
	if _, n, _ := b.choose(own, others, ours); n != 0 {
		t.Errorf("what is on its way is counted: got %d more, want none", n)
	}
	for _, p := range from[:n] { // nobody was reached
		b.begun(p, now)
	}
	b.sweep(now.Add(offerLife + time.Second))
	if _, n, again := b.choose(own, others, ours); n != 20 || len(again) != 20 || slices.ContainsFunc(again, func(p wireguard.PublicKey) bool { return slices.Contains(from[:20], p) }) {
		t.Errorf("got %d of %d, want the 20 that were not offered yet", n, len(again))
	}
	b.sweep(now.Add(newcomer))
	if _, _, from := b.choose(own, others, ours); len(from) > 0 {
		t.Errorf("got %d peers that have been here for long, want none", len(from))
	}
	later := now.Add(stays + time.Second)
	b.sweep(later)
	b.begun(list[0], later)
	if _, _, from := b.choose(own, others, ours); len(from) != 1 {
		t.Errorf("after an hour: got %d peers, want the one that has come again", len(from))
	}
}

// count returns how many peers are at each gateway, by name.
func (s *site) count(list []wireguard.PublicKey) map[string]int {
	got := make(map[string]int)
	for _, p := range list {
		got[s.where(p).name]++
	}
	return got
}

func TestPeersThatComeGoToTheGatewayWithFewer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3, false, "eu", "eu", "me")
		list := peers(30)
		for _, p := range list {
			s.machines[0].connect(p)
		}
		eventually(t, "both gateways of the region have a share", func() bool {
			got := s.count(list)
			return got[names[0]] >= 12 && got[names[1]] >= 12 && s.all(list, func(*machine) bool { return true })
		})
		before := s.count(list)
		during(t, 3*silence, "peers stay where they are", func() bool { return maps.Equal(s.count(list), before) })
		if before[names[2]] > 0 {
			t.Errorf("got %v, want none in another region", before)
		}
		eventually(t, "the first gateway has let go of those that went", func() bool {
			m := s.machines[0]
			m.mu.Lock()
			defer m.mu.Unlock()
			return len(m.sessions) == before[names[0]]
		})
	})
}

func TestPeersThatStay(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		prepare  func(s *site, list []wireguard.PublicKey)
		offered  bool
	}{
		{"they cannot be called", func(s *site, _ []wireguard.PublicKey) { s.laptops.nat = true }, true},
		{"they have flows", func(s *site, list []wireguard.PublicKey) {
			s.machines[0].set(func() {
				for _, p := range list {
					s.machines[0].busy[p] = true
				}
			})
		}, false},
		{"the other gateway says nothing", func(s *site, _ []wireguard.PublicKey) { s.links[1].set(true) }, false},
		{"the other gateway drains", func(s *site, _ []wireguard.PublicKey) {
			s.machines[1].set(func() { s.machines[1].draining = true })
		}, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, 2, false)
				list := peers(30)
				row.prepare(s, list)
				eventually(t, "the first gateway sees how the other one is", func() bool {
					return row.offered || row.sentence == "they have flows" || !slices.Contains(s.nodes[0].see(time.Now()).takers, names[1])
				})
				for _, p := range list {
					s.machines[0].connect(p)
				}
				eventually(t, "the gateway knows of all", func() bool { return s.nodes[0].report().Peers == len(list) })
				during(t, 4*silence, "the peers are where they were, with their sessions", func() bool {
					return s.all(list, func(m *machine) bool { return m == s.machines[0] })
				})
				s.nodes[0].mu.Lock()
				defer s.nodes[0].mu.Unlock()
				if got := len(s.nodes[0].balance.offers) > 0; got != row.offered {
					t.Errorf("got offers: %v, want %v", got, row.offered)
				}
			})
		})
	}
}

func TestAGatewayOfTheSameRegionTakesOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 3, false, "eu", "eu", "me")
		list := peers(20)
		s.connected(t, 0, list)
		s.kill(0)
		eventually(t, "the other gateway of the region has all", func() bool {
			return s.all(list, func(m *machine) bool { return m == s.machines[1] })
		})
		eventually(t, "the third knows", func() bool { return len(s.nodes[2].board.of(names[1])) == len(list) })
		s.kill(1)
		eventually(t, "there is none left in the region, so that of another one has all", func() bool {
			return s.all(list, func(m *machine) bool { return m == s.machines[2] })
		})
	})
}
