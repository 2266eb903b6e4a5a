package transport

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// fleet imitates a driver whose peer has several endpoints. The one in use is peer's server; peer.silent is about it alone.
type fleet struct {
	*peer
	others []string      // that answer calls
	trip   time.Duration // from a packet to its answer
	far    time.Duration // the same of the one in use, if it is another
	calls  []int
}

func (f *fleet) Call(i int) error {
	f.send(148)
	f.set(func(*peer) { f.calls = append(f.calls, i) })
	lost := func() bool {
		if f.rng == nil {
			return false
		}
		there, back := f.rng.Float64() < f.loss, f.rng.Float64() < f.loss
		return there || back
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case lost():
	case i == 0 && !f.silent:
		time.AfterFunc(cmp.Or(f.far, f.trip), f.receive)
	case i > 0 && f.others[i-1] != "":
		time.AfterFunc(f.trip, func() {
			f.receive()
			f.set(func(p *peer) {
				p.stats.Endpoint, f.others[i-1] = f.others[i-1], p.stats.Endpoint
				if p.silent {
					f.others[i-1] = ""
				}
				p.silent = false
			})
		})
	}
	return nil
}

// Probe is answered at once, unless the endpoint in use is far.
func (f *fleet) Probe(ctx context.Context) error {
	if f.far == 0 {
		return f.peer.Probe(ctx)
	}
	f.set(func(p *peer) { p.probes++ })
	time.AfterFunc(f.far, f.receive)
	return nil
}

func (f *fleet) made() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// runFleet starts a tunnel to f in a synctest bubble.
func runFleet(t *testing.T, f *fleet) (*Tunnel, *history) {
	f.stats.Endpoint, f.stats.Others = "a", len(f.others)
	return runDriver(t, f)
}

func TestMoving(t *testing.T) {
	traffic := func(f *fleet) func() { return func() { f.send(100) } }
	for _, row := range []struct {
		name  string
		fleet fleet
		do    func(t *testing.T, tun *Tunnel, f *fleet)
		want  string // the states, in order
	}{
		{
			name:  "a dead endpoint under traffic is left within 1.5 s",
			fleet: fleet{others: []string{"b", "c"}, trip: 50 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.silent = true })
				begun := time.Now()
				for tun.Health().Stats.Endpoint == "a" && time.Since(begun) < time.Minute {
					pass(100*time.Millisecond, traffic(f))
				}
				if got := time.Since(begun); got > 2700*time.Millisecond { // and the sample of 1 s in which the traffic begins
					t.Errorf("got %v until another endpoint is in use, want at most 1.5 s and one sample", got)
				}
				if got := fmt.Sprint(f.made()); got != "[0 1]" {
					t.Errorf("got the calls %s, want the one in use and the first of the others", got)
				}
				if h := tun.Health(); h.Stats.Endpoint != "b" || h.Reconnects != 1 {
					t.Errorf("got %+v, want b after one reconnect", h)
				}
				pass(10*time.Second, func() { f.send(100); f.receive() })
			},
			want: "connecting connected reconnecting(moved) connected(moved)",
		},
		{
			name:  "the first two being dead, the third is used",
			fleet: fleet{others: []string{"", "c"}, trip: 50 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.silent = true })
				pass(3*time.Second, traffic(f))
				if got := tun.Health().Stats.Endpoint; got != "c" {
					t.Errorf("got %s in use, want c", got)
				}
			},
			want: "connecting connected reconnecting(moved) connected(moved)",
		},
		{
			name:  "answers that take 900 ms are in time",
			fleet: fleet{others: []string{"b"}, trip: 900 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.silent = true })
				pass(4*time.Second, traffic(f))
				if got := tun.Health().Stats.Endpoint; got != "b" {
					t.Errorf("got %s in use, want b", got)
				}
			},
			want: "connecting connected reconnecting(moved) connected(moved)",
		},
		{
			name:  "if all are dead, they are called in rounds until the transport is lost",
			fleet: fleet{others: []string{"", ""}},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.silent = true })
				begun := time.Now()
				for tun.Health().State == Connected && time.Since(begun) < time.Minute {
					pass(100*time.Millisecond, traffic(f))
				}
				if got := time.Since(begun); got < 4500*time.Millisecond || got > 5700*time.Millisecond {
					t.Errorf("got %v until reconnecting, want 4.5 s and one sample, as with one endpoint", got)
				}
				if got := fmt.Sprint(f.made()); !strings.HasPrefix(got, "[0 1 2 0 1 2 ") {
					t.Errorf("got the calls %s, want two rounds and more", got)
				}
			},
			want: "connecting connected reconnecting(keepalive_timeout)",
		},
		{
			name:  "an idle tunnel to a dead endpoint moves too",
			fleet: fleet{others: []string{"b"}},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.silent = true })
				pass(125*time.Second, nil)
				if got := tun.Health().Stats.Endpoint; got != "b" {
					t.Errorf("got %s in use, want b", got)
				}
			},
			want: "connecting connected reconnecting(moved) connected(moved)",
		},
		{
			name:  "traffic one way only, ten minutes of it, is no reason to move",
			fleet: fleet{others: []string{"b"}, trip: 50 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				pass(10*time.Minute, traffic(f))
				if f.probes == 0 {
					t.Error("got no probe: the row proves nothing")
				}
				if got := f.made(); len(got) > 0 {
					t.Errorf("got the calls %v, want none", got)
				}
			},
			want: "connecting connected",
		},
		{
			name:  "on a new path the endpoint in use stays if it answers soon",
			fleet: fleet{others: []string{"b"}, trip: 10 * time.Millisecond, far: 80 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				tun.PathChanged(true)
				pass(5*time.Second, func() { f.send(100); f.receive() })
				if got := fmt.Sprint(f.made()); got != "[0]" || tun.Health().Stats.Endpoint != "a" {
					t.Errorf("got the calls %s and %s in use, want the one in use alone", got, tun.Health().Stats.Endpoint)
				}
			},
			want: "connecting connected reconnecting(path_change) connected(path_change)",
		},
		{
			name:  "on a new path the endpoint in use is left if another is much nearer",
			fleet: fleet{others: []string{"b", "c"}, trip: 10 * time.Millisecond, far: 400 * time.Millisecond},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				tun.PathChanged(true)
				pass(5*time.Second, nil)
				if got := fmt.Sprint(f.made()); got != "[0 1 2]" || tun.Health().Stats.Endpoint == "a" {
					t.Errorf("got the calls %s and %s in use, want all called and another used", got, tun.Health().Stats.Endpoint)
				}
			},
			want: "connecting connected reconnecting(path_change) connected(path_change) reconnecting(moved) connected(moved)",
		},
		{
			name:  "a peer that moves by itself is followed and not counted",
			fleet: fleet{others: []string{"b"}},
			do: func(t *testing.T, tun *Tunnel, f *fleet) {
				f.set(func(p *peer) { p.stats.Endpoint = "elsewhere" })
				pass(5*time.Second, func() { f.send(100); f.receive() })
			},
			want: "connecting connected",
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := row.fleet
				f.peer = &peer{}
				tun, h := runFleet(t, &f)
				row.do(t, tun, &f)
				if got := h.String(); got != row.want {
					t.Errorf("states: got  %s\nwant %s", got, row.want)
				}
			})
		})
	}
}

