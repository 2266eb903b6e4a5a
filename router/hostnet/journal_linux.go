package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"penstock/router/hostnet/internal/atomicfile"
)

const journalVersion = 1

// journal lists the changes that may have been made to the host. A change is written to disk before it is made, and
// removed after it was undone, so the journal always has what a killed process did. It is used under the Host's lock.
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

// openJournal takes the lock and reads what a predecessor left. It returns ErrInUse, wrapped, while another process holds
// the lock. It changes nothing but the lock file.
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

// lockFile opens and locks path. It starts over if the holder removed the file meanwhile.
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
		return fmt.Errorf("hostnet: state file %s is damaged: %w: check ip rule, nft list ruleset and resolv.conf by hand, then remove the file", j.path, err)
	}
	if f.Version != journalVersion {
		return fmt.Errorf("hostnet: state file %s has version %d, and this penstock reads only %d: run the cleanup of the penstock that wrote it", j.path, f.Version, journalVersion)
	}
	for _, e := range f.Entries {
		if e.change() == nil {
			return fmt.Errorf("hostnet: state file %s has an entry of an unknown kind", j.path)
		}
	}
	j.entries = f.Entries
	if f.Boot != bootID() {
		// The reboot undid everything but files.
		j.entries = slices.DeleteFunc(j.entries, func(e entry) bool { return e.ResolvConf == nil })
	}
	return nil
}

// save writes the entries. When it returns nil, they are on disk.
func (j *journal) save(entries []entry) error {
	raw, err := json.MarshalIndent(journalFile{Version: journalVersion, Boot: bootID(), Entries: entries}, "", "\t")
	if err != nil {
		return fmt.Errorf("hostnet: encode state file: %w", err)
	}
	if err := atomicfile.Write(j.path, append(raw, '\n'), 0o600); err != nil {
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

// close removes an empty journal and releases the lock.
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

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // every entry is then undone, which does no harm
	}
	return strings.TrimSpace(string(raw))
}
