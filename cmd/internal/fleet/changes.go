package fleet

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/private"
)

// changePause is how long changes of peers are collected, so that many at once are one reload.
const changePause = 50 * time.Millisecond

// changes are the changes of peers that the store has told of. It is safe for concurrent use.
type changes struct {
	wake chan struct{} // capacity 1

	mu      sync.Mutex               // guards below
	by      map[string]bundle.Signed // by key in the store
	wrong   map[string]wrong         // those that were refused, by the same
	settled map[string]settled       // those in force, and those that are none of the bundle in force, by the same
}

// settled is a change that need not be looked at again as long as a bundle is in force.
type settled struct {
	signed     bundle.Signed
	generation uint64
}

// wrong is a change that was refused.
type wrong struct {
	signed bundle.Signed
	// under is the configuration in force then. Under another one the change is tried again: it may be signed by whom only the next
	// bundle names, or the fault was in this gateway's own file. nil: it is tried again in any case.
	under *config.Config
}

func newChanges() *changes {
	return &changes{wake: make(chan struct{}, 1), by: make(map[string]bundle.Signed), wrong: make(map[string]wrong), settled: make(map[string]settled)}
}

// told takes an entry of store.Peers. One that is gone says nothing: what is in force stays.
func (c *changes) told(e store.Entry) {
	_, name, _ := strings.Cut(e.Key, ".")
	if _, err := hex.DecodeString(name); err != nil || len(e.Value) == 0 {
		return
	}
	c.mu.Lock()
	c.by[e.Key] = slices.Clone(bundle.Signed(e.Value))
	c.mu.Unlock()
	tell(c.wake)
}

// open returns the changes that are neither settled nor refused under a configuration, by key.
func (c *changes) open(under *config.Config) map[string]bundle.Signed {
	c.mu.Lock()
	defer c.mu.Unlock()
	open := make(map[string]bundle.Signed)
	for key, s := range c.by {
		done, is := c.settled[key]
		if is && done.generation == under.Fleet.Generation && slices.Equal(done.signed, s) {
			continue
		}
		if w, refused := c.wrong[key]; refused && w.under == under && slices.Equal(w.signed, s) {
			continue
		}
		open[key] = s
	}
	return open
}

// refuse remembers that a change was refused.
func (c *changes) refuse(key string, s bundle.Signed, under *config.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wrong[key] = wrong{s, under}
}

// known reports whether a change was refused before.
func (c *changes) known(key string, s bundle.Signed) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, refused := c.wrong[key]
	return refused && slices.Equal(w.signed, s)
}

// settle notes that nothing is left to do about a change while the bundle of a generation is in force.
func (c *changes) settle(key string, s bundle.Signed, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.wrong, key)
	c.settled[key] = settled{s, generation}
}

// wait reports whether a change that was refused is to be tried again under a configuration.
func (c *changes) wait(under *config.Config) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range c.wrong {
		if w.under != under {
			return true
		}
	}
	return false
}

// PeerKey returns the key of a peer's change in store.Peers.
func PeerKey(site, peer string) string { return site + "." + hex.EncodeToString([]byte(peer)) }

// changePath is where the change of a peer is kept.
func changePath(dir, peer string) string {
	return filepath.Join(dir, hex.EncodeToString([]byte(peer))+config.ChangeSuffix)
}

// lastChange returns the change of a peer in a folder. ok is false if there is none that can be read.
func lastChange(dir, peer string) (s bundle.Signed, ok bool) {
	text, err := private.Read(changePath(dir, peer), config.MaxFile)
	return text, err == nil
}

// Changed returns the changes of peers in a folder, by peer. A file that cannot be read is left out.
func Changed(dir string) map[string]bundle.Signed {
	all := make(map[string]bundle.Signed)
	entries, _ := os.ReadDir(dir) // without a folder there are none
	for _, e := range entries {
		if text, err := private.Read(filepath.Join(dir, e.Name()), config.MaxFile); err == nil && filepath.Ext(e.Name()) == config.ChangeSuffix {
			if c, err := bundle.Signed(text).Change(); err == nil {
				all[c.Peer] = text
			}
		}
	}
	return all
}

// followChanges puts changes of peers in force until ctx ends.
func (b *bundles) followChanges(ctx context.Context) {
	again := time.NewTicker(b.again)
	defer again.Stop()
	said := "" // the last error; "": the last attempt has worked
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.changes.wake:
		case <-again.C:
			if said == "" && !b.changes.wait(b.Live()) && !b.joins.wait(b.Live()) {
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(changePause):
		}
		err := errors.Join(b.change(ctx), b.join(ctx))
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			said = ""
		} else if err.Error() != said {
			said = err.Error()
			b.Log.Error("changes of peers are not in force", "err", err)
		}
	}
}

