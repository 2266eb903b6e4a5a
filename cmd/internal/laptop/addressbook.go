package laptop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	askAgain  = 10 * time.Second // a name is looked up at most this often
	askShort  = 2 * time.Second  // how long to wait for an answer if an earlier one is known
	bookLimit = 1 << 20          // maximum size of the file in bytes
)

// addressBook resolves the names of endpoints. It keeps the last good addresses, also on disk, so that a transport can reach a
// known server from a network without working DNS.
type addressBook struct {
	lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	file   string // empty: the book is kept in memory only
	log    *slog.Logger

	mu      sync.Mutex // guards below
	names   map[string]*addresses
	network int // counts networks
}

// addresses is what is known about a name.
type addresses struct {
	found []netip.Addr
	asked time.Time // time of the last look-up; zero: in an earlier process, or on another network
}

// openAddressBook reads the file of an earlier process. If it cannot be read, that is only a warning: the file is a cache, not a
// configuration.
func openAddressBook(file string, lookup func(context.Context, string) ([]netip.Addr, error), log *slog.Logger) *addressBook {
	b := &addressBook{lookup: lookup, file: file, log: log, names: make(map[string]*addresses)}
	if file == "" {
		return b
	}
	known, err := readAddressBook(file)
	if err != nil {
		log.Warn("cannot read the last known addresses of endpoints", "err", err)
	}
	for name, found := range known {
		b.names[name] = &addresses{found: found}
	}
	return b
}

func readAddressBook(file string) (map[string][]netip.Addr, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case info.Size() > bookLimit:
		return nil, fmt.Errorf("%s is too large: penstock did not write it", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var known map[string][]netip.Addr
	if err := json.Unmarshal(data, &known); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return known, nil
}

// resolve returns the addresses of a name, or the last good ones if it cannot be resolved.
func (b *addressBook) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(name); err == nil {
		return []netip.Addr{a}, nil
	}
	last, fresh, network := b.last(name)
	if fresh {
		return last, nil
	}
	if len(last) > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askShort)
		defer cancel()
	}
	found, err := b.lookup(ctx, name)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("resolve %s: the name has no address", name)
	}
	if err != nil && len(last) == 0 {
		return nil, err
	}
	if err != nil {
		b.log.Warn("cannot resolve an endpoint; using its last known addresses", "host", name, "err", err)
		found = last
	}
	for i := range found {
		found[i] = found[i].Unmap()
	}
	b.put(name, found, network)
	return slices.Clone(found), nil
}

// last returns the known addresses of a name, whether they are recent enough to skip a look-up, and the network that the host is in.
func (b *addressBook) last(name string) (found []netip.Addr, fresh bool, network int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.names[name]
	if a == nil {
		return nil, false, b.network
	}
	return slices.Clone(a.found), time.Since(a.asked) < askAgain, b.network
}

// put keeps the addresses of a name. If the host has left the network that they were asked for on, they are not recent.
func (b *addressBook) put(name string, found []netip.Addr, network int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	before, now := b.names[name], &addresses{found: found}
	if network == b.network {
		now.asked = time.Now()
	}
	b.names[name] = now
	if b.file == "" || before != nil && sameAddrs(before.found, found) {
		return
	}
	if err := b.writeLocked(); err != nil {
		b.log.Warn("cannot save the addresses of endpoints for the next start", "err", err)
	}
}

// sameAddrs reports whether two lists hold the same addresses in any order: servers shuffle their answers.
func sameAddrs(a, b []netip.Addr) bool {
	order := func(list []netip.Addr) []netip.Addr {
		return slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
	}
	return slices.Equal(order(a), order(b))
}

// writeLocked writes the file.
func (b *addressBook) writeLocked() error {
	known := make(map[string][]netip.Addr, len(b.names))
	for name, a := range b.names {
		known[name] = a.found
	}
	data, err := json.Marshal(known)
	if err != nil {
		return err
	}
	return writeFile(b.file, data)
}

// writeFile replaces a file atomically.
func writeFile(path string, data []byte) error {
	temporary := path + ".new"
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, path)
}

// outdated forces a new look-up of every name, also of those that are being looked up, because the network has changed.
func (b *addressBook) outdated() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.network++
	for _, a := range b.names {
		a.asked = time.Time{}
	}
}
