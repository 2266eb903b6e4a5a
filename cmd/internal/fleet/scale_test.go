package fleet

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	nats "penstock/cmd/internal/fleet/engine"
	"penstock/cmd/internal/fleet/jetstream"
	"penstock/cmd/internal/fleet/store"
	"penstock/router/transport/wireguard"
)

// soaking reports whether the figures of a large fleet are wanted. Without that the same tests run with a small one.
func soaking() bool { return os.Getenv("PENSTOCK_SOAK") == "1" }

// scalePatience is far longer than anything here should take.
const scalePatience = 5 * time.Minute

// arrival is when something arrived at a gateway.
type arrival struct {
	gateway int
	at      time.Time
}

// member is a gateway of a large fleet: a node with a connection of its own to the servers, and a port that a test gives it.
type member struct {
	node  *Node
	store *counted
	live  atomic.Pointer[config.Config]
	stop  func() // and wait; it can be called twice
}

// counted counts what goes through a store.
type counted struct {
	*jetstream.Store
	*counts
}

// counts are of what goes through the stores of all members.
type counts struct {
	sessions, blocks atomic.Int64 // written
	told, bytes      atomic.Int64 // values told to watchers
	failed           atomic.Int64 // writes
	fault            atomic.Value // the text of the last error
}

func (c *counted) Put(ctx context.Context, b store.Bucket, key string, value []byte, after uint64) (uint64, error) {
	version, err := c.Store.Put(ctx, b, key, value, after)
	switch {
	case err != nil:
		c.failed.Add(1)
		c.fault.Store(err.Error())
	case b == store.Sessions:
		c.sessions.Add(int64(len(value) / blockEntry))
		c.blocks.Add(1)
	}
	return version, err
}

func (c *counted) Watch(ctx context.Context, b store.Bucket, prefix string, changed func(store.Entry)) error {
	return c.Store.Watch(ctx, b, prefix, func(e store.Entry) {
		c.told.Add(1)
		c.bytes.Add(int64(len(e.Key) + len(e.Value)))
		changed(e)
	})
}

// fleetOf is what the members of a large fleet have in common.
type fleetOf struct {
	counts
	servers            *nats.Engine
	signers            []string
	reloaded, accepted func(gateway int)
}

func newFleetOf(t *testing.T, o nats.Options) *fleetOf {
	t.Helper()
	e, err := nats.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &fleetOf{servers: e, reloaded: func(int) {}, accepted: func(int) {}}
}

// connect opens a connection to the servers.
func (f *fleetOf) connect(t *testing.T) *jetstream.Store {
	t.Helper()
	s, err := jetstream.Open(context.WithoutCancel(t.Context()), jetstream.Config{NATS: config.NATS{Servers: f.servers.URLs(), Replicas: 1}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// start starts the gateway with a number in a site of some.
func (f *fleetOf) start(t *testing.T, site string, number, of int, g Gateway, folder string) *member {
	t.Helper()
	cfg := &config.Config{
		Fleet: &config.Fleet{Site: site, Gateway: gatewayName(number), Folder: folder, Signers: f.signers, DrainLimit: time.Minute},
		Site:  &config.Site{Name: site},
	}
	for i := range of {
		cfg.Site.Gateways = append(cfg.Site.Gateways, config.SiteGateway{Name: gatewayName(i)})
	}
	m := &member{store: &counted{f.connect(t), &f.counts}}
	m.live.Store(cfg)
	var err error
	m.node, err = New(t.Context(), Config{
		Live: m.live.Load, Store: m.store, Gateway: g, Grace: time.Second, Registry: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		Reload: func(context.Context) error {
			f.reloaded(number)
			return nil
		},
		Use: func(_ context.Context, dir string, generation uint64, accept func() error) error {
			if err := accept(); err != nil {
				return err
			}
			next := *m.live.Load()
			fleet := *next.Fleet
			fleet.Bundle, fleet.Generation = dir, generation
			next.Fleet = &fleet
			m.live.Store(&next)
			f.accepted(number)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = m.node.Run(ctx) })
	m.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		m.store.Close()
		m.node, m.store = nil, nil // what they had is free, although the test keeps m
	})
	t.Cleanup(m.stop)
	return m
}

// within waits until something is true.
func within(t *testing.T, patience time.Duration, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("after %v: not so: %s", patience, what)
		}
	}
}

