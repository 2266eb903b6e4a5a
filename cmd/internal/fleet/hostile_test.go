package fleet

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// tell writes what a gateway says into the store.
func (s *site) tell(t *testing.T, b store.Bucket, key string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, b, key, text)
}

func (s *site) write(t *testing.T, b store.Bucket, key string, value []byte) {
	t.Helper()
	l := &link{engine: s.engine}
	if _, err := l.Put(t.Context(), b, key, value, store.Any); err != nil {
		t.Fatal(err)
	}
}

// tellSession writes that a gateway has a session, into a block of its own.
func (s *site) tellSession(t *testing.T, gateway string, peer wireguard.PublicKey, r record) {
	t.Helper()
	s.write(t, store.Sessions, blockKey("lab", gateway, rand.Text()), blockWith(peer, r))
}

// TestWhoIsNotInTheBundleIsNotHeard writes sessions as a gateway does that the bundle no longer names, and what is no session at all.
func TestWhoIsNotInTheBundleIsNotHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		list := peers(4)
		s.connected(t, 0, list[:2])
		s.tellSession(t, "zagreb", list[0], record{Endpoint: endpointOf(list[0])})
		for _, peer := range list[2:] {
			s.tellSession(t, "zagreb", peer, record{Endpoint: endpointOf(peer), Moved: true})
		}
		for _, key := range []string{"lab", "lab.", "lab.zagreb", "lab.zagreb.00", "lab.amsterdam.a.b", "other.amsterdam.00"} {
			s.tell(t, store.Sessions, key, "garbage")
			s.tell(t, store.State, key, []int{1})
			s.tell(t, store.State, "lab."+key, Report{State: "a\x1b[2Jb"})
		}
		whole := blockWith(list[1], record{Endpoint: endpointOf(list[1])})
		for _, wrong := range [][]byte{[]byte("garbage"), {blockFormat}, {}, whole[:len(whole)-1], append(slices.Clone(whole), 0), whole[1:], append([]byte{blockFormat + 1}, whole[1:]...)} {
			s.write(t, store.Sessions, blockKey("lab", names[1], rand.Text()), wrong)
		}
		during(t, 2*silence, "the peers are where they were", func() bool {
			return s.all(list[:2], func(m *machine) bool { return m == s.machines[0] }) && s.where(list[2]) == nil && s.where(list[3]) == nil
		})
	})
}

// TestNobodyIsCalledWhereNobodyCanBe hands over peers at addresses that lead to the gateway itself, or to many machines.
func TestNobodyIsCalledWhereNobodyCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		list := peers(6)
		for i, text := range []string{"127.0.0.1:53", "[::1]:53", "0.0.0.0:1", "239.1.1.1:1", "[fe80::1%a]:5"} {
			s.tellSession(t, names[2], list[i], record{Endpoint: netip.MustParseAddrPort(text), Moved: true})
		}
		s.tellSession(t, names[2], list[5], record{Endpoint: endpointOf(list[5]), Moved: true})
		eventually(t, "one who can be somewhere is called", func() bool { return s.where(list[5]) != nil })
		for _, n := range s.nodes {
			n.mu.Lock()
			for _, peer := range list[:5] {
				if _, called := n.called[peer]; called {
					t.Errorf("%s called %v", n.self, peer)
				}
			}
			n.mu.Unlock()
		}
	})
}

// TestAPeerIsCalledWhereItWasLast lets a peer have been at two gateways that are gone, at two addresses.
func TestAPeerIsCalledWhereItWasLast(t *testing.T) {
	b := newBoard("lab", names[0])
	peer := peers(1)[0]
	all := func(string) bool { return true }
	sight := func(gateway string, version uint64, moved bool, port uint16) {
		r := record{Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), port), Moved: moved}
		b.block(store.Entry{Key: blockKey("lab", gateway, "x"), Value: blockWith(peer, r), Version: version}, all)
	}
	for range 20 { // in whatever order the gateways are looked at
		sight("zagreb", 1, false, 1)
		sight("berlin", 3, false, 3)
		sight("cairo", 2, true, 2)
		if got := b.wanted(all, []string{"berlin", "zagreb"}, time.Now())[peer].Endpoint.Port(); got != 3 {
			t.Fatalf("both are gone: got port %d, want 3, the last", got)
		}
		if got := b.wanted(all, []string{"zagreb"}, time.Now())[peer].Endpoint.Port(); got != 2 {
			t.Fatalf("one is gone: got port %d, want 2", got)
		}
	}
}

