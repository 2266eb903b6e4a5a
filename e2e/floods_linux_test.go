package e2e

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"penstock/e2e/netlab"
)

// flood is one kind of it.
type flood struct {
	name string
	// begin returns when all is sent, and how to end what it holds.
	begin func(t *testing.T, v *victim) (p poured, end func())
	lasts time.Duration // how long a soak holds what begin has begun
	grows int64         // MiB by which penstock may grow meanwhile; 0: to mostResident
}

// ofSize is n in a soak, and less otherwise.
func ofSize(n, small int) int {
	if soaking() {
		return n
	}
	return small
}

// packets is a flood of packets that are made one by one.
func packets(n, small, rate int, packet func(v *victim, i int) []byte) func(*testing.T, *victim) (poured, func()) {
	return func(t *testing.T, v *victim) (poured, func()) {
		t.Helper()
		p, err := pour(ofSize(n, small), rate, func(i int) error {
			_, err := unix.Write(v.fd, packet(v, i))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return p, func() {}
	}
}

// floods are those of a peer, or of a program.
func floods() []flood {
	return []flood{
		{name: "UDP flows, half of them answered", begin: packets(100_000, 2000, 10_000, func(v *victim, i int) []byte {
			dst := echoServer
			if i%2 == 0 {
				dst = netip.AddrPortFrom(silent(i), 4000)
			}
			return v.udp(v.source(i), dst)
		})},
		{name: "SYNs to hosts that do not answer", begin: packets(200_000, 2000, 20_000, func(v *victim, i int) []byte {
			return v.syn(v.source(i), netip.AddrPortFrom(silent(i), 22))
		})},
		{name: "connections, held", lasts: 10 * time.Second, begin: func(t *testing.T, v *victim) (poured, func()) {
			return v.hold(t, ofSize(16384, 1000))
		}},
		{name: "half requests", lasts: 10 * time.Second, begin: func(t *testing.T, v *victim) (poured, func()) {
			return v.connections(t, ofSize(500, 100), "GET / HTTP/1.1\r\nHost: intra")
		}},
		{name: "readers that do not read", lasts: 10 * time.Second, begin: func(t *testing.T, v *victim) (poured, func()) {
			return v.connections(t, ofSize(500, 100), "GET /bytes/100000000 HTTP/1.1\r\nHost: "+netlab.IntranetSite+"\r\n\r\n")
		}},
		{name: "fragments without a first one", grows: 16, begin: packets(20_000, 2000, 10_000, func(v *victim, i int) []byte { return v.orphan(i, false) })},
		{name: "fragments without a last one", grows: 16, begin: packets(20_000, 2000, 10_000, func(v *victim, i int) []byte { return v.orphan(i, true) })},
		// What these leave half open keeps its place for a while.
		{name: "SYNs to an open port, no handshake ended", begin: packets(200_000, 2000, 20_000, func(v *victim, i int) []byte {
			return v.syn(v.source(i), echoServer)
		})},
		{name: "SYNs to an open port 80, no handshake ended", begin: packets(200_000, 2000, 20_000, func(v *victim, i int) []byte {
			return v.syn(v.source(i), netip.AddrPortFrom(echoServer.Addr(), 80))
		})},
	}
}

// What a flood may make of a penstock, in MiB.
const (
	mostResident = 256 // at its peak
	mostKept     = 32  // more than before, 60 s later
	mostHandles  = 20  // goroutines and descriptors more than before, when all is over
)

// endured is what a flood came to.
type endured struct {
	v             *victim
	flood         flood
	poured        poured
	quiet, during *fetches
	before, at    size
	packets       float64 // that came in from clients meanwhile
	ended         time.Time
	soon, late    int64 // MiB resident 60 and 150 s later
}

// endure lets a flood in while the honest one fetches.
func (v *victim) endure(t *testing.T, f flood) *endured {
	t.Helper()
	e := &endured{v: v, flood: f, quiet: v.fetching(t)()}
	e.before = v.size(t)
	packets := v.packetsIn(t)
	if v.p != nil {
		v.p.forgetPeak(t)
	}
	stop := v.fetching(t)
	var end func()
	e.poured, end = f.begin(t, v)
	if soaking() {
		time.Sleep(f.lasts)
	}
	e.during = stop()
	e.at = v.size(t)
	e.packets = v.packetsIn(t) - packets
	end()
	e.ended = time.Now()
	return e
}

func (e *endured) String() string {
	s := fmt.Sprintf("%s; %s: %d at %.0f a second; before %v; meanwhile %v, slowest %.1f s", e.v.name, e.flood.name, e.poured.sent, e.poured.rate,
		e.quiet, e.during, e.during.slowest.Seconds())
	if e.v.p != nil {
		s += fmt.Sprintf("; %.0f packets came in; resident before %d MiB, at its peak %d, at the end %d", e.packets, e.before.rss, e.at.peak, e.at.rss)
	}
	return s
}

// missed lists the goals that a flood has missed. Those of fetches and of memory depend on how much of the machine penstock gets.
func (e *endured) missed() (goals []string) {
	if least := e.v.leastGood(); e.during.share() < least {
		goals = append(goals, fmt.Sprintf("%.0f %% of fetches, want %.0f", 100*e.during.share(), 100*least))
	}
	most := int64(mostResident)
	if e.flood.grows > 0 {
		most = e.before.rss + e.flood.grows
	}
	if e.at.peak > most {
		goals = append(goals, fmt.Sprintf("%d MiB at the peak, want at most %d", e.at.peak, most))
	}
	if e.soon > e.before.rss+mostKept {
		goals = append(goals, fmt.Sprintf("%d MiB 60 s later, want at most %d", e.soon, e.before.rss+mostKept))
	}
	return goals
}

// leastGood is the share of fetches that are to succeed.
func (v *victim) leastGood() float64 {
	if v.p == v.laptop { // there is one client, which floods and is honest
		return 0.9
	}
	return 0.95
}

// givenBack wants that no goroutine and no descriptor is left of floods, and returns what is.
func (v *victim) givenBack(t *testing.T, before size) (s size) {
	t.Helper()
	eventuallyWithin(t, 3*patience, "what floods took is given back", func() error {
		if s = v.size(t); s.goroutines > before.goroutines+mostHandles || s.descriptors > before.descriptors+mostHandles {
			return fmt.Errorf("%+v, before %+v", s, before)
		}
		return nil
	})
	return s
}

// later reads how much is resident some time after a flood, in MiB.
func (e *endured) later(after time.Duration) int64 {
	time.Sleep(time.Until(e.ended.Add(after)))
	rss, _, err := e.v.p.memory()
	if err != nil {
		return -1
	}
	return rss >> 20
}

const stockVictim = "wireguard-go and the kernel"

// TestFloods prints a line of figures for each flood of each victim in a soak. Otherwise the floods are small, and so are the tables, and
// at most one fetch of twenty may fail.
func TestFloods(t *testing.T) {
	for _, name := range []string{"gateway, direct: kernel", "gateway, direct: sockets", "laptop"} {
		t.Run(name, func(t *testing.T) {
			if soaking() {
				soakFloods(t, name)
				return
			}
			if name == "gateway, direct: kernel" {
				return // as the laptop, a way on which packets cross
			}
			t.Parallel()
			v := newVictim(t, name)
			before := v.size(t)
			for _, f := range floods() {
				t.Run(f.name, func(t *testing.T) {
					if e := v.endure(t, f); e.during.share() < v.leastGood() {
						t.Errorf("%v, want %.0f %%", e, 100*v.leastGood())
					}
				})
			}
			v.givenBack(t, before)
		})
	}
	if soaking() { // what this machine can do at all
		t.Run(stockVictim, func(t *testing.T) { soakFloods(t, stockVictim) })
	}
}

// soakFloods lets each flood in at a victim of its own, and looks at each again when it had time to forget.
func soakFloods(t *testing.T, name string) {
	var all []*endured
	var waiting sync.WaitGroup
	for _, f := range floods() {
		t.Run(f.name, func(s *testing.T) {
			e := newVictim(t, name).endure(s, f) // the victim outlives the flood
			s.Log(e)
			all = append(all, e)
			if e.v.p != nil {
				waiting.Go(func() { e.soon, e.late = e.later(time.Minute), e.later(150*time.Second) })
			}
		})
	}
	waiting.Wait()
	for _, e := range all {
		if e.v.p == nil {
			continue
		}
		rest := e.v.givenBack(t, e.before)
		t.Logf("%v, 60 s later %d, 150 s later %d; goroutines %.0f, %.0f; descriptors %.0f, %.0f; goals missed: %q", e, e.soon, e.late,
			e.before.goroutines, rest.goroutines, e.before.descriptors, rest.descriptors, e.missed())
	}
}

// packetsIn is how many packets the stacks of a penstock have read.
func (v *victim) packetsIn(t *testing.T) float64 {
	t.Helper()
	if v.p == nil {
		return 0
	}
	return v.metric(t, v.p.host, `penstock_stack_packets_total{direction="in"}`)
}