// all waits until something has arrived at all of some gateways, and returns how long after began the last one had it.
func all(t *testing.T, arrivals <-chan arrival, gateways int, began time.Time) time.Duration {
	t.Helper()
	limit := time.After(scalePatience)
	last, have := time.Duration(0), make(map[int]bool)
	for len(have) < gateways {
		select {
		case a := <-arrivals:
			if !have[a.gateway] && a.at.After(began) {
				have[a.gateway] = true
				last = max(last, a.at.Sub(began))
			}
		case <-limit:
			t.Fatalf("it has arrived at %d of %d gateways", len(have), gateways)
		}
	}
	return last
}

// TestABundleAndChangesReachAllGateways measures how long a bundle with lists and peers, and then changes of single peers, take to all
// gateways of a site: 100 with PENSTOCK_SOAK=1. All share the disk and the processors of one machine with the server.
func TestABundleAndChangesReachAllGateways(t *testing.T) {
	gateways, lists, perList, files, perFile, changes := 5, 1, 100, 5, 10, 3
	if soaking() {
		gateways, lists, perList, files, perFile, changes = 100, 4, 12_000, 100, 100, 20
	}
	key, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	m := bundle.Manifest{Site: "lab", Generation: 1, Signers: []bundle.PublicKey{key.Public()}}
	for i := range gateways {
		id, err := bundle.NewIdentity()
		if err != nil {
			t.Fatal(err)
		}
		m.Gateways = append(m.Gateways, bundle.Gateway{Name: gatewayName(i), Recipient: id.Recipient()})
	}
	f := newFleetOf(t, nats.Options{SyncAlways: true})
	f.signers = []string{key.Public().String()}
	accepted, reloaded := make(chan arrival, 100*gateways), make(chan arrival, 100*gateways)
	f.accepted = func(gateway int) { accepted <- arrival{gateway, time.Now()} }
	f.reloaded = func(gateway int) { reloaded <- arrival{gateway, time.Now()} }
	var members []*member
	for i := range gateways {
		members = append(members, f.start(t, "lab", i, gateways, still(nil), filepath.Join(t.TempDir(), gatewayName(i))))
	}
	within(t, scalePatience, "all are connected", func() bool {
		return !slices.ContainsFunc(members, func(m *member) bool { return !m.node.Connected() })
	})

	operator := f.connect(t)
	dir := writeBundle(t, lists, perList, files, perFile)
	built, err := bundle.Build(dir, m)
	if err != nil {
		t.Fatal(err)
	}
	size, began := int64(0), time.Now()
	for _, file := range built.Manifest.Files {
		var text bytes.Buffer
		if err := built.Fetch(t.Context(), file, &text); err != nil {
			t.Fatal(err)
		}
		size += int64(text.Len())
		if _, err := operator.PublishBlob(t.Context(), &text); err != nil {
			t.Fatal(err)
		}
	}
	signed, err := bundle.Sign(built.Manifest, key)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the operator's side of %d files, %d bytes: %v", len(built.Manifest.Files), size, time.Since(began))
	began = time.Now()
	if _, err := operator.Put(t.Context(), store.Truth, "lab", signed, store.Any); err != nil {
		t.Fatal(err)
	}
	t.Logf("until all %d gateways have accepted it: %v", gateways, all(t, accepted, gateways, began))
	for i, m := range members {
		if current, err := m.node.bundles.disk.Current(); err != nil || current.Manifest.Generation != 1 {
			t.Fatalf("gateway %d has accepted the bundle, and has %v, %v", i, current, err)
		}
	}

	var took []time.Duration
	for i := range changes {
		peer := fmt.Sprintf("added-%d", i)
		change, err := bundle.SignChange(bundle.Change{Site: "lab", Generation: 1, Number: 1, Peer: peer, Entry: entryOf(peer, i)}, key)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := operator.Put(t.Context(), store.Peers, PeerKey("lab", peer), change, store.Any); err != nil {
			t.Fatal(err)
		}
		took = append(took, all(t, reloaded, gateways, began))
		for j, m := range members {
			if have := Changed(m.live.Load().Fleet.ChangesOf(1)); !bytes.Equal(have[peer], change) {
				t.Fatalf("gateway %d has reloaded without the change of %s", j, peer)
			}
		}
	}
	slices.Sort(took)
	t.Logf("a change of a peer until the last of %d gateways reloads, %d changes: min %v, median %v, max %v", gateways, changes,
		took[0], took[changes/2], took[changes-1])
}

