package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"penstock/cmd/internal/filelock"
	"penstock/cmd/internal/fleet/store"
)

// What is in the folder of a gateway:
//
//	lock                    held while something is changed
//	blobs/DIGEST            bytes as they are stored, sealed or not, for Unpack and for who seeds a store
//	GENERATION/bundle.json  the Signed
//	GENERATION/opened.json  digests and sizes of secrets after they were opened
//	GENERATION/files/       the files
//	GENERATION/accepted     is there if the bundle was accepted
//	.new-*, .old-*          what is being written and removed, and is worth nothing if nobody holds the lock
//
// A folder of a generation appears whole, by a rename, after all of it is on disk.
const (
	lockName     = "lock"
	blobsName    = "blobs"
	filesName    = "files"
	openedName   = "opened.json"
	acceptedName = "accepted"
	newPrefix    = ".new-"
	oldPrefix    = ".old-"
	maxOpened    = 2 << 20 // bytes of opened.json
)

// Disk is the folder in which a gateway keeps bundles. Several Disks, also of several processes, may have the same folder.
type Disk struct {
	Dir string // made if it is missing; nobody else can read it

	changes changes
}

// Accepted is a bundle that was accepted, on disk.
type Accepted struct {
	Signed   Signed
	Manifest *Manifest
	Dir      string // where its files are, with secrets opened
	// Damaged is nil, or says why newer bundles that were accepted cannot be used. It is an ErrDamaged.
	Damaged error
	Newer   uint64 // the newest of those

	disk Disk
}

// Fetch writes the bytes of a file as they were stored. It is a Fetch. The error is ErrDamaged if they are not what the manifest says,
// or store.ErrNone.
func (a *Accepted) Fetch(ctx context.Context, f File, w io.Writer) error {
	in, err := os.Open(a.disk.blobPath(f))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", f.Name, store.ErrNone)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	return checked(f, w, func(w io.Writer) error { return copyUntil(ctx, w, in) })
}

// Unpack makes a verified bundle a candidate and returns the folder with its files. m is what Verify returned for s, and id opens its
// secrets. What is on disk already is not fetched again. It waits for others who change the folder. After an error there is no new
// candidate, and the next Unpack of the same bundle fetches only what is not complete yet, unless the disk was full. A bundle of an
// accepted generation must be the accepted one; it is repaired if it is damaged.
func (d Disk) Unpack(ctx context.Context, s Signed, m *Manifest, id *Identity, fetch Fetch) (dir string, err error) {
	own, err := s.Manifest()
	if err != nil {
		return "", err
	}
	if !own.same(m) {
		return "", errors.New("unpack a bundle: the manifest is of another bundle")
	}
	unlock, err := d.lock(ctx)
	if err != nil {
		return "", errors.Join(err, context.Cause(ctx))
	}
	defer unlock()
	if err := d.tidy(m); err != nil {
		return "", err
	}
	wasAccepted := false
	if before, err := d.read(m.Generation); err == nil {
		same, intact := before.Manifest.same(m), before.check()
		wasAccepted = same && d.isAccepted(m.Generation)
		switch {
		case intact == nil && same:
			return before.Dir, nil
		case intact == nil && d.isAccepted(m.Generation):
			return "", fmt.Errorf("%w: generation %d was accepted with different contents: sign it again with a larger one", ErrOld, m.Generation)
		}
	}
	if err := d.unpack(ctx, s, m, id, fetch, wasAccepted); err != nil {
		return "", errors.Join(err, d.giveUp(err))
	}
	return d.filesPath(m.Generation), nil
}

// giveUp removes what an Unpack that failed leaves. On a disk that is full nothing is kept for the next one.
func (d Disk) giveUp(failed error) error {
	if errors.Is(failed, syscall.ENOSPC) {
		return d.tidy(nil)
	}
	return d.removeLeft()
}