// TestAClockThatWentBackKeepsNoPeer lets WireGuard say handshakes of an hour to come, as after the clock was set back.
func TestAClockThatWentBackKeepsNoPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		list := peers(3)
		for _, p := range list {
			s.machines[0].connect(p)
			s.machines[0].set(func() { s.machines[0].sessions[p] = time.Now().Add(time.Hour) })
		}
		eventually(t, "the other knows where the peers are", func() bool { return len(s.nodes[1].board.of(names[0])) == len(list) })
		tick := time.NewTicker(later + later/2) // by so much a handshake has to be later
		defer tick.Stop()
		<-tick.C
		for _, p := range list {
			s.machines[1].connect(p)
		}
		eventually(t, "the later handshakes count", func() bool {
			return !s.machines[0].has(list[0]) && !s.machines[0].has(list[1]) && !s.machines[0].has(list[2])
		})
		during(t, silence, "and stay", func() bool { return s.all(list, func(m *machine) bool { return m == s.machines[1] }) })
	})
}

// TestALaterHandshakeIsSeenBeforeOurs lets another gateway tell of a handshake before this one has looked at its own.
func TestALaterHandshakeIsSeenBeforeOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		s.stop[0]()
		<-s.over[0]
		n, m, peer := s.nodes[0], s.machines[0], peers(1)[0]
		n.board.watching(store.Sessions, true)
		m.set(func() { m.sessions[peer] = time.Now().Add(-time.Second) })
		n.sighted(store.Entry{Key: blockKey("lab", names[1], "x"), Value: blockWith(peer, record{Endpoint: endpointOf(peer)}), Version: 1})
		n.publish()
		n.yield()
		if m.has(peer) {
			t.Error("the peer has a session here, and a later one elsewhere")
		}
		m.connect(peer)
		n.publish()
		n.yield()
		if !m.has(peer) {
			t.Error("the peer has come back, and its session is gone")
		}
	})
}

// TestAPeerThatWentBackIsCalledAgain lets a peer come here, and go back to a gateway that hands it over, before this one has looked at its
// own peers.
func TestAPeerThatWentBackIsCalledAgain(t *testing.T) {
	for _, row := range []struct {
		sentence string
		ago      time.Duration // the handshake here
		called   bool
	}{{"it was here before", time.Second, true}, {"it has come since", 0, false}} {
		t.Run(row.sentence, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, 2, false)
				n, m, peer := s.nodes[1], s.machines[1], peers(1)[0]
				s.machines[0].set(func() { s.machines[0].draining = true })
				eventually(t, "the other one drains", func() bool { return len(n.see(time.Now()).takers) == 1 })
				s.stop[1]()
				<-s.over[1]
				n.leaving = false
				m.connect(peer)
				m.set(func() { m.sessions[peer] = time.Now().Add(-row.ago) })
				n.sighted(store.Entry{Key: blockKey("lab", names[0], "x"), Value: blockWith(peer, record{Endpoint: endpointOf(peer), Moved: true}), Version: 1})
				time.Sleep(time.Millisecond)
				now := time.Now()
				n.look(t.Context())
				n.calls.Wait()
				if called := m.sessions[peer].Equal(now); called != row.called {
					t.Errorf("it was called: %v, want %v", called, row.called)
				}
			})
		})
	}
}

// TestTwoGatewaysWithOneName starts a gateway with the name of another one, and a gateway anew.
func TestTwoGatewaysWithOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, 2, false)
		first := s.nodes[0]
		s.links = append(s.links, &link{engine: s.engine})
		s.machines = append(s.machines, &machine{name: names[0], all: s.laptops, sessions: make(map[wireguard.PublicKey]time.Time)})
		s.stop[1]()
		<-s.over[1]
		s.start(t, 1, false)
		during(t, twinSpeak*beatEvery, "who starts anew is no other", func() bool { return s.nodes[1].Status().Trouble == "" })
		cfg := *first.Live()
		twin := first.Config
		twin.Store, twin.Gateway, twin.Registry = s.links[2], s.machines[2], prometheus.NewRegistry()
		n, err := New(t.Context(), twin)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		over := make(chan struct{})
		go func() {
			defer close(over)
			_ = n.Run(ctx)
		}()
		eventually(t, "both say so", func() bool {
			a, b := first.Status().Trouble, n.Status().Trouble
			return a == b && a == twinTrouble(cfg.Fleet.Gateway)
		})
		cancel()
		<-over
		eventually(t, "it is over", func() bool { return first.Status().Trouble == "" })
	})
}