// entryOf is a peer as a file has it.
func entryOf(name string, number int) string {
	key := stranger(number)
	return fmt.Sprintf("name: %s\n    public_key: %s\n    address: %s\n", name, base64.StdEncoding.EncodeToString(key[:]), strangerAt(number).Addr())
}

// writeBundle makes a folder with lists of names and files of peers.
func writeBundle(t *testing.T, lists, perList, files, perFile int) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "peers"), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("site.yaml", "version: 1\n")
	for i := range lists {
		var text strings.Builder
		for j := range perList {
			fmt.Fprintf(&text, "host-%d-%d.example.net\n", i, j)
		}
		write(fmt.Sprintf("list-%d.txt", i), text.String())
	}
	for i := range files {
		text := "peers:\n"
		for j := range perFile {
			n := i*perFile + j
			text += "  - " + entryOf(fmt.Sprintf("peer-%d", n), n)
		}
		write(filepath.Join("peers", fmt.Sprintf("%d.yaml", i)), text)
	}
	return dir
}

// crowd is a gateway's port whose peers renew their handshakes one after the other.
type crowd struct {
	still
	every time.Duration // for each peer
	began atomic.Int64  // when they begin to, Unix nanoseconds; 0: not yet

	mu      sync.Mutex // guards below
	list    []wireguard.PeerStatus
	renewed int
	called  map[wireguard.PublicKey]int
}

// newCrowd returns peers from a number on, with new sessions.
func newCrowd(from, peers int, every time.Duration) *crowd {
	c := &crowd{every: every, called: make(map[wireguard.PublicKey]int)}
	for i := from; i < from+peers; i++ {
		c.list = append(c.list, wireguard.PeerStatus{PublicKey: stranger(i), Endpoint: strangerAt(i), LastHandshake: time.Now()})
	}
	return c
}

// Peers returns the peers. Only one goroutine of a node calls it, and none keeps it.
func (c *crowd) Peers() []wireguard.PeerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	if began := c.began.Load(); began != 0 {
		now := time.Now()
		for due := int(now.Sub(time.Unix(0, began)) * time.Duration(len(c.list)) / c.every); c.renewed < due; c.renewed++ {
			c.list[c.renewed%len(c.list)].LastHandshake = now
		}
	}
	return c.list
}

func (c *crowd) Call(_ context.Context, peers []wireguard.PeerStatus) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range peers {
		c.called[p.PublicKey]++
	}
	return nil
}

// calls returns the peers that were called to take them over.
func (c *crowd) calls() map[wireguard.PublicKey]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.called)
}

