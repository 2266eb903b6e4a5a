package fleet

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

// follower is a gateway's bundles, without the rest of the gateway.
type follower struct {
	*bundles
	*link
	key  bundle.PrivateKey
	live atomic.Pointer[config.Config]
	// fault is what is wrong with whatever is put in force; nil: nothing.
	fault  atomic.Pointer[error]
	reload atomic.Int32 // calls that worked
	failed atomic.Int64 // errors in the log
	stop   func()
}

// follow starts a gateway that follows bundles of site lab.
func follow(t *testing.T) *follower {
	t.Helper()
	key, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	f := &follower{link: &link{engine: newEngine()}, key: key}
	dir := t.TempDir()
	f.use(&config.Fleet{Site: "lab", Gateway: names[0], Folder: dir, Signers: []string{key.Public().String()}})
	c := Config{
		Live: f.live.Load, Store: f.link, Log: slog.New(failures{logger(t, names[0]).Handler(), &f.failed}),
		Reload: func(context.Context) error {
			if fault := f.fault.Load(); fault != nil {
				return *fault
			}
			f.reload.Add(1)
			f.mended()
			return nil
		},
		Use: func(_ context.Context, unpacked string, generation uint64, accept func() error) error {
			if fault := f.fault.Load(); fault != nil {
				return *fault
			}
			if err := accept(); err != nil {
				return err
			}
			now := *f.live.Load().Fleet
			now.Bundle, now.Generation = unpacked, generation
			f.use(&now)
			return nil
		},
	}
	f.bundles = &bundles{
		Config: &c, site: "lab", disk: bundle.Disk{Dir: dir}, changes: newChanges(), joins: newJoins(), again: 50 * time.Millisecond,
		refusals: prometheus.NewCounter(prometheus.CounterOpts{Name: "refusals"}),
		forged:   prometheus.NewCounter(prometheus.CounterOpts{Name: "forged"}),
		watch: func(ctx context.Context, b store.Bucket, changed func(store.Entry)) {
			_ = f.link.Watch(ctx, b, "lab", changed)
		},
	}
	f.start()
	t.Cleanup(func() { f.stop() })
	return f
}

// start follows bundles until stop.
func (f *follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		f.run(ctx)
	}()
	f.stop = func() {
		cancel()
		<-over
	}
}

func (f *follower) use(to *config.Fleet) { f.live.Store(&config.Config{Fleet: to}) }

// breaks makes all that is put in force fail.
func (f *follower) breaks(err error) { f.fault.Store(&err) }

// mended is a reload after the gateway's own file was mended.
func (f *follower) mended() {
	f.fault.Store(nil)
	f.use(f.live.Load().Fleet)
}

