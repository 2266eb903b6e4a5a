package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"penstock/cmd/internal/private"
)

// changes makes all changes of a disk.
type changes struct {
	// before is called before each change, with what it is, if a test sets it. An error is that of the change.
	before func(change string) error
}

func (c changes) ask(change string) error {
	if c.before == nil {
		return nil
	}
	return c.before(change)
}

func (c changes) mkdir(path string) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	if err := c.ask("mkdir " + path); err != nil {
		return err
	}
	return os.MkdirAll(path, 0o700)
}

// write makes or replaces a file, and returns when its bytes are on disk. Without content it is empty.
func (c changes) write(path string, content func(io.Writer) error) error {
	if err := c.ask("create " + path); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if content != nil {
		err = content(written{c, path, f})
	}
	if err == nil {
		err = c.ask("sync " + path)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// written is a file that a test may find full.
type written struct {
	changes changes
	path    string
	f       *os.File
}

func (w written) Write(p []byte) (int, error) {
	if err := w.changes.ask("write " + w.path); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

func (c changes) writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.write(path, func(w io.Writer) error { _, err := w.Write(text); return err })
}

func (c changes) rename(from, to string) error {
	if err := c.ask("rename " + from); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (c changes) removeAll(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := c.ask("remove " + path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// fetchBlob fetches the bytes of a file. Those of an earlier fetch are replaced.
func (d Disk) fetchBlob(ctx context.Context, f File, fetch Fetch) error {
	path := d.blobPath(f)
	fresh := filepath.Join(filepath.Dir(path), newPrefix+f.Digest.String())
	err := d.changes.write(fresh, func(w io.Writer) error {
		return checked(f, w, func(w io.Writer) error { return fetch(ctx, f, w) })
	})
	if err == nil {
		err = d.changes.rename(fresh, path)
	}
	if err != nil {
		return errors.Join(err, d.changes.removeAll(fresh))
	}
	return nil
}

// syncAll writes the entries of folders, and of those below them that are not generations, to disk.
func (d Disk) syncAll(roots ...string) error {
	for _, root := range roots {
		if err := d.changes.ask("sync " + root); err != nil {
			return err
		}
		if root == d.Dir {
			if err := errors.Join(private.SyncDir(root), private.SyncDir(filepath.Dir(root))); err != nil {
				return err
			}
			continue
		}
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.IsDir() {
				return err
			}
			return private.SyncDir(path)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