// TestLossRarelyMoves: ten minutes of traffic one way at 20 % loss each way have some 500 silences of 600 ms.
func TestLossRarelyMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{peer: &peer{loss: 0.2, rng: rand.New(rand.NewPCG(7, 7))}, others: []string{"b"}, trip: 50 * time.Millisecond}
		tun, _ := runFleet(t, f)
		pass(10*time.Minute, func() { f.send(1200) })
		t.Logf("%d probes, %d calls, %d moves", f.probes, len(f.made()), tun.Health().Reconnects)
		if got := tun.Health().Reconnects; f.probes < 100 || got > 10 {
			t.Errorf("got %d probes and %d moves, want many probes and hardly a move", f.probes, got)
		}
	})
}

// TestAnIdleTunnelSendsNoMoreForHavingOtherEndpoints: what is sent is a keepalive each 25 s, and what liveness adds.
func TestAnIdleTunnelSendsNoMoreForHavingOtherEndpoints(t *testing.T) {
	sent := func(t *testing.T, others []string, keepalives bool) (packets int, bytes uint64) {
		synctest.Test(t, func(t *testing.T) {
			f := &fleet{peer: &peer{}, others: others, trip: 50 * time.Millisecond}
			tun, _ := runFleet(t, f)
			for range 40 {
				pass(25*time.Second, nil)
				if keepalives {
					f.send(keepalive)
				}
			}
			if got := f.made(); len(got) > 0 || tun.Health().Reconnects > 0 {
				t.Errorf("got the calls %v and %d reconnects, want none", got, tun.Health().Reconnects)
			}
			packets, bytes = f.probes, f.Stats().TxBytes
		})
		return packets, bytes
	}
	for _, keepalives := range []bool{false, true} {
		onePackets, oneBytes := sent(t, nil, keepalives)
		packets, bytes := sent(t, []string{"b", "c"}, keepalives)
		t.Logf("keepalives %v: %d probes and %d bytes with one endpoint, %d and %d with three", keepalives, onePackets, oneBytes, packets, bytes)
		if packets > onePackets || bytes > oneBytes || onePackets == 0 {
			t.Errorf("keepalives %v: got %d probes and %d bytes with three endpoints, want no more than %d and %d", keepalives, packets, bytes, onePackets, oneBytes)
		}
	}
}

var _ Caller = (*fleet)(nil)
