// Package lastgood keeps a copy of the last configuration that worked, with the files that it names, for a service that must
// start although its present configuration has a fault.
//
// The copy has secrets in it, so only its owner can read it. Lists that are larger than a configuration may be are left out:
// they are read where they are.
//
// It does not decide when the copy is used.
package lastgood

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

// ErrNone is returned by Load if no copy was kept.
var ErrNone = errors.New("no configuration has worked yet, so there is no copy of a good one")

// Copy is the copy in one folder. The zero value keeps nothing.
type Copy struct {
	Dir string // absolute; made if it is missing
}

// Keep replaces the copy by the files of a configuration that works. A file that is gone or too large is left out. Of a file
// that instead knows, its text is kept. After an error the earlier copy is still there.
func (c Copy) Keep(files []string, instead config.Former) error {
	if c.Dir == "" {
		return nil
	}
	fresh := c.Dir + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("keep a copy of the configuration: %w", err)
	}
	for _, file := range slices.Compact(slices.Sorted(slices.Values(files))) {
		text, known := instead(file)
		if !known {
			var err error
			if text, known, err = read(file); err != nil {
				return errors.Join(fmt.Errorf("keep a copy of the configuration: %w", err), os.RemoveAll(fresh))
			}
		}
		if !known {
			continue
		}
		if err := keep(text, c.below(fresh, file)); err != nil {
			return errors.Join(fmt.Errorf("keep a copy of the configuration: %w", err), os.RemoveAll(fresh))
		}
	}
	if err := c.replace(fresh); err != nil {
		return fmt.Errorf("keep a copy of the configuration: %w", err)
	}
	return nil
}

// replace makes the folder fresh the copy. Load finds it or the earlier copy, whenever this fails or is cut short. All of fresh is
// on disk before the earlier copy goes: after a power cut, a file that was not written out would be empty.
func (c Copy) replace(fresh string) error {
	if err := syncDirs(fresh); err != nil {
		return err
	}
	old := c.Dir + ".old"
	switch _, err := os.Stat(c.Dir); {
	case errors.Is(err, fs.ErrNotExist): // there is no earlier copy, or it is old, because a replace was cut short
	case err != nil:
		return err
	default:
		if err := os.RemoveAll(old); err != nil {
			return err
		}
		if err := os.Rename(c.Dir, old); err != nil {
			return err
		}
	}
	if err := os.Rename(fresh, c.Dir); err != nil {
		return err
	}
	if err := private.SyncDir(filepath.Dir(c.Dir)); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// Former returns the text of a file in the copy. It is a config.Former.
func (c Copy) Former(file string) (text []byte, ok bool) {
	for _, dir := range []string{c.Dir, c.Dir + ".old"} {
		if c.Dir == "" {
			break
		}
		if text, err := private.Read(c.below(dir, file), config.MaxFile); err == nil {
			return text, true
		}
	}
	return nil, false
}

// below returns where a file belongs in a copy. A file of the copy itself keeps its place.
func (c Copy) below(root, file string) string {
	if own, ok := strings.CutPrefix(file, c.Dir+string(filepath.Separator)); ok {
		return filepath.Join(root, own)
	}
	return filepath.Join(root, file)
}

// read reads a file that belongs in a copy. ok is false for one that is gone or too large.
func read(file string) (text []byte, ok bool, err error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, nil
	case err != nil:
		return nil, false, err
	case !info.Mode().IsRegular() || info.Size() > config.MaxFile:
		return nil, false, nil
	}
	text, err = os.ReadFile(file)
	return text, err == nil, err
}

// keep writes a file of a copy.
func keep(text []byte, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// syncDirs writes a folder and the folders below it to disk.
func syncDirs(root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return private.SyncDir(path)
	})
}

// Load loads the copy of the configuration at path, which must be absolute, and tells when it was kept. The error is ErrNone if
// there is no copy.
func (c Copy) Load(path string) (cfg *config.Config, kept time.Time, err error) {
	for _, dir := range []string{c.Dir, c.Dir + ".old"} {
		info, err := os.Stat(c.below(dir, path))
		if c.Dir == "" || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, kept, err
		}
		cfg, err = config.LoadCopy(dir, path)
		return cfg, info.ModTime(), err
	}
	return nil, kept, ErrNone
}
