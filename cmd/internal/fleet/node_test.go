package fleet

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

const patience = 30 * time.Second

// eventually waits until something is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after %v: not so: %s", patience, what)
		}
	}
}

// during wants that something stays true for a while.
func during(t *testing.T, d time.Duration, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
		if !is() {
			t.Fatalf("no longer so: %s", what)
		}
	}
}

func logger(t *testing.T, gateway string) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil)).With("of", gateway)
}

// peers makes keys of peers.
func peers(n int) []wireguard.PublicKey {
	keys := make([]wireguard.PublicKey, n)
	for i := range keys {
		keys[i] = wireguard.PublicKey{byte(i), byte(i >> 8), 1}
	}
	return keys
}

// connected connects peers to a gateway, and waits until the others know. The gateway does not offer them to others.
func (s *site) connected(t *testing.T, i int, list []wireguard.PublicKey) {
	t.Helper()
	s.nodes[i].mu.Lock()
	for _, p := range list {
		s.nodes[i].balance.keep(p, time.Now())
	}
	s.nodes[i].mu.Unlock()
	for _, p := range list {
		s.machines[i].connect(p)
	}
	eventually(t, "the others know where the peers are", func() bool {
		for j, n := range s.nodes {
			if j != i && len(n.board.of(names[i])) < len(list) {
				return false
			}
		}
		return true
	})
}

// all reports whether all peers are at gateways that may have them.
func (s *site) all(list []wireguard.PublicKey, may func(m *machine) bool) bool {
	for _, p := range list {
		if m := s.where(p); !may(m) || !m.has(p) {
			return false
		}
	}
	return true
}

func TestPeersOfAGatewayThatIsGoneAreTakenOver(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		pulses   bool
		end      func(s *site)
	}{
		{"killed", false, func(s *site) { s.kill(0) }},
		{"killed, and it could be asked whether it lives", true, func(s *site) { s.kill(0) }},
		{"stopped", false, func(s *site) {
			s.machines[0].set(func() { s.machines[0].dead = true })
			s.stop[0]()
		}},
		{"killed, when the engine was gone already", true, func(s *site) {
			for _, l := range s.links {
				l.set(true)
			}
			s.kill(0)
		}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			test := func(t *testing.T) {
				s := newSite(t, 3, row.pulses)
				list := peers(60)
				s.connected(t, 0, list)
				row.end(s)
				began := time.Now()
				eventually(t, "all peers are at the gateways that are left", func() bool {
					return s.all(list, func(m *machine) bool { return m != s.machines[0] })
				})
				t.Logf("all taken over after %v", time.Since(began))
				got := make(map[string]int)
				for _, p := range list {
					got[s.where(p).name]++
				}
				if got[names[1]] < 10 || got[names[2]] < 10 {
					t.Errorf("got %v, want a share for both", got)
				}
			}
			if row.pulses { // by real sockets
				test(t)
			} else {
				synctest.Test(t, test)
			}
		})
	}
}

func TestAGatewayThatLivesKeepsItsPeers(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		cut      []int // from the engine
	}{
		{"it is cut off from the engine", []int{0}},
		{"the engine is gone for all", []int{0, 1, 2}},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, 3, true)
			list := peers(10)
			s.connected(t, 0, list)
			for _, i := range row.cut {
				s.links[i].set(true)
			}
			during(t, 4*silence, "the peers are where they were", func() bool {
				return s.all(list, func(m *machine) bool { return m == s.machines[0] })
			})
			for _, i := range row.cut {
				s.links[i].set(false)
			}
			eventually(t, "the engine knows all again", func() bool {
				for _, n := range s.nodes {
					if !n.Connected() || len(n.see(time.Now()).takers) != 3 {
						return false
					}
				}
				return true
			})
		})
	}
}

// TestWhoIsCutOffItselfTakesNothing cuts a gateway off from the engine and from all others: it must not think that they are gone.
func TestWhoIsCutOffItselfTakesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, 2, true)
	list := peers(10)
	s.connected(t, 0, list)
	s.links[1].set(true)
	s.nodes[0].pulse.conn.Close() // nobody answers
	during(t, 4*silence, "the peers are where they were", func() bool {
		return s.all(list, func(m *machine) bool { return m == s.machines[0] })
	})
}

func TestPeersAreHandedOver(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		sentence string
		why      func(m *machine)
		back     func(m *machine)
	}{
		{"drained", func(m *machine) { m.draining = true }, func(m *machine) { m.draining = false }},
		{"unfit", func(m *machine) { m.unfit = errors.New("the intranet is not reached") }, func(m *machine) { m.unfit = nil }},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, 2, false)
				list := peers(40)
				s.connected(t, 0, list)
				m := s.machines[0]
				m.set(func() { m.busy[list[0]] = true })
				m.set(func() { row.why(m) })
				eventually(t, "the other gateway has all peers", func() bool {
					return s.all(list, func(m *machine) bool { return m == s.machines[1] })
				})
				time.Sleep(time.Millisecond) // or it would be there and here at one instant
				m.connect(list[1])           // its own idea, for instance because its address changed
				eventually(t, "a peer that comes is handed over again", func() bool { return s.where(list[1]) == s.machines[1] })
				m.set(func() { row.back(m) })
				s.machines[0].connect(list[2])
				eventually(t, "the later handshake counts", func() bool { return !s.machines[1].has(list[2]) })
				during(t, 2*silence, "and stays", func() bool { return s.where(list[2]) == s.machines[0] && m.has(list[2]) })
			})
		})
	}
}

func TestNobodyIsHandedOverToNobody(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		list := peers(10)
		s.connected(t, 0, list)
		for _, m := range s.machines {
			m.set(func() { m.unfit = errors.New("the intranet is not reached") })
		}
		during(t, 3*silence, "the peers are where they were", func() bool {
			return s.all(list, func(m *machine) bool { return m == s.machines[0] })
		})
	})
}

// TestAWipedEngineForgetsNoPeer wipes the engine: the gateways tell it all again.
func TestAWipedEngineForgetsNoPeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		list := peers(10)
		s.connected(t, 0, list)
		s.engine.wipe()
		eventually(t, "the engine has the sessions again", func() bool {
			s.engine.mu.Lock()
			defer s.engine.mu.Unlock()
			told := make(map[wireguard.PublicKey]bool)
			for _, e := range s.engine.values[store.Sessions] {
				if err := records(e.Value, func(peer wireguard.PublicKey, _ record) { told[peer] = true }); err != nil {
					t.Fatal(err)
				}
			}
			return len(told) == len(list) && len(s.engine.values[store.State]) == 2
		})
		s.kill(0)
		eventually(t, "all peers are at the gateway that is left", func() bool {
			return s.all(list, func(m *machine) bool { return m == s.machines[1] })
		})
	})
}

func TestTheTakerIsTheSameForAll(t *testing.T) {
	t.Parallel()
	three, two := []string{"a", "b", "c"}, []string{"a", "c"}
	got := make(map[string]int)
	for _, p := range peers(3000) {
		first := taker(p, three)
		got[first]++
		if second := taker(p, two); first != "b" && second != first {
			t.Fatalf("the gateway %s was taken away, and a peer went from %s to %s", "b", first, second)
		}
	}
	for _, name := range three {
		if got[name] < 800 {
			t.Errorf("got %v, want a third for each", got)
		}
	}
	if got := taker(wireguard.PublicKey{}, nil); got != "" {
		t.Errorf("without gateways: got %q", got)
	}
}
