package fleet

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
)

const (
	fetchLimit = 10 * time.Minute // for all files of a bundle
	fetchPause = 5 * time.Second  // after a bundle that could not be fetched
	againEvery = 15 * time.Second // what was refused is tried again, if the configuration has changed since
)

// errNotListed is for a bundle that does not name this gateway.
var errNotListed = errors.New("the bundle does not name this gateway")

// truth is the newest signed manifest that the store has told of. It is safe for concurrent use.
type truth struct {
	mu     sync.Mutex // guards signed
	signed bundle.Signed
	wake   chan struct{} // capacity 1
}

func newTruth() *truth { return &truth{wake: make(chan struct{}, 1)} }

// told takes an entry of store.Truth. One that is gone means that nothing is known.
func (t *truth) told(site string, e store.Entry) {
	if e.Key != site || len(e.Value) == 0 {
		return
	}
	t.mu.Lock()
	t.signed = slices.Clone(bundle.Signed(e.Value))
	t.mu.Unlock()
	tell(t.wake)
}

func (t *truth) newest() bundle.Signed {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.signed
}

// bundles puts bundles and changes of peers in force.
type bundles struct {
	*Config
	site    string
	disk    bundle.Disk
	changes *changes
	joins   *joins
	// watch watches a bucket until ctx ends.
	watch    func(ctx context.Context, bucket store.Bucket, changed func(store.Entry))
	refusals prometheus.Counter
	forged   prometheus.Counter // joins that were refused
	again    time.Duration      // see againEvery

	changing sync.Mutex       // held while a bundle or a change of peers is put in force; guards newest
	newest   *bundle.Manifest // as it was last read; nil: not yet

	mu      sync.Mutex // guards refused
	refused refusal
}

// refusal is a bundle that was not put in force.
type refusal struct {
	generation uint64
	digest     store.Digest
	err        error
	lasting    bool           // the same bundle would be refused again
	under      *config.Config // in force then: what was wrong may have been in this gateway's own file
}

// last returns the last refusal; its err is nil if the newest bundle is in force.
func (b *bundles) last() refusal {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refused
}

// run follows the store until ctx ends.
func (b *bundles) run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { b.watch(ctx, store.Peers, b.changes.told) })
	wg.Go(func() { b.watch(ctx, store.Joins, b.told) })
	wg.Go(func() { b.followChanges(ctx) })
	b.follow(ctx)
	wg.Wait()
}

// follow puts bundles in force until ctx ends.
func (b *bundles) follow(ctx context.Context) {
	t := newTruth()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { b.watch(ctx, store.Truth, func(e store.Entry) { t.told(b.site, e) }) })
	b.look()
	retry, again := time.NewTimer(0), time.NewTicker(b.again)
	defer retry.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.wake:
		case <-retry.C:
		case <-again.C:
			if last := b.last(); !last.lasting || last.under == b.Live() {
				continue
			}
		}
		signed := t.newest()
		if len(signed) == 0 {
			continue
		}
		if err := b.adopt(ctx, signed); err != nil && ctx.Err() == nil && !b.refuse(signed, err) {
			retry.Reset(fetchPause)
		}
	}
}

// look tells of newer bundles that were accepted and are damaged: an older one is in force, with peers that may have been removed since.
func (b *bundles) look() {
	current, err := b.disk.Current()
	if err != nil || current.Damaged == nil {
		return
	}
	b.mu.Lock()
	b.refused = refusal{generation: current.Newer, err: current.Damaged}
	b.mu.Unlock()
	b.Log.Error("an older bundle is in force, because a newer one is damaged on disk; it is repaired from the store",
		"generation", current.Manifest.Generation, "damaged", current.Newer, "err", current.Damaged)
}

// lasting is an error that the same bundle would have again.
type lasting struct{ error }

func (l lasting) Unwrap() error { return l.error }

// refuse remembers that a bundle was not put in force, and tells it once. It reports whether that is for good.
func (b *bundles) refuse(signed bundle.Signed, err error) bool {
	r := refusal{digest: sha256.Sum256(signed), err: err, under: b.Live()}
	_, r.lasting = errors.AsType[lasting](err)
	if m, unreadable := signed.Manifest(); unreadable == nil {
		r.generation = m.Generation
	}
	b.mu.Lock()
	known := b.refused.digest == r.digest && b.refused.lasting == r.lasting && (!r.lasting || b.refused.err.Error() == err.Error())
	b.refused = r
	b.mu.Unlock()
	if !known {
		b.refusals.Inc()
		b.Log.Error("a bundle is not put in force; the one before stays", "generation", r.generation, "for_good", r.lasting, "err", err)
	}
	return r.lasting
}

