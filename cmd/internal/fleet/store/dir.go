package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"penstock/cmd/internal/filelock"
)

const (
	versionFile = ".version" // in each bucket: the version of the last value written
	lockName    = ".lock"    // in each bucket: whoever writes holds its lock
	// mostWaiting bounds how many calls wait for a file system that does not answer. Each holds a thread.
	mostWaiting = 32
)

// Dir is a Store in a folder that all gateways see: a folder for each bucket with a file for each key, and blobs/ with a file for
// each blob.
//
// A folder that can only be read, such as a mounted ConfigMap, needs truth/SITE and blobs/DIGEST and nothing else. Put into it is
// ErrForbidden. A file that a person or a ConfigMap put there is a value as it is; it has no version of its own, so each Dir
// numbers such values as it sees them change. The values of State and Sessions and the leases end when the reader has seen no new
// version for as long as they live, by its own clock. So a reader that starts believes at first what is there, and a lease changes
// hands only after whoever wants it has asked all that time. The file system must tell capitals apart, and have locks if several
// machines write. Every change costs a look at each file, which suits some thousand values.
type Dir struct {
	// Log is told once of each file that is damaged or foreign. If nil, nobody is. Set it before the first call.
	Log *slog.Logger

	root    string
	waiting chan struct{} // places for calls that wait for the file system

	mu   sync.Mutex // guards below
	seen map[Bucket]*sightings
}

// sightings is what a Dir has seen of a bucket.
type sightings struct {
	keys map[string]sighting
	last uint64 // the largest version
}

// sighting is the version of a key that was seen last.
type sighting struct {
	version uint64 // that of the entry
	since   time.Time
	raw     string // the value, if the file has no version
	gone    bool   // its life was over
}

var _ Store = (*Dir)(nil)

// OpenDir returns the Store in a folder. The folder need not be there yet: it may be on a network file system that comes later. Calls
// return an error until it is.
func OpenDir(dir string) (*Dir, error) {
	info, err := os.Stat(dir)
	switch {
	case dir == "":
		return nil, errors.New("the store has no folder")
	case err == nil && !info.IsDir():
		return nil, fmt.Errorf("%s is not a folder", dir)
	}
	return &Dir{root: dir, waiting: make(chan struct{}, mostWaiting), seen: make(map[Bucket]*sightings)}, nil
}

// within runs f, and returns earlier if ctx ends, because a network file system may never answer. Then f goes on, so it must write
// to nothing that the caller reads after an error.
func (d *Dir) within(ctx context.Context, f func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case d.waiting <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%s does not answer: %w", d.root, context.Cause(ctx))
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-d.waiting }()
		done <- f()
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s does not answer: %w", d.root, context.Cause(ctx))
	}
}

// Get returns the value of a key.
func (d *Dir) Get(ctx context.Context, b Bucket, key string) (Entry, error) {
	if err := CheckKey(key); err != nil {
		return Entry{}, err
	}
	found := make(chan Entry, 1)
	err := d.within(ctx, func() error {
		e, err := d.current(b, key)
		found <- e
		return err
	})
	if err != nil {
		return Entry{}, err
	}
	return <-found, nil
}

// current reads a key. The error is ErrNone if there is no value, or its life is over.
func (d *Dir) current(b Bucket, key string) (Entry, error) {
	r, err := readRecord(d.path(b, key))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(d.root); err != nil {
			return Entry{}, fmt.Errorf("the store's folder: %w", err)
		}
		d.forget(b, key)
		return Entry{}, fmt.Errorf("%s/%s: %w", b, key, ErrNone)
	} else if err != nil {
		return Entry{}, err
	}
	e, alive := d.see(b, key, r, time.Now())
	if !alive {
		return Entry{}, fmt.Errorf("%s/%s was not written again: %w", b, key, ErrNone)
	}
	return e, nil
}

// see notes that a file has a record now. It returns the entry, and whether it is still alive.
func (d *Dir) see(b Bucket, key string, r record, now time.Time) (e Entry, alive bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sightingsLocked(b)
	last, known := s.keys[key]
	if r.version == 0 {
		if known && last.raw == string(r.value) {
			r.version = last.version
		} else {
			r.version = s.last + 1
			last.raw = string(r.value)
		}
	} else {
		last.raw = ""
	}
	s.last = max(s.last, r.version)
	if !known || last.version != r.version {
		last.version, last.since, last.gone = r.version, now, false
	}
	life := r.life
	switch {
	case b == State:
		life = StateLife
	case b == Sessions:
		life = SessionLife
	}
	last.gone = last.gone || life > 0 && now.Sub(last.since) >= life
	s.keys[key] = last
	return Entry{key, r.value, r.version}, !last.gone
}

// forget notes that a key has no file.
func (d *Dir) forget(b Bucket, key string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sightingsLocked(b).keys, key)
}

// last returns the largest version seen in a bucket.
func (d *Dir) last(b Bucket) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sightingsLocked(b).last
}

// passed notes that a bucket has come to a version.
func (d *Dir) passed(b Bucket, version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.sightingsLocked(b)
	s.last = max(s.last, version)
}

