package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"penstock/cmd/internal/fleet/bundle"
	nats "penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// wire is a gateway as the store sees it: its connection, its watches, its beats and its blocks of sessions. What it is told it only
// counts, so that a thousand fit into one process.
type wire struct {
	store        *counted
	site, name   string
	writer       *writer
	peers        []wireguard.PublicKey
	steady       atomic.Bool  // the peers renew their handshakes
	beats, known atomic.Int64 // beats told, and sessions of others
	truth, peer  chan struct{}
	stop         func()
}

// startWire starts a gateway with some peers, from a number on, that renew their handshakes one after the other.
func (f *fleetOf) startWire(t *testing.T, site string, number, from, peers int, every time.Duration) *wire {
	t.Helper()
	w := &wire{
		store: &counted{f.connect(t), &f.counts}, site: site, name: gatewayName(number), truth: make(chan struct{}, 1), peer: make(chan struct{}, 1),
	}
	w.writer = newWriter(w.store, blockKey(site, w.name, fmt.Sprint("run", time.Now().UnixNano())), slog.New(slog.DiscardHandler))
	for i := from; i < from+peers; i++ {
		w.peers = append(w.peers, stranger(i))
		w.writer.put(stranger(i), record{Endpoint: strangerAt(i)})
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { w.writer.run(ctx) })
	running.Go(func() { w.beat(ctx) })
	running.Go(func() { w.renew(ctx, from, every) })
	for bucket, changed := range map[store.Bucket]func(store.Entry){
		store.Truth: func(store.Entry) { tell(w.truth) },
		store.Peers: func(store.Entry) { tell(w.peer) },
		store.State: func(store.Entry) { w.beats.Add(1) },
		store.Sessions: func(e store.Entry) {
			if writer, ok := writerOf(site, e.Key); ok && writer != w.name {
				w.known.Add(int64(len(e.Value) / blockEntry))
			}
		},
	} {
		running.Go(func() { w.watch(ctx, bucket, changed) })
	}
	w.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		w.store.Close()
	})
	t.Cleanup(w.stop)
	return w
}

// watch watches as Node.watch does.
func (w *wire) watch(ctx context.Context, bucket store.Bucket, changed func(store.Entry)) {
	n := &Node{Config: Config{Store: w.store, Log: slog.New(slog.DiscardHandler)}, site: w.site, board: newBoard(w.site, w.name)}
	n.watch(ctx, bucket, func(e store.Entry) {
		if len(e.Value) > 0 {
			changed(e)
		}
	})
}

// beat tells what a node tells, as often.
func (w *wire) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	text, _ := json.Marshal(Report{State: Serving, Generation: 1, Peers: len(w.peers), Version: "(devel)", Run: w.name}) // it has nothing that JSON cannot say
	for ctx.Err() == nil {
		limited, cancel := context.WithTimeout(ctx, beatLimit)
		_, _ = w.store.Put(limited, store.State, w.site+"."+w.name, text, store.Any) // it is counted
		cancel()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// renew puts the sessions of those peers whose turn it is, once a second.
func (w *wire) renew(ctx context.Context, from int, every time.Duration) {
	tick := time.NewTicker(ownEvery)
	defer tick.Stop()
	done, began := 0, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !w.steady.Load() {
			continue
		}
		if began.IsZero() {
			began = time.Now()
		}
		for due := int(time.Since(began) * time.Duration(len(w.peers)) / every); done < due; done++ {
			i := done % len(w.peers)
			w.writer.put(w.peers[i], record{Endpoint: strangerAt(from + i)})
		}
	}
}

// TestAThousandGateways has the connections of 300 and of 1,000 gateways, with 1,000 peers each and in sites of ten, to one server, if
// PENSTOCK_SOAK=1, and those of 40 otherwise. All that is on the wire is what gateways write and read. What they do with it is measured
// by TestALargeFleet and the benchmarks.
func TestAThousandGateways(t *testing.T) {
	rows := []int{4}
	if soaking() {
		rows = []int{30, 100}
	}
	for _, sites := range rows {
		t.Run(fmt.Sprintf("%d_gateways", 10*sites), func(t *testing.T) { measureWire(t, sites) })
	}
}

