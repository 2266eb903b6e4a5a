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
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/hostnet"
)

// networks are the TUN's own. If the configuration does not name them, networks chooses some that nothing on the host uses, and
// chooses again when the host joins a network that has them.
type networks struct {
	cfg     *config.TUN
	free    bool           // to choose
	inside  []netip.Prefix // behind transports: avoided if possible
	log     *slog.Logger
	now     atomic.Pointer[config.TUN] // the configuration with the addresses in force
	crowded chan struct{}              // capacity 1: the host is connected to one of them
}

// newNetworks returns the networks of a TUN as configured. cfg may be nil.
func newNetworks(cfg *config.TUN, inside []netip.Prefix, log *slog.Logger) *networks {
	n := &networks{cfg: cfg, inside: inside, log: log, crowded: make(chan struct{}, 1)}
	n.now.Store(cfg)
	n.free = cfg != nil && !cfg.AddressGiven && cfg.FD == nil
	return n
}

// sized returns t with an MTU, unless it has one or somebody else made the TUN.
func sized(t *config.TUN, mtu int) *config.TUN {
	const smallest = 1280 // that IPv6 works with
	if t == nil || t.MTU != 0 || t.FD != nil || mtu == 0 {
		return t
	}
	with := *t
	with.MTU = max(mtu, smallest)
	return &with
}

// tun returns listen.tun with the addresses in force; nil without a TUN.
func (n *networks) tun() *config.TUN { return n.now.Load() }

func (n *networks) set(addresses []netip.Prefix) {
	t := *n.cfg
	t.Address = addresses
	n.now.Store(&t)
}

// start chooses addresses and reports whether they are others than the configuration's.
func (n *networks) start() (moved bool) {
	if !n.free {
		return false
	}
	chosen, err := n.choose()
	switch {
	case err != nil:
		n.log.Warn("cannot find out which networks the host uses: the TUN has its default addresses", "err", err)
		return false
	case slices.Equal(chosen, n.cfg.Address):
		return false
	}
	n.log.Info("the TUN does not have its default addresses", "addresses", chosen)
	n.set(chosen)
	return true
}

// crowd reports that the host is connected to one of the networks. It returns false if they must stay. It does not block.
func (n *networks) crowd() bool {
	if !n.free {
		return false
	}
	select {
	case n.crowded <- struct{}{}:
	default:
	}
	return true
}

// follow chooses other networks whenever these are crowded, until ctx ends. put puts them in force everywhere.
func (n *networks) follow(ctx context.Context, put func(context.Context) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.crowded:
		}
		before := n.tun().Address
		chosen, err := n.choose()
		if err != nil {
			n.log.Error("cannot find out which networks the host uses: the TUN keeps its addresses", "err", err)
			continue
		}
		if slices.Equal(chosen, before) {
			continue // that network is gone again, or nothing is free: the status says so
		}
		n.log.Warn("the host joined a network with the addresses of the TUN, which gets others", "before", before, "addresses", chosen)
		n.set(chosen)
		for err := put(ctx); err != nil && ctx.Err() == nil; err = put(ctx) {
			n.log.Error("cannot give the TUN other addresses; trying again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(reviveEvery):
			}
		}
	}
}

// choose returns addresses that nothing on the host uses, and keeps them for the next start.
func (n *networks) choose() ([]netip.Prefix, error) {
	kept := n.kept()
	chosen, err := hostnet.ChooseAddresses(hostnet.Choice{
		Interface: n.cfg.Name, Kept: append(kept, n.tun().Address...), Avoid: n.inside,
	})
	if err != nil {
		return nil, err
	}
	if err := n.keep(kept, chosen); err != nil {
		n.log.Warn("cannot save the addresses of the TUN for the next start", "err", err)
	}
	return chosen, nil
}

// file is where the chosen addresses are kept.
func (n *networks) file() string {
	return filepath.Join(filepath.Dir(n.cfg.StateFile), "addresses.json")
}

// kept returns the addresses of an earlier choice. They are only a preference, so a file that cannot be used counts as none.
func (n *networks) kept() []netip.Prefix {
	data, err := os.ReadFile(n.file())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var kept []netip.Prefix
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		n.log.Warn("cannot read the addresses that the TUN had before; choosing again", "file", n.file(), "err", err)
		return nil
	}
	return kept
}

// keep writes the file if its content changes. The default is kept by having no file.
func (n *networks) keep(kept, chosen []netip.Prefix) error {
	if slices.Equal(chosen, n.cfg.Address) {
		if err := os.Remove(n.file()); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if slices.Equal(chosen, kept) {
		return nil
	}
	data, err := json.Marshal(chosen)
	if err != nil {
		return fmt.Errorf("encode addresses: %w", err)
	}
	return writeFile(n.file(), data)
}
