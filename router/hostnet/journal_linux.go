package hostnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
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
	closed  *closure // nil without lockdown
	foreign bool     // it was written in another network namespace or another boot, or on another host
}

// journalFile is the JSON on disk.
type journalFile struct {
	Version int    `json:"version"`
	Boot    string `json:"boot"` // /proc/sys/kernel/random/boot_id at the time of writing
	// Namespace is the network namespace at the time of writing; "" in files of earlier versions.
	Namespace string   `json:"namespace,omitempty"`
	Entries   []entry  `json:"entries"`
	Closed    *closure `json:"closed,omitempty"`
}

// closure is how the host is to be closed while lockdown is in force. It outlives the process and the boot: only lifting
// lockdown ends it. It has everything that closing needs, so that it does not depend on a valid configuration.
type closure struct {
	Interface string         `json:"interface"`
	Mark      uint32         `json:"mark"`
	MarkMask  uint32         `json:"mark_mask"`
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	Capture   []netip.Prefix `json:"capture,omitempty"`
	Exclude   []netip.Prefix `json:"exclude,omitempty"`
	LAN       bool           `json:"lan,omitempty"`
}

// closureOf returns nil for settings without lockdown.
func closureOf(c Config, s Settings) *closure {
	if !s.Lockdown {
		return nil
	}
	return &closure{c.Interface, c.Mark, c.MarkMask, s.Addresses, s.Capture, s.Exclude, s.LAN}
}

// filter returns the table that closes the host.
func (c *closure) filter(v *view) (*nftTable, error) {
	f, err := gather(v, c.Interface)
	if err != nil {
		return nil, err
	}
	return planFilter(Config{Interface: c.Interface, Mark: c.Mark, MarkMask: c.MarkMask},
		Settings{Addresses: c.Addresses, Capture: c.Capture, Exclude: c.Exclude, LAN: c.LAN, Lockdown: true}, f), nil
}

// put puts the table that closes the host into the kernel.
func (c *closure) put(k *kernel) (*nftTable, error) {
	table, err := c.filter(newView(k))
	if err != nil {
		return nil, err
	}
	if there, err := table.present(nil); err == nil && there {
		return table, nil
	}
	if err := table.make(nil); err != nil {
		return nil, fmt.Errorf("hostnet: lockdown: %s: %w", table, err)
	}
	return table, nil
}

// openJournal takes the lock and reads what a predecessor left. It returns ErrInUse, wrapped, while another process holds
// the lock. It changes nothing but the lock file, and removes what was left of a write.
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
	_ = atomicfile.Sweep(path) // what stays does no harm
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
		return fmt.Errorf("hostnet: %w: %s is damaged: %w", errDamaged, j.path, err)
	}
	if f.Version != journalVersion {
		return fmt.Errorf("hostnet: %w: %s has version %d, and this penstock reads only %d", errDamaged, j.path, f.Version, journalVersion)
	}
	for _, e := range f.Entries {
		if e.change() == nil {
			return fmt.Errorf("hostnet: %w: %s has an entry of an unknown kind", errDamaged, j.path)
		}
	}
	j.entries, j.closed = f.Entries, f.Closed
	j.foreign = f.Boot != bootID() || f.Namespace != "" && f.Namespace != namespace()
	if j.foreign {
		// What a reboot or another namespace has to do with this kernel state is files alone. What bears our name is still
		// undone, which does no harm: in some containers the boots of a service and of a shell differ.
		j.entries = slices.DeleteFunc(j.entries, func(e entry) bool { return e.ResolvConf == nil && !bearsOurName(e.change()) })
	}
	return nil
}

// save writes the entries. When it returns nil, they are on disk.
func (j *journal) save(entries []entry) error {
	raw, err := json.MarshalIndent(journalFile{Version: journalVersion, Boot: bootID(), Namespace: namespace(), Entries: entries, Closed: j.closed}, "", "\t")
	if err != nil {
		return fmt.Errorf("hostnet: encode state file: %w", err)
	}
	if err := atomicfile.Write(j.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("hostnet: write state file: %w", err)
	}
	j.entries = entries
	return nil
}

// setClosed sets or lifts the closure. When it returns nil, that is on disk.
func (j *journal) setClosed(c *closure) error {
	if reflect.DeepEqual(j.closed, c) {
		return nil
	}
	before := j.closed
	j.closed = c
	if err := j.save(j.entries); err != nil {
		j.closed = before
		return err
	}
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

// canUndo reports whether a change would be undone after a kill, as the journal is on disk: it is in there, with what was before, or
// salvage finds it in the kernel.
func (j *journal) canUndo(c change) bool {
	if bearsOurName(c) {
		return true
	}
	i := slices.IndexFunc(j.entries, func(e entry) bool { return e.change().key() == c.key() })
	if r, ok := c.(*resolvConf); ok && i >= 0 {
		return r.SameOriginal(j.entries[i].ResolvConf)
	}
	return i >= 0
}

// close removes an empty journal and releases the lock.
func (j *journal) close() error {
	var err error
	if len(j.entries) == 0 && j.closed == nil {
		if err = os.Remove(j.path); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		err = errors.Join(err, os.Remove(j.lock.Name()))
	}
	return errors.Join(err, j.lock.Close())
}

// namespace names the network namespace that this process is in; "" if that cannot be found out.
func namespace() string {
	name, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return ""
	}
	return name
}

func bootID() string {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // every entry is then undone, which does no harm
	}
	return strings.TrimSpace(string(raw))
}