func (d *Dir) sightingsLocked(b Bucket) *sightings {
	s := d.seen[b]
	if s == nil {
		s = &sightings{keys: make(map[string]sighting)}
		d.seen[b] = s
	}
	return s
}

// Put writes a value if that of the key is at the version after. If ctx ends first, it may still be written.
func (d *Dir) Put(ctx context.Context, b Bucket, key string, value []byte, after uint64) (uint64, error) {
	if err := errors.Join(CheckKey(key), CheckValue(key, value)); err != nil {
		return 0, err
	}
	value = append([]byte(nil), value...) // the caller may use it again when ctx has ended
	return d.change(ctx, b, key, func(now Entry, err error) (record, error) {
		switch {
		case after == Any: // also in the place of a damaged file
		case err != nil:
			return record{}, err
		case after != now.Version:
			return record{}, fmt.Errorf("%s/%s: %w", b, key, ErrConflict)
		}
		return record{value: value}, nil
	})
}

// Lease takes, renews or gives back a lease.
func (d *Dir) Lease(ctx context.Context, key, holder string, lasts time.Duration) error {
	if err := errors.Join(CheckKey(key), CheckValue(key, []byte(holder))); err != nil {
		return err
	}
	if holder == "" {
		return fmt.Errorf("the lease of %s needs a holder", key)
	}
	_, err := d.change(ctx, Leases, key, func(now Entry, err error) (record, error) {
		switch {
		case err != nil:
			return record{}, err
		case now.Value != nil && string(now.Value) != holder:
			return record{}, fmt.Errorf("%s, by %q: %w", key, now.Value, ErrHeld)
		case lasts <= 0:
			return record{}, nil
		}
		return record{value: []byte(holder), life: lasts}, nil
	})
	return err
}

// change replaces the value of a key by what decide makes of the present one, under the lock of the bucket. decide is handed an
// entry without a version if there is none, and an error if the file cannot be read.
func (d *Dir) change(ctx context.Context, b Bucket, key string, decide func(Entry, error) (record, error)) (uint64, error) {
	written := make(chan uint64, 1)
	err := d.within(ctx, func() error {
		version, err := d.changeLocked(ctx, b, key, decide)
		written <- version
		return err
	})
	if err != nil {
		return 0, forbidden(err)
	}
	return <-written, nil
}

func (d *Dir) changeLocked(ctx context.Context, b Bucket, key string, decide func(Entry, error) (record, error)) (uint64, error) {
	folder := filepath.Join(d.root, string(b))
	if err := os.Mkdir(folder, 0o770); err != nil && !errors.Is(err, fs.ErrExist) {
		return 0, err
	}
	unlock, err := filelock.Open(ctx, filepath.Join(folder, lockName), 0o660)
	if err != nil {
		return 0, err
	}
	defer unlock()
	now, err := d.current(b, key)
	if errors.Is(err, ErrNone) {
		now, err = Entry{}, nil
	}
	next, err := decide(now, err)
	if err != nil {
		return 0, err
	}
	last, err := d.lastWritten(b)
	if err != nil {
		return 0, err
	}
	next.version = last + 1
	// The number is used before the value has it: after a failure between the two it is skipped, and never given twice.
	if err := replaceFile(filepath.Join(folder, versionFile), []byte(strconv.FormatUint(next.version, 10)+"\n"), b.durable()); err != nil {
		return 0, err
	}
	if len(next.value) == 0 {
		err = os.Remove(d.path(b, key))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil && b.durable() {
			syncFolder(folder)
		}
	} else {
		err = replaceFile(d.path(b, key), next.encode(key), b.durable())
	}
	if err != nil {
		return 0, err
	}
	d.passed(b, next.version)
	return next.version, nil
}

// lastWritten returns the version of the last value written to a bucket. If the file that says so is gone or damaged, it is the
// largest that any file has, or that was seen before.
func (d *Dir) lastWritten(b Bucket) (uint64, error) {
	content, err := readRegular(filepath.Join(d.root, string(b), versionFile), 64)
	if err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(content)), 10, 64); err == nil && n < Any/2 {
			return max(n, d.last(b)), nil
		}
	}
	names, err := d.names(b)
	if err != nil {
		return 0, err
	}
	last := d.last(b)
	for _, name := range names {
		if r, err := readRecord(d.path(b, name)); err == nil {
			last = max(last, r.version)
		}
	}
	return last, nil
}

// names returns the keys that have files in a bucket. A bucket without a folder has none.
func (d *Dir) names(b Bucket) ([]string, error) {
	files, err := os.ReadDir(filepath.Join(d.root, string(b)))
	if errors.Is(err, fs.ErrNotExist) {
		_, err = os.Stat(d.root)
	}
	if err != nil {
		return nil, fmt.Errorf("the store's folder: %w", err)
	}
	var names []string
	for _, f := range files {
		if CheckKey(f.Name()) == nil { // others are ours, such as the lock, or of a ConfigMap
			names = append(names, f.Name())
		}
	}
	return names, nil
}

func (d *Dir) path(b Bucket, key string) string { return filepath.Join(d.root, string(b), key) }

// forbidden adds ErrForbidden to an error that says that the file system lets us not write.
func forbidden(err error) error {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	}
	return err
}
