// Package quota keeps how much each peer has used in a calendar month, in UTC, in a file that survives restarts and crashes.
//
// It does not count, and does not know how much a peer may use.
package quota

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"
)

const (
	version = 1
	// maxMonths is how many months are kept. Those before the present one matter if the clock turns out to have been wrong.
	maxMonths = 3
	// doubt is how long a clock that is before all known months is taken for wrong. By then a board without a battery has the time.
	doubt = 24 * time.Hour
	// maxFile bounds the file, in bytes: more than a hundred thousand peers.
	maxFile = 64 << 20
)

// Book is what peers have used, by their IDs. One goroutine at a time may use it.
type Book struct {
	path    string
	content content
	changed bool
	doubted time.Time // since when the clock is before all known months; zero: it is not
}

// content is the file.
type content struct {
	Version int                          `json:"version"`
	Month   string                       `json:"month"` // that was counted last
	Months  map[string]map[string]uint64 `json:"months"`
}

// Open reads the book at path. The book is usable even if there is an error: then the file could not be used, the error says where
// it is now, and all counts begin anew. Without a file they begin, too.
func Open(path string) (*Book, error) {
	b := &Book{path: path}
	err := b.read()
	if err == nil {
		return b, nil
	}
	b.content = content{}
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	aside := fmt.Sprintf("%s.damaged-%d", path, time.Now().UnixNano())
	if renamed := os.Rename(path, aside); renamed != nil {
		return b, fmt.Errorf("%s cannot be used: %w; nor can it be set aside: %w", path, err, renamed)
	}
	return b, fmt.Errorf("%s cannot be used, and is now %s: %w", path, aside, err)
}

func (b *Book) read() error {
	f, err := os.Open(b.path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return err
	case len(text) > maxFile:
		return fmt.Errorf("it is larger than %d bytes", maxFile)
	}
	if err := json.Unmarshal(text, &b.content); err != nil {
		return err
	}
	if v := b.content.Version; v != version {
		return fmt.Errorf("it has version %d, and this penstock reads version %d", v, version)
	}
	for month, used := range b.content.Months {
		if _, err := time.Parse(layout, month); err != nil || used == nil {
			return fmt.Errorf("it has a month %q that is none", month)
		}
	}
	if _, ok := b.content.Months[b.content.Month]; !ok && b.content.Month != "" {
		return fmt.Errorf("it does not have its own month %q", b.content.Month)
	}
	return nil
}

// layout is how months are written. Their order is that of the texts.
const layout = "2006-01"

// month returns the counts of the month that it is at a time. A clock that goes back to a month that is known counts on there. One
// that is before all known months is taken for wrong, so the last month counts on; but if it stays there, it was wrong when those
// months began, and they would not end for years. Else a month begins.
func (b *Book) month(now time.Time) map[string]uint64 {
	c, is := &b.content, now.UTC().Format(layout)
	if used, ok := c.Months[is]; ok {
		b.changed = b.changed || c.Month != is
		c.Month, b.doubted = is, time.Time{}
		return used
	}
	known := slices.Sorted(maps.Keys(c.Months))
	if len(known) > 0 && is < known[0] {
		if b.doubted.IsZero() {
			b.doubted = now
		}
		if now.Sub(b.doubted) < doubt {
			return c.Months[c.Month]
		}
	}
	b.doubted = time.Time{}
	if c.Months == nil {
		c.Months = make(map[string]map[string]uint64)
	}
	c.Months[is], c.Month, b.changed = make(map[string]uint64), is, true
	if len(known) == maxMonths {
		delete(c.Months, known[0])
	}
	return c.Months[is]
}

// Add adds what a peer has used.
func (b *Book) Add(id string, bytes uint64, now time.Time) {
	if bytes > 0 {
		b.month(now)[id] += bytes
		b.changed = true
	}
}

// Used returns what a peer has used in this month.
func (b *Book) Used(id string, now time.Time) uint64 { return b.month(now)[id] }

// Reset forgets what a peer has used in this month.
func (b *Book) Reset(id string, now time.Time) {
	delete(b.month(now), id)
	b.changed = true
}

// Ends returns when the month ends that is counted at a time.
func (b *Book) Ends(now time.Time) time.Time {
	b.month(now)
	start, err := time.Parse(layout, b.content.Month)
	if err != nil {
		return time.Time{} // unreachable: read has checked it
	}
	return start.AddDate(0, 1, 0)
}

// Unsaved returns the text that is to be written to the file, for Write; nil if nothing has changed since the last call.
func (b *Book) Unsaved() ([]byte, error) {
	if !b.changed {
		return nil, nil
	}
	b.content.Version = version
	text, err := json.Marshal(b.content)
	if err == nil {
		b.changed = false
	}
	return text, err
}

// NotSaved says that what Unsaved returned could not be written: its next call returns it again.
func (b *Book) NotSaved() { b.changed = true }

// Write writes the file at path, whole or not at all. It may take as long as the disk does.
func Write(path string, text []byte) error {
	if err := write(path, text); err != nil {
		return fmt.Errorf("keep what peers have used: %w", err)
	}
	return nil
}

// write replaces a file. After a power cut it is the former one or the new one.
func write(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // after the rename there is none
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil || runtime.GOOS == "windows" { // which cannot sync a folder
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