// publish publishes a bundle whose next one keys may sign.
func (f *follower) publish(t *testing.T, generation uint64, signer bundle.PrivateKey, next ...bundle.PrivateKey) {
	t.Helper()
	id, err := bundle.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	m := bundle.Manifest{Site: "lab", Generation: generation, Gateways: []bundle.Gateway{{Name: names[0], Recipient: id.Recipient()}}}
	for _, key := range next {
		m.Signers = append(m.Signers, key.Public())
	}
	signed, err := bundle.Sign(m, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.link.Put(t.Context(), store.Truth, "lab", signed, store.Any); err != nil {
		t.Fatal(err)
	}
}

// change publishes the removal of a peer.
func (f *follower) change(t *testing.T, peer string, generation uint64, signer bundle.PrivateKey) {
	t.Helper()
	signed, err := bundle.SignChange(bundle.Change{Site: "lab", Generation: generation, Number: 1, Peer: peer, Removed: true}, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.link.Put(t.Context(), store.Peers, PeerKey("lab", peer), signed, store.Any); err != nil {
		t.Fatal(err)
	}
}

func (f *follower) serves(generation uint64) func() bool {
	return func() bool { return f.inForce(generation) && f.last().err == nil }
}

// has reports whether the changes of peers are on disk, and no others.
func (f *follower) has(peers ...string) func() bool {
	return func() bool {
		now := f.Live().Fleet
		got := Changed(now.ChangesOf(now.Generation))
		for _, peer := range peers {
			if got[peer] == nil {
				return false
			}
		}
		return len(got) == len(peers)
	}
}

// TestAFaultOfTheGatewayItselfIsNotForGood publishes while the gateway's own file has a fault, and mends that.
func TestAFaultOfTheGatewayItselfIsNotForGood(t *testing.T) {
	f := follow(t)
	f.publish(t, 1, f.key, f.key)
	eventually(t, "the first bundle is in force", f.serves(1))
	f.breaks(errors.New("gateway.yaml:3: unknown key"))
	f.change(t, "eve", 1, f.key)
	eventually(t, "the change was tried", func() bool { return f.changes.refused() == 1 })
	if !f.has()() {
		t.Error("a change that is not in force is on disk")
	}
	f.mended()
	eventually(t, "the change is in force", f.has("eve"))

	f.breaks(errors.New("gateway.yaml:3: unknown key"))
	f.publish(t, 2, f.key, f.key)
	eventually(t, "the bundle is refused", func() bool { return f.last().generation == 2 })
	f.mended()
	eventually(t, "the bundle is in force", f.serves(2))
}

// TestAChangeMayBeFasterThanItsBundle publishes a change that only the signers of the next bundle may sign, and then that bundle.
func TestAChangeMayBeFasterThanItsBundle(t *testing.T) {
	f := follow(t)
	second, err := bundle.NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	f.publish(t, 1, f.key, f.key)
	eventually(t, "the first bundle is in force", f.serves(1))
	f.change(t, "eve", 2, second)
	eventually(t, "the change is refused", func() bool { return f.changes.refused() == 1 })
	f.publish(t, 2, f.key, second)
	eventually(t, "the second bundle is in force", f.serves(2))
	eventually(t, "the change is in force", f.has("eve"))
}

// TestAChangeInForceIsNotLookedAtAgain publishes one change after the other, and then the next bundle.
func TestAChangeInForceIsNotLookedAtAgain(t *testing.T) {
	f := follow(t)
	f.publish(t, 1, f.key, f.key)
	eventually(t, "the first bundle is in force", f.serves(1))
	names := []string{"ana", "ben", "eve"}
	for i, name := range names {
		f.change(t, name, 1, f.key)
		eventually(t, "the change is in force", f.has(names[:i+1]...))
		eventually(t, "nothing is left to do", func() bool { return len(f.changes.open(f.Live())) == 0 })
	}
	f.change(t, "dora", 7, f.key)
	eventually(t, "one of another bundle is looked at once", func() bool { return len(f.changes.open(f.Live())) == 0 })
	if !f.has(names...)() {
		t.Errorf("the changes on disk are others than %v", names)
	}
	next := *f.Live()
	fleet := *next.Fleet
	fleet.Generation = 2
	next.Fleet = &fleet
	if got := len(f.changes.open(&next)); got != len(names)+1 {
		t.Errorf("after the next bundle: %d changes are looked at, want all %d", got, len(names)+1)
	}
}

// TestAFullDiskIsNotForGood makes the disk fail while changes are written, and while a bundle is accepted.
func TestAFullDiskIsNotForGood(t *testing.T) {
	f := follow(t)
	f.publish(t, 1, f.key, f.key)
	eventually(t, "the first bundle is in force", f.serves(1))
	now := f.Live().Fleet
	dir := now.ChangesOf(now.Generation)
	if err := os.MkdirAll(filepath.Join(changePath(dir, "bob"), "full"), 0o700); err != nil { // where a file has to be
		t.Fatal(err)
	}
	f.change(t, "ana", 1, f.key)
	eventually(t, "one change is in force", f.has("ana"))
	f.change(t, "bob", 1, f.key)
	f.change(t, "eve", 1, f.key)
	eventually(t, "the other that can be written is in force", f.has("ana", "eve"))
	before := f.reload.Load()
	if err := os.RemoveAll(changePath(dir, "bob")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last is in force as well", f.has("ana", "bob", "eve"))
	eventually(t, "it was read", func() bool { return f.reload.Load() > before })
}

// failures counts the lines of a log that are errors.
type failures struct {
	slog.Handler
	n *atomic.Int64
}

func (f failures) Handle(ctx context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		f.n.Add(1)
	}
	return f.Handler.Handle(ctx, r)
}

// TestAChangeIsTriedAgainWhenTheDiskCanBeReadAgain tells of a change while the bundle in force cannot be read.
func TestAChangeIsTriedAgainWhenTheDiskCanBeReadAgain(t *testing.T) {
	f := follow(t)
	f.publish(t, 1, f.key, f.key)
	eventually(t, "the first bundle is in force", f.serves(1))
	own := filepath.Join(f.disk.Dir, "1")
	if err := os.Rename(own, own+".away"); err != nil {
		t.Fatal(err)
	}
	f.change(t, "eve", 1, f.key)
	eventually(t, "the change was tried", func() bool { return f.failed.Load() > 0 })
	if err := os.Rename(own+".away", own); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the change is in force", f.has("eve"))
}

// TestADamagedBundleIsTold damages the newest of two bundles while penstock does not run, and then publishes it again.
func TestADamagedBundleIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		f.publish(t, 1, f.key, f.key)
		eventually(t, "the first bundle is in force", f.serves(1))
		first, err := f.link.Get(t.Context(), store.Truth, "lab")
		if err != nil {
			t.Fatal(err)
		}
		f.publish(t, 2, f.key, f.key)
		eventually(t, "the second bundle is in force", f.serves(2))
		second, err := f.link.Get(t.Context(), store.Truth, "lab")
		if err != nil {
			t.Fatal(err)
		}
		f.stop()
		if err := os.Remove(filepath.Join(f.disk.Dir, "2", "opened.json")); err != nil {
			t.Fatal(err)
		}
		older := *f.Live().Fleet
		older.Generation = 1
		f.use(&older) // as a start reads it
		put := func(e store.Entry) {
			if _, err := f.link.Put(t.Context(), store.Truth, "lab", e.Value, store.Any); err != nil {
				t.Fatal(err)
			}
		}
		put(first) // the store was filled by somebody who had no newer one
		f.start()
		eventually(t, "the damage is told", func() bool { last := f.last(); return last.err != nil && last.generation == 2 })
		during(t, 20*f.again, "and stays", func() bool { return f.last().err != nil && f.inForce(1) })
		put(second)
		eventually(t, "the second bundle is in force", f.serves(2))
	})
}

// TestABundleIsTriedAgainThatFailedAfterItsTests lets a bundle fail once it is accepted.
func TestABundleIsTriedAgainThatFailedAfterItsTests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := follow(t)
		f.publish(t, 1, f.key, f.key)
		eventually(t, "the first bundle is in force", f.serves(1))
		work, failures := f.Use, new(atomic.Int32)
		f.changing.Lock()
		f.Use = func(ctx context.Context, dir string, generation uint64, accept func() error) error {
			if failures.Add(1) > 1 {
				return work(ctx, dir, generation, accept)
			}
			return errors.Join(accept(), syscall.ENOSPC)
		}
		f.changing.Unlock()
		f.publish(t, 2, f.key, f.key)
		eventually(t, "the failure is told", func() bool { return f.last().generation == 2 || f.inForce(2) })
		eventually(t, "the second bundle is in force", f.serves(2))
	})
}

// refused returns how many changes were refused.
func (c *changes) refused() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.wrong)
}