// unpack writes a candidate beside the generations and then puts it in its place.
func (d Disk) unpack(ctx context.Context, s Signed, m *Manifest, id *Identity, fetch Fetch, wasAccepted bool) error {
	fresh := filepath.Join(d.Dir, newPrefix+name(m.Generation))
	files := filepath.Join(fresh, filesName)
	if err := d.changes.mkdir(files); err != nil {
		return err
	}
	opened := []File{}
	for _, f := range m.Files {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		local, err := filepath.Localize(f.Name)
		if err != nil {
			return fmt.Errorf("%w: this system has no file called %q", ErrDamaged, f.Name)
		}
		to := filepath.Join(files, local)
		if err := d.changes.mkdir(filepath.Dir(to)); err != nil {
			return err
		}
		plain, err := d.place(ctx, f, id, to)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
			if err := d.fetchBlob(ctx, f, fetch); err != nil {
				return err
			}
			plain, err = d.place(ctx, f, id, to)
		}
		if err != nil {
			return err
		}
		if f.Sealed {
			opened = append(opened, plain)
		}
	}
	if err := d.changes.writeJSON(filepath.Join(fresh, openedName), opened); err != nil {
		return err
	}
	if err := d.changes.write(filepath.Join(fresh, signedName), func(w io.Writer) error { _, err := w.Write(s); return err }); err != nil {
		return err
	}
	if wasAccepted {
		if err := d.changes.write(filepath.Join(fresh, acceptedName), nil); err != nil {
			return err
		}
	}
	if err := d.syncAll(fresh, filepath.Join(d.Dir, blobsName)); err != nil {
		return err
	}
	return d.replace(m.Generation, fresh)
}

// replace puts a complete folder in the place of a generation.
func (d Disk) replace(generation uint64, fresh string) error {
	if err := d.setAside(generation); err != nil {
		return err
	}
	if err := d.changes.rename(fresh, d.path(generation)); err != nil {
		return err
	}
	if err := d.syncAll(d.Dir); err != nil {
		return err
	}
	return d.removeLeft()
}

// setAside takes a generation away, whole or not at all. removeLeft removes it.
func (d Disk) setAside(generation uint64) error {
	old := filepath.Join(d.Dir, oldPrefix+name(generation))
	if err := d.changes.removeAll(old); err != nil {
		return err
	}
	if err := d.changes.rename(d.path(generation), old); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Accept makes a candidate the bundle in force, at once and for good, also if the machine fails after it. The newest intact one before
// it is kept. Older ones and bytes that no bundle needs are removed, now or by a later call. The error is ErrOld if a newer one was
// accepted, or store.ErrNone if there is no such candidate.
func (d Disk) Accept(ctx context.Context, generation uint64) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := d.read(generation); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("accept generation %d: it was not unpacked: %w", generation, store.ErrNone)
	} else if err != nil {
		return fmt.Errorf("accept generation %d: %w", generation, err)
	}
	accepted, err := d.accepted()
	if err != nil {
		return err
	}
	if len(accepted) > 0 && accepted[0] > generation {
		return fmt.Errorf("accept generation %d: %w: %d was accepted", generation, ErrOld, accepted[0])
	}
	if !d.isAccepted(generation) {
		if err := d.changes.write(filepath.Join(d.path(generation), acceptedName), nil); err != nil {
			return fmt.Errorf("accept generation %d: %w", generation, errors.Join(err, d.forget(generation)))
		}
		if err := d.syncAll(d.path(generation)); err != nil {
			return fmt.Errorf("accept generation %d: %w", generation, errors.Join(err, d.forget(generation)))
		}
	}
	_ = d.removeOld(generation) // it is accepted whatever becomes of older ones
	return nil
}