// news is a change of a peer that is newer than what is in force.
type news struct {
	key    string
	signed bundle.Signed
	*bundle.Change
}

// change puts in force what the store has told of peers. If that fails as a whole, each change is tried alone.
func (b *bundles) change(ctx context.Context) error {
	b.changing.Lock()
	defer b.changing.Unlock()
	dir := b.Live().Fleet.ChangesOf(b.Live().Fleet.Generation)
	list, err := b.news(dir)
	if err != nil || len(list) == 0 {
		return err
	}
	b.forgetChanges(dir)
	if len(list) > 1 && b.try(ctx, dir, list) == nil {
		b.Log.Info("peers have changed", "changes", len(list))
		return nil
	}
	var errs []error
	for _, one := range list {
		if err := b.try(ctx, dir, []news{one}); err != nil {
			under := b.Live()
			if _, lasts := errors.AsType[lasting](err); !lasts {
				under = nil
			}
			b.changes.refuse(one.key, one.signed, under)
			errs = append(errs, fmt.Errorf("peer %s: %w", one.Peer, err))
			continue
		}
		b.Log.Info("a peer has changed", "peer", one.Peer, "removed", one.Removed)
	}
	return errors.Join(errs...)
}

// news returns the changes that are good, follow the bundle in force, and are newer than those in the folder.
func (b *bundles) news(dir string) ([]news, error) {
	told := b.changes.open(b.Live())
	if len(told) == 0 {
		return nil, nil
	}
	current, err := b.manifest()
	if err != nil {
		return nil, err
	}
	var list []news
	for key, signed := range told {
		c, err := bundle.VerifyChange(signed, current.Signers)
		switch {
		case err != nil:
			if !b.changes.known(key, signed) {
				b.Log.Error("a change of a peer is refused", "err", err)
			}
			b.changes.refuse(key, signed, b.Live())
			continue
		case c.Site != b.site || key != PeerKey(b.site, c.Peer) || c.Generation != current.Generation:
			b.changes.settle(key, signed, current.Generation)
			continue // of a bundle before, which has it or not, or of one that is on its way
		}
		if last, ok := lastChange(dir, c.Peer); ok {
			if old, err := last.Change(); err == nil && old.Number >= c.Number {
				b.changes.settle(key, signed, current.Generation)
				continue
			}
		}
		list = append(list, news{key, signed, c})
	}
	slices.SortFunc(list, func(a, b news) int { return cmpRemoved(a, b) })
	return list, nil
}

// manifest returns that of the bundle in force. The caller holds changing.
func (b *bundles) manifest() (*bundle.Manifest, error) {
	if b.newest != nil && b.newest.Generation == b.Live().Fleet.Generation {
		return b.newest, nil // a look at the disk reads all files of the bundle, and there may be many changes
	}
	current, err := b.disk.Current()
	if err != nil {
		return nil, err
	}
	b.newest = current.Manifest
	return b.newest, nil
}

// cmpRemoved puts removed peers first, so that their addresses are free.
func cmpRemoved(a, b news) int {
	switch {
	case a.Removed == b.Removed:
		return 0
	case a.Removed:
		return -1
	}
	return 1
}

// try writes changes and reloads. If that fails, it takes them back. The error is lasting if the changes are at fault.
func (b *bundles) try(ctx context.Context, dir string, list []news) error {
	before, live := make(map[string]bundle.Signed), b.Live()
	err := os.MkdirAll(dir, 0o700)
	for _, one := range list {
		if last, ok := lastChange(dir, one.Peer); ok {
			before[one.Peer] = last
		}
		if err == nil {
			err = private.Replace(changePath(dir, one.Peer), string(one.signed))
		}
	}
	if err == nil {
		err = b.Reload(ctx)
		switch {
		case err != nil && b.Live() != live:
			b.Log.Error("changes of peers are in force, but not all that belongs to them", "err", err)
			err = nil
		case err != nil:
			err = lasting{err}
		}
	}
	if err == nil {
		for _, one := range list {
			b.changes.settle(one.key, one.signed, one.Generation)
		}
		return nil
	}
	for _, one := range list {
		path := changePath(dir, one.Peer)
		if last, ok := before[one.Peer]; ok {
			err = errors.Join(err, private.Replace(path, string(last)))
		} else if failed := os.Remove(path); !errors.Is(failed, fs.ErrNotExist) {
			err = errors.Join(err, failed)
		}
	}
	return err
}

// forgetChanges removes the changes that follow other bundles.
func (b *bundles) forgetChanges(keep string) {
	entries, _ := os.ReadDir(filepath.Dir(keep)) // without a folder there are none
	for _, e := range entries {
		if _, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && e.Name() != filepath.Base(keep) {
			_ = os.RemoveAll(filepath.Join(filepath.Dir(keep), e.Name())) // they are tried again
		}
	}
}