// adopt puts a bundle in force, unless it is already.
func (b *bundles) adopt(ctx context.Context, signed bundle.Signed) error {
	current, err := b.disk.Current()
	if err != nil && !errors.Is(err, store.ErrNone) {
		return err
	}
	if current != nil && slices.Equal(current.Signed, signed) && b.inForce(current.Manifest.Generation) {
		if current.Damaged != nil { // the store has lost it as well
			return nil
		}
		b.adopted()
		return nil
	}
	if last := b.last(); last.lasting && last.digest == sha256.Sum256(signed) && last.under == b.Live() {
		return nil
	}
	began := time.Now()
	m, dir, err := fetch(ctx, b.Live(), b.Store, current, signed)
	if err != nil {
		return err
	}
	b.changing.Lock()
	defer b.changing.Unlock()
	tested := false
	err = b.Use(ctx, dir, m.Generation, func() error {
		tested = true
		return b.disk.Accept(ctx, m.Generation)
	})
	switch {
	case err != nil && tested && b.inForce(m.Generation):
		b.Log.Error("a bundle is in force, but not all that belongs to it", "generation", m.Generation, "err", err)
	case err != nil && tested:
		return err // this machine is at fault and not the bundle
	case err != nil:
		return lasting{errors.Join(err, b.disk.Discard(ctx, m.Generation))}
	}
	b.adopted()
	tell(b.changes.wake)
	b.Log.Info("a bundle is in force", "generation", m.Generation, "files", len(m.Files), "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// inForce reports whether the bundle of a generation is in force.
func (b *bundles) inForce(generation uint64) bool { return b.Live().Fleet.Generation == generation }

// adopted notes that the newest bundle is in force.
func (b *bundles) adopted() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused = refusal{}
}

// fetch checks a signed manifest against the bundle in force, which may be nil, and unpacks the bundle. What does not depend on the
// store is wrong for good.
func fetch(ctx context.Context, cfg *config.Config, s store.Store, current *bundle.Accepted, signed bundle.Signed) (m *bundle.Manifest, dir string, err error) {
	var before *bundle.Manifest
	var trusted []bundle.PublicKey
	if current != nil {
		before, trusted = current.Manifest, current.Manifest.Signers
	} else {
		for _, text := range cfg.Fleet.Signers {
			key, err := bundle.ParsePublicKey(text)
			if err != nil {
				return nil, "", lasting{err}
			}
			trusted = append(trusted, key)
		}
	}
	if m, err = signed.Verify(trusted); err != nil {
		return nil, "", lasting{err}
	}
	if err := m.Follows(before, cfg.Fleet.Site); err != nil {
		return nil, "", lasting{err}
	}
	if !slices.ContainsFunc(m.Gateways, func(g bundle.Gateway) bool { return g.Name == cfg.Fleet.Gateway }) {
		return nil, "", lasting{fmt.Errorf("%w: %s", errNotListed, cfg.Fleet.Gateway)}
	}
	id, err := identity(cfg.Fleet)
	if err != nil {
		return nil, "", err
	}
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	dir, err = bundle.Disk{Dir: cfg.Fleet.Folder}.Unpack(ctx, signed, m, id, func(ctx context.Context, f bundle.File, w io.Writer) error {
		return s.FetchBlob(ctx, f.Digest, w)
	})
	if err != nil {
		return nil, "", fmt.Errorf("unpack generation %d: %w", m.Generation, err)
	}
	return m, dir, nil
}

// identity reads the key of this gateway; nil without fleet.key.
func identity(f *config.Fleet) (*bundle.Identity, error) {
	if f.Key.IsZero() {
		return nil, nil
	}
	text, err := f.Key.Read()
	if err != nil {
		return nil, fmt.Errorf("fleet.key: %w", err)
	}
	id, err := bundle.ParseIdentity(text)
	if err != nil {
		return nil, fmt.Errorf("fleet.key: %w", err)
	}
	return id, nil
}

// First fetches the first bundle for the gateway whose configuration is in the file at path, and accepts it if check does. It waits
// until there is one, or ctx ends, and tells the log what it waits for.
func First(ctx context.Context, path string, check func(context.Context, *config.Config) error, log *slog.Logger) error {
	cfg, err := config.LoadFleet(path)
	if err != nil {
		return err
	}
	s, closing, err := OpenStore(ctx, cfg.Fleet.Store, log)
	if err != nil {
		return cfg.Err("fleet.store", "", err.Error())
	}
	defer closing()
	if err := os.MkdirAll(cfg.Fleet.Folder, 0o700); err != nil {
		return err
	}
	log.Info("waiting for the first bundle of the site", "site", cfg.Fleet.Site)
	t := newTruth()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		for said := ""; ctx.Err() == nil; {
			err := s.Watch(ctx, store.Truth, cfg.Fleet.Site, func(e store.Entry) {
				if e.Key == "" && len(t.newest()) == 0 {
					log.Info("the store has no bundle of the site yet: publish one", "site", cfg.Fleet.Site)
				}
				t.told(cfg.Fleet.Site, e)
			})
			if ctx.Err() == nil && err.Error() != said {
				said = err.Error()
				log.Warn("the store of the fleet cannot be watched", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(fetchPause):
			}
		}
	})
	disk := bundle.Disk{Dir: cfg.Fleet.Folder}
	said := ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.wake:
		}
		m, dir, err := fetch(ctx, cfg, s, nil, t.newest())
		if err == nil {
			if err = accept(ctx, path, dir, m.Generation, check, disk); err == nil {
				return nil
			}
			err = lasting{errors.Join(err, disk.Discard(ctx, m.Generation))}
		}
		if err.Error() != said {
			said = err.Error()
			log.Error("the first bundle of the site cannot be put in force", "err", err)
		}
		if _, lasts := errors.AsType[lasting](err); !lasts {
			time.AfterFunc(fetchPause, func() { tell(t.wake) })
		}
	}
}

// accept accepts an unpacked bundle if it works with the gateway's own file.
func accept(ctx context.Context, path, dir string, generation uint64, check func(context.Context, *config.Config) error, disk bundle.Disk) error {
	cfg, err := config.LoadWithBundle(path, dir, generation)
	if err == nil {
		err = check(ctx, cfg)
	}
	if err != nil {
		return err
	}
	return disk.Accept(ctx, generation)
}