func measureWire(t *testing.T, sites int) {
	share, every, measured, changes, files, size := 50, 2*time.Second, 2*time.Second, 3, 5, 2<<10
	if soaking() {
		share, every, measured, changes, files, size = 1000, 2*time.Minute, 30*time.Second, 10, 105, 21<<10
	}
	const ofSite = 10
	f := newFleetOf(t, nats.Options{})
	operator := f.connect(t)
	for _, b := range []store.Bucket{store.Truth, store.Peers, store.State, store.Sessions} { // as publish does
		if _, err := operator.Put(t.Context(), b, "other.a.b", []byte{1}, store.Any); err != nil {
			t.Fatal(err)
		}
	}
	empty := memory()
	wires := make([]*wire, sites*ofSite)
	began := time.Now()
	start := func(i int) {
		wires[i] = f.startWire(t, fmt.Sprintf("site%d", i/ofSite), i%ofSite, i*share, share, every)
	}
	knows := func(w *wire) bool { return w.known.Load() >= int64((ofSite-1)*share) }
	for first := 0; first < len(wires); first += 2 * ofSite { // as they are rolled out
		next := wires[first : first+2*ofSite]
		for i := range next {
			start(first + i)
		}
		within(t, scalePatience, "those that start know all sessions of their sites", func() bool {
			return !slices.ContainsFunc(next, func(w *wire) bool { return !knows(w) })
		})
		if last := first + len(next); last%100 == 0 || last == len(wires) {
			t.Logf("%d gateways with %d peers: told of all sessions of their sites after %v; %d writes failed", last, last*share,
				time.Since(began), f.failed.Load())
		}
	}
	t.Logf("%d goroutines; %d KiB for each gateway, both ends of its connection and what the server has of it", runtime.NumGoroutine(),
		(memory()-empty)>>10/int64(len(wires)))

	for _, w := range wires {
		w.steady.Store(true)
	}
	beats := func() (n int64) {
		for _, w := range wires {
			n += w.beats.Load()
		}
		return n
	}
	at, told, sent, failed, heard := time.Now(), f.told.Load(), f.bytes.Load(), f.failed.Load(), beats()
	sessions, blocks := f.sessions.Load(), f.blocks.Load()
	within(t, scalePatience, "the steady rate is measured", func() bool { return time.Since(at) > measured })
	seconds := time.Since(at).Seconds()
	t.Logf("each second: %.0f sessions of %.0f in %.0f blocks written, %.0f values and %.0f KB told, %.0f %% of the beats; %d writes failed",
		float64(f.sessions.Load()-sessions)/seconds, float64(len(wires)*share)/every.Seconds(), float64(f.blocks.Load()-blocks)/seconds,
		float64(f.told.Load()-told)/seconds, float64(f.bytes.Load()-sent)/seconds/1000,
		100*float64(beats()-heard)/seconds/(float64(len(wires))*ofSite/beatEvery.Seconds()), f.failed.Load()-failed)
	if every <= measured {
		within(t, scalePatience, "every session is written again", func() bool { return f.sessions.Load()-sessions >= int64(len(wires)*share) })
	}

	var took []time.Duration
	for i := range changes {
		took = append(took, f.reach(t, wires, func(w *wire) chan struct{} { return w.peer }, func(site string) error {
			_, err := operator.Put(t.Context(), store.Peers, PeerKey(site, fmt.Sprint("added", i)), bytes.Repeat([]byte{'x'}, 400), store.Any)
			return err
		}))
	}
	slices.Sort(took)
	t.Logf("a change of a peer in each of %d sites until the last of %d gateways is told: min %v, median %v, max %v", sites, len(wires), took[0],
		took[changes/2], took[changes-1])

	var digests []store.Digest
	for i := range files {
		d, err := operator.PublishBlob(t.Context(), strings.NewReader(strings.Repeat(fmt.Sprintf("%09d\n", i), size/10)))
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d)
	}
	m := bundle.Manifest{Generation: 1}
	for i, d := range digests {
		m.Files = append(m.Files, bundle.File{Name: fmt.Sprintf("peers/%d.yaml", i), Digest: d})
	}
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var wrong atomic.Value
	took = []time.Duration{f.reach(t, wires, func(w *wire) chan struct{} {
		done := make(chan struct{}, 1)
		go func() { // it ends when the bundle is told
			<-w.truth
			for _, d := range digests {
				if err := w.store.FetchBlob(t.Context(), d, io.Discard); err != nil {
					wrong.Store(err.Error())
				}
			}
			done <- struct{}{}
		}()
		return done
	}, func(site string) error {
		_, err := operator.Put(t.Context(), store.Truth, site, text, store.Any)
		return err
	})}
	t.Logf("a bundle of %d files, %d KB, in each site until the last of %d gateways has all: %v; faults: %v", files, files*size>>10,
		len(wires), took[0], wrong.Load())
	if text := wrong.Load(); text != nil {
		t.Errorf("a file was not fetched: %v", text)
	}

	var cold []time.Duration
	for site := range min(5, sites) {
		wires[site*ofSite].stop()
		began := time.Now()
		start(site * ofSite)
		within(t, time.Minute, "a gateway that starts is told of its site", func() bool { return knows(wires[site*ofSite]) })
		cold = append(cold, time.Since(began))
	}
	t.Logf("a cold start, until a gateway is told of the %d sessions of its site: %v", (ofSite-1)*share, cold)
	var stops sync.WaitGroup
	for _, w := range wires {
		stops.Go(w.stop)
	}
	stops.Wait()
}

// reach publishes something in each site, and returns how long it takes until the last gateway has it.
func (f *fleetOf) reach(t *testing.T, wires []*wire, has func(*wire) chan struct{}, publish func(site string) error) time.Duration {
	t.Helper()
	var waiting sync.WaitGroup
	arrived := make([]atomic.Int64, len(wires)) // Unix nanoseconds
	sites := make(map[string]bool)
	for i, w := range wires {
		sites[w.site] = true
		c := has(w)
		waiting.Go(func() {
			<-c
			arrived[i].Store(time.Now().UnixNano())
		})
	}
	began := time.Now()
	for site := range sites {
		if err := publish(site); err != nil {
			t.Error(err)
		}
	}
	over := make(chan struct{})
	go func() { waiting.Wait(); close(over) }()
	select {
	case <-over:
	case <-time.After(scalePatience):
		t.Fatal("it has not arrived at all gateways")
	}
	last := began
	for i := range arrived {
		if at := time.Unix(0, arrived[i].Load()); at.After(last) {
			last = at
		}
	}
	return last.Sub(began)
}
