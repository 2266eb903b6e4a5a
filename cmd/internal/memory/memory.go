// Package memory returns memory to the system once a burst of flows is over, once a configuration with many peers is in force, and once
// whatever else made the heap grow has calmed down. While much is in use it lets the heap grow by less.
//
// It does not bound memory.
package memory

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// every is how often GiveBack looks, and so how late memory is given back.
const every = 10 * time.Second

// Flows counts live flows. *router.Router does.
type Flows interface {
	// Active is how many there are.
	Active() int
	// Busiest is how many there were at once, at most, since it was called last.
	Busiest() int
}

// lingering is how many looks in a row give memory back once a burst is over. The first finds only part of it: TCP endpoints
// linger for 30 s after their flow has ended, and a pool keeps its buffers for two collections. After 10,000 flows through a
// tunnel one collection left 2 GB allocated, 430 MiB of it resident (2026-11).
const lingering = 6

// opened is how many looks in a row give memory back once flows have stopped to come: a pool keeps its buffers for two collections.
const opened = 2

// manyPeers is how many peers leave so much behind when their configuration has been read that it is worth a collection: of 100,000
// the garbage was 36 MiB after the start, as much as what is kept of them (2026-11).
const manyPeers = 10_000

// Loaded returns the number of the edition in force, and how many peers it has.
type Loaded func() (edition uint64, peers int)

// GiveBack returns memory to the system after each burst of flows, until ctx ends: once when they have come, because opening a flow
// takes more than it holds, and again when they have ended. It does so after each edition with many peers as well, and when the heap
// has grown by much and is quiet: a few hundred flows whose clients do not read can hold as much as 10,000 others. The runtime itself
// collects only when the heap has doubled or two minutes have passed, and then gives back little by little: after 5,000 flows it took
// over four minutes.
func GiveBack(ctx context.Context, flows Flows, loaded Loaded) error {
	defer tighten()()
	tick := time.NewTicker(every)
	defer tick.Stop()
	var b burst
	var w wave
	g := newGrowth(readHeap)
	var last uint64 // edition
	left := 0       // of the times to give back
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			now := flows.Active()
			if w.over(now) {
				left = max(left, opened)
			}
			if b.over(flows.Busiest(), now) {
				left = lingering
			}
			if edition, peers := loaded(); edition != last {
				if last = edition; peers >= manyPeers {
					left = max(left, 1)
				}
			}
			if g.over() {
				left = max(left, opened)
			}
			if left > 0 {
				left--
				debug.FreeOSMemory()
				g.givenBack()
			}
		}
	}
}

// burstFlows is how many flows make a burst. What fewer leave behind is not worth a collection.
const burstFlows = 1000

// burst tells when a burst of flows is over.
type burst struct {
	most int // flows at once since the last burst was over
}

// over takes how many flows there were at once, at most, since the last call, and how many there are now. It reports true
// once for each burst: when half of its flows have ended.
func (b *burst) over(most, now int) bool {
	b.most = max(b.most, most)
	if b.most < burstFlows || now > b.most/2 {
		return false
	}
	b.most = now
	return true
}

// wave tells when flows have come and stay.
type wave struct {
	low  int // fewest flows since the last wave was over
	last int // flows at the last look
}

// over takes how many flows there are now. It reports true once for each wave: when there are half again as many as before it, and
// they do not grow any more.
func (w *wave) over(now int) bool {
	grows := now > w.last+w.last/10
	w.last, w.low = now, min(w.low, now)
	if grows || now-w.low < max(burstFlows, w.low/2) {
		return false
	}
	w.low = now
	return true
}

// heap is how much memory the heap has of the system, in bytes, and how often it has been collected.
type heap struct{ bytes, collections uint64 }

// readHeap asks the runtime.
func readHeap() heap {
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
		{Name: "/gc/cycles/total:gc-cycles"},
	}
	metrics.Read(samples)
	var h heap
	for _, s := range samples[:3] {
		h.bytes += s.Value.Uint64()
	}
	h.collections = samples[3].Value.Uint64()
	return h
}

// muchGrowth is by how much the heap has to grow to be collected once it is quiet.
const muchGrowth = 32 << 20

// growth tells when the heap has grown and does not any more.
type growth struct {
	read        func() heap
	least       uint64 // bytes of the heap since memory was given back
	collections uint64 // at the last look
}

func newGrowth(read func() heap) growth {
	h := read()
	return growth{read, h.bytes, h.collections}
}

// over reports whether the heap has grown by much, and nothing made the runtime collect it since the last look: as long as something
// does, what would be given back is soon wanted again.
func (g *growth) over() bool {
	h := g.read()
	quiet := h.collections == g.collections
	g.collections, g.least = h.collections, min(g.least, h.bytes)
	return quiet && h.bytes >= g.least+muchGrowth
}

// givenBack notes what is left of the heap. That is used.
func (g *growth) givenBack() {
	h := g.read()
	g.collections, g.least = h.collections, h.bytes
}