// memory returns the bytes of the heap and of the stacks that are in use.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// TestALargeFleet runs the nodes of many sites against one server, with peers that renew their handshakes as WireGuard does. It prints
// what a node and the server need and sustain.
func TestALargeFleet(t *testing.T) {
	type row struct {
		sites, gateways, peers int // gateways and peers of a site
		every                  time.Duration
		measured               time.Duration // how long the steady rate is
	}
	rows := []row{{4, 5, 500, 2 * time.Second, 2 * time.Second}}
	if soaking() {
		rows = []row{
			{10, 10, 10_000, 2 * time.Minute, time.Minute},
			{30, 10, 10_000, 2 * time.Minute, 30 * time.Second},
			{100, 10, 10_000, 2 * time.Minute, time.Minute},
		}
	}
	for _, r := range rows {
		t.Run(fmt.Sprintf("%d gateways and %d peers in %d sites", r.sites*r.gateways, r.sites*r.peers, r.sites), func(t *testing.T) {
			f := newFleetOf(t, nats.Options{})
			crowds := make([]*crowd, r.sites*r.gateways)
			share := r.peers / r.gateways
			for i := range crowds {
				crowds[i] = newCrowd(i*share, share, r.every)
			}
			empty := memory()
			began, members := time.Now(), make([]*member, len(crowds))
			start := func(i int) {
				members[i] = f.start(t, fmt.Sprintf("site%d", i/r.gateways), i%r.gateways, r.gateways, crowds[i], t.TempDir())
			}
			for i := range members {
				start(i)
			}
			// knows reports whether a node has all sessions of the other gateways of its site.
			knows := func(m *member) bool {
				known := 0
				for i := range r.gateways {
					if name := gatewayName(i); name != m.node.self {
						known += len(m.node.board.of(name))
					}
				}
				return m.node.Connected() && known == (r.gateways-1)*share
			}
			within(t, scalePatience, "all know all sessions of their sites", func() bool {
				return !slices.ContainsFunc(members, func(m *member) bool { return !knows(m) })
			})
			took := time.Since(began)
			t.Logf("all nodes know all of their sites after %v: %.0f sessions written each second", took, float64(r.sites*r.peers)/took.Seconds())
			full := memory()
			t.Logf("%d goroutines; %d MiB in all", runtime.NumGoroutine(), (full-empty)>>20)

			wrong := func() (calls int) {
				for _, c := range crowds {
					calls += len(c.calls())
				}
				return calls
			}
			wrongBefore, failedBefore := wrong(), f.failed.Load()
			for _, c := range crowds {
				c.began.Store(time.Now().UnixNano())
			}
			written, told, at := f.sessions.Load(), f.told.Load(), time.Now()
			lost := 0
			within(t, scalePatience, "the steady rate is measured", func() bool {
				disconnected := 0
				for _, m := range members {
					if !m.node.Connected() {
						disconnected++
					}
				}
				lost = max(lost, disconnected)
				return time.Since(at) > r.measured
			})
			seconds := time.Since(at).Seconds()
			backlog := 0
			for _, m := range members {
				m.node.sessions.mu.Lock()
				backlog += len(m.node.sessions.waiting)
				m.node.sessions.mu.Unlock()
			}
			wanted := float64(r.sites*r.peers) / r.every.Seconds()
			rate := float64(f.sessions.Load()-written) / seconds
			t.Logf("%.0f sessions written each second, %.0f %% of %.0f; %.0f values told each second; %d wait", rate, 100*rate/wanted, wanted,
				float64(f.told.Load()-told)/seconds, backlog)
			t.Logf("nodes without the store at once: at most %d; writes that failed: %d (%v); peers called that were not left: %d", lost,
				f.failed.Load()-failedBefore, f.fault.Load(), wrong()-wrongBefore)
			if r.every <= r.measured {
				within(t, scalePatience, "every session is written again", func() bool {
					return f.sessions.Load()-written >= int64(r.sites*r.peers)
				})
			}

			var cold []time.Duration
			for site := range min(5, r.sites) {
				i := site * r.gateways
				members[i].stop()
				left := crowds[i].list
				within(t, time.Minute, "the peers of a gateway that has left are called", func() bool {
					called := make(map[wireguard.PublicKey]int)
					for _, c := range crowds[i+1 : i+r.gateways] {
						maps.Copy(called, c.calls())
					}
					return !slices.ContainsFunc(left, func(p wireguard.PeerStatus) bool { return called[p.PublicKey] == 0 })
				})
				began := time.Now()
				start(i)
				within(t, time.Minute, "a gateway that starts knows its site", func() bool { return knows(members[i]) })
				cold = append(cold, time.Since(began))
			}
			t.Logf("a cold start, until a node is connected and knows the %d sessions of its site: %v", (r.gateways-1)*share, cold)

			full = memory()
			var stops sync.WaitGroup
			for _, m := range members {
				stops.Go(m.stop)
			}
			stops.Wait()
			clear(members)
			server := memory()
			if err := f.servers.Close(); err != nil {
				t.Error(err)
			}
			f.servers = nil
			closed := memory()
			t.Logf("a node with both ends of its connection: %d KiB; the server: %d MiB", (full-server)>>10/int64(r.sites*r.gateways), (server-closed)>>20)
		})
	}
}
