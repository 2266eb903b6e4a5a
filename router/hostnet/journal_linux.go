package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const journalVersion = 1

// journal is the list of changes that may have been made to the host. A change stands in it, on disk,
// before it is made, and leaves it after it was undone: what a killed process did is always in it.
// It is used under the Host's lock.
type journal struct {
	path    string
	lock    *os.File // flock on path+".lock": the journal itself is replaced by rename
	entries []entry
}

// journalFile is the JSON on disk.
type journalFile struct {
	Version int     `json:"version"`
	Boot    string  `json:"boot"` // /proc/sys/kernel/random/boot_id at the time of writing
	Entries []entry `json:"entries"`
}

// openJournal takes the lock and reads what a predecessor left. It returns ErrInUse, wrapped, while
// another process holds the lock, and changes nothing but the lock file.
func openJournal(path string) (*journal, error) {
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	j := &journal{path: path, lock: lock}
	if err := j.load(); err != nil {
		lock.Close()
		return nil, err
	}
	return j, nil
}

// lockFile opens and locks path. A lock file that its holder removed meanwhile does not count.
func lockFile(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("hostnet: open lock of the state file: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("hostnet: %s: %w", path, ErrInUse)
			}
			return nil, fmt.Errorf("hostnet: lock %s: %w", path, err)
		}
		held, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("hostnet: lock %s: %w", path, err)
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(held, named) {
			return f, nil
		}
		f.Close()
	}
}

func (j *journal) load() error {
	raw, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("hostnet: read state file: %w", err)
	}
	var f journalFile
	if err := json.Unmarshal(raw, &f); err != nil {
		return fmt.Errorf("hostnet: state file %s is damaged: %w; compare ip rule, nft and resolv.conf with what you expect, then remove it", j.path, err)
	}
	if f.Version != journalVersion {
		return fmt.Errorf("hostnet: state file %s has version %d, this penstock knows %d: stop with the penstock that wrote it", j.path, f.Version, journalVersion)
	}
	for _, e := range f.Entries {
		if e.change() == nil {
			return fmt.Errorf("hostnet: state file %s has an entry of no known kind", j.path)
		}
	}
	j.entries = f.Entries
	if f.Boot != bootID() {
		// The kernel forgot its part with the reboot; files did not.
		j.entries = slices.DeleteFunc(j.entries, func(e entry) bool { return e.ResolvConf == nil })
	}
	return nil
}

// save writes the entries: when it returns nil they are on disk.
func (j *journal) save(entries []entry) error {
	raw, err := json.MarshalIndent(journalFile{Version: journalVersion, Boot: bootID(), Entries: entries}, "", "\t")
	if err != nil {
		return fmt.Errorf("hostnet: encode state file: %w", err)
	}
	if err := writeAtomic(j.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("hostnet: write state file: %w", err)
	}
	j.entries = entries
	return nil
}

// find returns the entry with the key, or nil.
func (j *journal) find(key any) change {
	for _, e := range j.entries {
		if c := e.change(); c.key() == key {
			return c
		}
	}
	return nil
}

// close gives the lock back. An empty journal is removed.
func (j *journal) close() error {
	var err error
	if len(j.entries) == 0 {
		if err = os.Remove(j.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		err = errors.Join(err, os.Remove(j.lock.Name()))
	}
	return errors.Join(err, j.lock.Close())
}

// writeAtomic replaces path by a file with the given content, synced, or leaves it as it was.
func writeAtomic(path string, content []byte, mode fs.FileMode) error {
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
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) {
		err = nil // a file system that cannot sync a directory needs no sync of it
	}
	return errors.Join(err, d.Close())
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // equal to itself: every entry is then undone, which is idempotent
	}
	return strings.TrimSpace(string(raw))
}
