// Package atomicfile replaces files in one step: after a crash there is the old file or the new one, whole.
//
// It does not lock them.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Write replaces path by a file with the content and the mode, or leaves it as it was. When it returns nil, the file is
// on disk.
func Write(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once renamed
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Sweep removes what processes left that were killed in the middle of Write to path. None may be in it: the caller holds a lock.
func Sweep(path string) error {
	entries, err := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		random, ok := strings.CutPrefix(e.Name(), "."+filepath.Base(path)+".")
		if _, notDigits := strconv.ParseUint(random, 10, 64); !ok || notDigits != nil || !e.Type().IsRegular() {
			continue
		}
		err = errors.Join(err, os.Remove(filepath.Join(filepath.Dir(path), e.Name())))
	}
	return err
}

// Link replaces path by a symbolic link to target in one step.
func Link(target, path string) error {
	temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".penstock")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir writes a directory to disk, where the file system needs that.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) {
		err = nil // this file system has no directories to sync
	}
	return errors.Join(err, d.Close())
}
