package laptop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"penstock/cmd/internal/config"
	"penstock/router/hostnet"
)

// settings are what the host shall look like.
func (l *Laptop) settings() hostnet.Settings {
	t := l.cfg.Listen.TUN
	s := hostnet.Settings{Addresses: t.Address, MTU: t.MTU, LAN: l.cfg.AlwaysOn.LAN == "allow", Lockdown: l.cfg.AlwaysOn.Lockdown}
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
	}
	return s
}

// Block closes the host in lockdown, before anything else can fail.
func (l *Laptop) Block(ctx context.Context) error {
	if l.net == nil || !l.cfg.AlwaysOn.Lockdown {
		return nil
	}
	if err := l.net.Block(ctx, l.settings()); err != nil {
		return fmt.Errorf("lockdown: %w", err)
	}
	return nil
}

// leave gives the host back: as it was, or, after a failure in lockdown, as it is. Only an explicit stop opens it.
func (l *Laptop) leave(failed bool) error {
	switch {
	case l.net == nil:
		return nil
	case failed && l.cfg.AlwaysOn.Lockdown:
		l.log.Warn("lockdown: the host stays closed until penstock runs again, or penstock cleanup opens it")
		return l.net.Release()
	}
	return l.net.Close()
}

// Lockdown closes the host as a configuration with always_on.lockdown says, and leaves it so: for early boot, before there
// is a network. A penstock that runs later takes over. It does nothing without lockdown. log may be nil.
func Lockdown(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if cfg.Listen.TUN == nil || !cfg.AlwaysOn.Lockdown {
		log.Info("always_on.lockdown is not set: nothing is closed")
		return nil
	}
	l := &Laptop{cfg: cfg, log: log}
	if err := l.openHost(); err != nil {
		return err
	}
	if l.net == nil {
		return nil
	}
	return errors.Join(l.Block(ctx), l.net.Release())
}

// Apply leads the host's packets and questions into the TUN. search are the domains that the host's resolver tries
// behind short names.
func (l *Laptop) Apply(ctx context.Context) error {
	if l.net == nil {
		return nil
	}
	if err := l.net.Apply(ctx, l.settings()); err != nil {
		return fmt.Errorf("configure the host: %w", err)
	}
	if l.cfg.Listen.TUN.Routes != "auto" {
		return nil
	}
	if d, ok := l.direct.(*hostnet.Dialer); ok {
		if err := d.SelfTest(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Watch puts back what others remove from the host, and makes the TUN anew when it is gone, until ctx ends.
func (l *Laptop) Watch(ctx context.Context) error {
	if l.net == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { l.revive(ctx) })
	return l.net.Watch(ctx)
}

// linkFailed is called by the stack when it cannot read the TUN any more.
func (l *Laptop) linkFailed(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// reviveEvery is the pause between two tries to make the TUN anew.
const reviveEvery = time.Second

// revive makes the TUN anew whenever it is gone. Nothing leaks meanwhile: what led into it is closed, not open.
func (l *Laptop) revive(ctx context.Context) {
	for {
		var failure error
		select {
		case <-ctx.Done():
			return
		case failure = <-l.failed:
		}
		if l.given != nil || l.cfg.Listen.TUN.FD != nil {
			l.setTrouble("the TUN that penstock was given has failed: restart penstock with a new one")
			continue
		}
		l.log.Error("the TUN is gone; penstock makes it anew", "interface", l.name, "err", failure)
		l.setTrouble("the TUN " + l.name + " is gone; penstock makes it anew")
		for err := l.remake(ctx); err != nil; err = l.remake(ctx) {
			l.log.Error("the TUN could not be made anew; penstock tries again", "interface", l.name, "err", err)
			l.setTrouble("the TUN " + l.name + " is gone and cannot be made anew: " + err.Error())
			select {
			case <-ctx.Done():
				return
			case <-time.After(reviveEvery):
			}
		}
		l.log.Info("the TUN is back", "interface", l.name)
		l.setTrouble("")
	}
}

// remake makes the TUN under its old name, and leads the host into it.
func (l *Laptop) remake(ctx context.Context) error {
	t := *l.cfg.Listen.TUN
	t.Name = l.name
	tun, err := openTUN(&t)
	if err != nil {
		return err
	}
	if err := l.stack.Attach(tun); err != nil {
		return errors.Join(err, tun.Close())
	}
	return l.Apply(ctx)
}

func (l *Laptop) setTrouble(what string) {
	if what == "" {
		l.trouble.Store(nil)
		return
	}
	l.trouble.Store(&what)
}
