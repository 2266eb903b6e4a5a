package laptop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"penstock/cmd/internal/config"
	"penstock/router/hostnet"
	"penstock/router/hostnet/direct"
)

// settings returns the wanted settings of the host.
func (l *Laptop) settings() hostnet.Settings {
	t, always := l.networks.tun(), l.always.Load()
	s := hostnet.Settings{Addresses: t.Address, MTU: t.MTU, LAN: always.LAN == "allow", Lockdown: always.Lockdown}
	if t.Routes == "auto" {
		s.Capture = []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	if t.DNS == "auto" {
		for _, p := range t.ServiceAddrs() {
			s.DNS = append(s.DNS, p.Addr())
		}
		if search := l.search.Load(); search != nil {
			s.Search = *search
		}
	}
	return s
}

// Block closes the host if lockdown is set, before anything else can fail.
func (l *Laptop) Block(ctx context.Context) error {
	if l.net == nil || !l.always.Load().Lockdown {
		return nil
	}
	if err := l.net.Block(ctx, l.settings()); err != nil {
		return fmt.Errorf("lockdown: %w%s", err, mendOf(err))
	}
	return nil
}

// mendOf says how to mend a state file that cannot be written, or returns "" if that is not known.
func mendOf(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return ": make room there; df and df -i show whether blocks or inodes are used up"
	case errors.Is(err, syscall.EROFS):
		return ": make that file system writable, or name another file with listen.tun.state_file"
	case errors.Is(err, fs.ErrPermission):
		return ": it is another user's, so run this as that user or as root"
	case errors.Is(err, hostnet.ErrInUse):
		return ": stop that one first"
	}
	return ""
}

// leave restores the host. Under lockdown the host stays closed, and after a failure it stays as it is, for the next penstock
// to take over: only an explicit order opens it.
func (l *Laptop) leave(failed bool) error {
	if l.net == nil {
		return nil
	}
	if l.net.Closed() {
		l.log.Warn("lockdown: the host stays closed until penstock runs again or \"penstock lockdown off\" opens it")
		if failed {
			return l.net.Release()
		}
	}
	return l.net.Close()
}

// Lockdown closes the host if the configuration sets always_on.lockdown, and leaves it closed. It is for early boot, before there
// is a network and no earlier lockdown to restore. A penstock that starts later takes over. log may be nil.
func Lockdown(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen.TUN == nil || !cfg.AlwaysOn.Lockdown {
		log.Info("always_on.lockdown is not set: the host stays open")
		return nil
	}
	l := &Laptop{cfg: cfg, log: log, networks: newNetworks(cfg.Listen.TUN, nil, log)}
	l.always.Store(&cfg.AlwaysOn)
	if err := l.openHost(); err != nil {
		return err
	}
	if l.net == nil {
		return nil
	}
	if kept := l.networks.kept(); l.networks.free && len(kept) > 0 {
		l.networks.set(kept)
	}
	return errors.Join(l.Block(ctx), l.net.Release())
}

// Search sets the search domains for short names, and passes them to the host's resolver.
func (l *Laptop) Search(ctx context.Context, domains []string) {
	if !l.SetSearch(domains) {
		return
	}
	if err := l.Apply(ctx); err != nil && ctx.Err() == nil {
		l.log.Warn("cannot set the search domains of the host's resolver", "err", err)
	}
}

// SetSearch sets the search domains for short names, and reports whether they changed. The next Apply passes them to the host's
// resolver.
func (l *Laptop) SetSearch(domains []string) (changed bool) {
	before := l.search.Swap(&domains)
	return before == nil && len(domains) > 0 || before != nil && !slices.Equal(*before, domains)
}

// Apply routes the host's packets and DNS questions into the TUN.
func (l *Laptop) Apply(ctx context.Context) error {
	if l.net == nil {
		return nil
	}
	l.applying.Lock()
	defer l.applying.Unlock()
	if err := l.net.Apply(ctx, l.settings()); err != nil {
		return fmt.Errorf("configure the host: %w", err)
	}
	l.host.note(notApplied, nil)
	if l.cfg.Listen.TUN.Routes != "auto" {
		return nil
	}
	if d, ok := l.direct.(*direct.Dialer); ok {
		if err := d.SelfTest(ctx); err != nil {
			return err
		}
	}
	return nil
}

// UseAlwaysOn puts new settings of always_on in force: it closes or opens the host, and the LAN.
func (l *Laptop) UseAlwaysOn(ctx context.Context, a config.AlwaysOn) error {
	before := l.always.Swap(&a)
	if before.Lockdown == a.Lockdown && before.LAN == a.LAN {
		return nil
	}
	if err := l.Apply(ctx); err != nil {
		l.always.Store(before)
		return fmt.Errorf("always_on: %w", err)
	}
	return nil
}

// Watch restores settings that others remove from the host, and recreates the TUN if it is gone, until ctx ends.
func (l *Laptop) Watch(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if l.device != nil {
		wg.Go(func() { l.device.revive(ctx, l.Apply) })
	}
	if l.net == nil {
		<-ctx.Done()
		return nil
	}
	if l.device != nil {
		wg.Go(func() {
			l.networks.follow(ctx, func(ctx context.Context) error {
				l.move()
				if err := l.device.SetAddrs(l.networks.tun().ServiceAddrs()); err != nil {
					return fmt.Errorf("set the addresses behind the TUN: %w", err)
				}
				return l.Apply(ctx)
			})
		})
	}
	return l.net.Watch(ctx)
}