// forget takes back that a generation is accepted.
func (d Disk) forget(generation uint64) error {
	if err := os.Remove(filepath.Join(d.path(generation), acceptedName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removeOld removes generations below one that was accepted, but for the newest intact one that was accepted too.
func (d Disk) removeOld(generation uint64) error {
	all, err := d.generations()
	if err != nil {
		return err
	}
	kept := false
	for _, g := range all { // the newest first
		if g >= generation {
			continue
		}
		if !kept && d.isAccepted(g) {
			if a, err := d.read(g); err == nil && a.check() == nil {
				kept = true
				continue
			}
		}
		if err := d.setAside(g); err != nil {
			return err
		}
	}
	return d.tidy(nil)
}

// Discard removes a candidate. One that is not there is no error, and one that was accepted is.
func (d Disk) Discard(ctx context.Context, generation uint64) error {
	unlock, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if d.isAccepted(generation) {
		return fmt.Errorf("discard generation %d: it was accepted", generation)
	}
	if err := d.setAside(generation); err != nil {
		return fmt.Errorf("discard generation %d: %w", generation, err)
	}
	return d.tidy(nil)
}

// Current returns the newest accepted bundle whose files are all intact. The error is store.ErrNone if none was accepted, and ErrDamaged
// if none of those that were is intact.
func (d Disk) Current() (*Accepted, error) {
	accepted, err := d.accepted()
	if err != nil {
		return nil, err
	}
	var damaged error
	var newer uint64
	for _, g := range accepted { // the newest first
		a, err := d.read(g)
		if err == nil {
			err = a.check()
		}
		if err == nil {
			a.Damaged, a.Newer = damaged, newer
			return a, nil
		}
		if !errors.Is(err, ErrDamaged) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		newer = max(newer, g)
		damaged = errors.Join(damaged, fmt.Errorf("generation %d in %s: %w", g, d.path(g), err))
	}
	if damaged != nil {
		return nil, fmt.Errorf("no bundle that was accepted is intact: remove %s, and the site's bundle is fetched again if one of fleet.signers has signed it: %w",
			d.Dir, damaged)
	}
	return nil, fmt.Errorf("no bundle was accepted in %s: %w", d.Dir, store.ErrNone)
}

// lock takes the lock of the folder, which it makes. It waits until ctx ends.
func (d Disk) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Join(d.Dir, blobsName), 0o700); err != nil {
		return nil, err
	}
	return filelock.Open(ctx, filepath.Join(d.Dir, lockName), 0o600)
}

// generations returns the generations on disk, the newest first.
func (d Disk) generations() ([]uint64, error) {
	entries, err := os.ReadDir(d.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []uint64
	for _, e := range entries {
		if n, err := strconv.ParseUint(e.Name(), 10, 64); err == nil && name(n) == e.Name() && e.IsDir() {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	slices.Reverse(all)
	return all, nil
}

// accepted returns the generations that were accepted, the newest first.
func (d Disk) accepted() ([]uint64, error) {
	all, err := d.generations()
	return slices.DeleteFunc(all, func(g uint64) bool { return !d.isAccepted(g) }), err
}

func (d Disk) isAccepted(generation uint64) bool {
	_, err := os.Lstat(filepath.Join(d.path(generation), acceptedName))
	return err == nil
}

// tidy removes what was cut short, and the blobs that neither m nor a bundle on disk has. The caller holds the lock.
func (d Disk) tidy(m *Manifest) error {
	if err := d.removeLeft(); err != nil {
		return err
	}
	used := make(map[string]bool)
	use := func(m *Manifest) {
		for _, f := range m.Files {
			used[f.Digest.String()] = true
		}
	}
	if m != nil {
		use(m)
	}
	all, err := d.generations()
	if err != nil {
		return err
	}
	for _, g := range all {
		if a, err := d.read(g); err == nil {
			use(a.Manifest)
		}
	}
	stored, err := os.ReadDir(filepath.Join(d.Dir, blobsName))
	if err != nil {
		return err
	}
	for _, e := range stored {
		if used[e.Name()] {
			continue
		}
		if err := d.changes.removeAll(filepath.Join(d.Dir, blobsName, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// removeLeft removes what is half written or half removed. The caller holds the lock.
func (d Disk) removeLeft() error {
	entries, err := os.ReadDir(d.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newPrefix) || strings.HasPrefix(e.Name(), oldPrefix) {
			if err := d.changes.removeAll(filepath.Join(d.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func name(generation uint64) string          { return strconv.FormatUint(generation, 10) }
func (d Disk) path(generation uint64) string { return filepath.Join(d.Dir, name(generation)) }
func (d Disk) filesPath(generation uint64) string {
	return filepath.Join(d.path(generation), filesName)
}
func (d Disk) blobPath(f File) string { return filepath.Join(d.Dir, blobsName, f.Digest.String()) }
