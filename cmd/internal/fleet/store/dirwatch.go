package store

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"
)

// pollInterval is how often a Dir looks for changes: network file systems do not tell of them.
const pollInterval = 250 * time.Millisecond

// Watch looks at the files of a bucket every 250 ms.
func (d *Dir) Watch(ctx context.Context, b Bucket, prefix string, changed func(Entry)) error {
	if prefix != "" {
		if err := CheckKey(prefix); err != nil {
			return err
		}
	}
	w := &watch{dir: d, bucket: b, prefix: prefix, files: make(map[string]watched), told: make(map[string]string)}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for first := true; ; first = false {
		found := make(chan []Entry, 1)
		err := d.within(ctx, func() error {
			changes, err := w.poll(ctx)
			found <- changes
			return err
		})
		if err != nil {
			return err
		}
		for _, e := range <-found {
			changed(e)
		}
		if first {
			changed(Entry{})
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// watch is what one Watch knows. Only one poll runs at a time.
type watch struct {
	dir    *Dir
	bucket Bucket
	prefix string
	files  map[string]watched
	told   map[string]string // what the log was told of each key
}

// watched is a file as it was when it was last read.
type watched struct {
	mark    mark
	record  record
	version uint64 // that changed was called with; 0 if it was not, or was told that there is no value
}

// poll returns what has changed, in the order of the versions.
func (w *watch) poll(ctx context.Context) ([]Entry, error) {
	names, err := w.dir.names(w.bucket)
	if err != nil {
		return nil, err
	}
	var changes []Entry
	present := make(map[string]bool)
	for _, key := range names {
		if !Below(key, w.prefix) {
			continue
		}
		present[key] = true
		f, known := w.files[key]
		if !w.read(key, &f) {
			if known {
				continue // what was there stays until there is something better
			}
			delete(w.files, key)
			continue
		}
		e, alive := w.dir.see(w.bucket, key, f.record, time.Now())
		switch {
		case alive && e.Version != f.version:
			changes, f.version = append(changes, e), e.Version
		case !alive && f.version != 0:
			changes, f.version = append(changes, w.gone(key)), 0
			w.remove(ctx, key)
		}
		w.files[key] = f
	}
	for key, f := range w.files {
		if present[key] {
			continue
		}
		w.dir.forget(w.bucket, key)
		if f.version != 0 {
			changes = append(changes, w.gone(key))
		}
		delete(w.files, key) // after gone, which asks it for the last version
	}
	slices.SortStableFunc(changes, func(x, y Entry) int { return cmp.Compare(x.Version, y.Version) })
	return changes, nil
}

// read reads a file if it may be another than before. It returns false if there is none, or it is damaged, which the log is told
// once.
func (w *watch) read(key string, f *watched) bool {
	path, now := w.dir.path(w.bucket, key), time.Now()
	info, err := os.Stat(path)
	if err == nil {
		if f.mark.same(info, now) {
			return true
		}
		var r record
		if r, err = readRecord(path); err == nil {
			if !f.mark.unchanged(info) {
				f.mark = mark{info, now}
			}
			f.record = r
			delete(w.told, key)
			return true
		}
	}
	if !errors.Is(err, fs.ErrNotExist) && w.dir.Log != nil && w.told[key] != err.Error() {
		w.told[key] = err.Error()
		w.dir.Log.Warn("a file in the fleet's folder is left out", "err", err)
	}
	return false
}

// gone returns the entry for a key without a value. Its version is that of the bucket, or the next if that is the last value's.
func (w *watch) gone(key string) Entry {
	version, err := w.dir.lastWritten(w.bucket)
	if err != nil || version <= w.files[key].version {
		version = w.dir.last(w.bucket) + 1
		w.dir.passed(w.bucket, version)
	}
	return Entry{Key: key, Version: version}
}

// remove removes the file of a value that nobody has written again, if it can, so that it does not stay there for good.
func (w *watch) remove(ctx context.Context, key string) {
	errAlive := errors.New("it was written again, or is damaged")
	_, _ = w.dir.changeLocked(ctx, w.bucket, key, func(now Entry, err error) (record, error) {
		if err != nil || now.Version != 0 { // the version that is over is none
			return record{}, errAlive
		}
		return record{}, nil
	})
}
