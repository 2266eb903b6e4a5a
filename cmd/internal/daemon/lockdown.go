package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"penstock/cmd/internal/config"
	"penstock/router/hostnet"
)

// settings are what the host shall look like.
func (h *host) settings() hostnet.Settings {
	t := h.cfg.Listen.TUN
	s := hostnet.Settings{Addresses: t.Address, MTU: t.MTU, LAN: h.cfg.AlwaysOn.LAN == "allow", Lockdown: h.cfg.AlwaysOn.Lockdown}
	if t.Routes == "auto" {
		s.Capture = []netip.Prefix{
			netip.PrefixFrom(netip.IPv4Unspecified(), 0),
			netip.PrefixFrom(netip.IPv6Unspecified(), 0),
		}
	}
	if t.DNS == "auto" {
		for _, p := range serviceAddrs(t.Address) {
			s.DNS = append(s.DNS, p.Addr())
		}
	}
	return s
}

// block closes the host in lockdown, before anything else can fail.
func (h *host) block(ctx context.Context) error {
	if h.net == nil || !h.cfg.AlwaysOn.Lockdown {
		return nil
	}
	if err := h.net.Block(ctx, h.settings()); err != nil {
		return fmt.Errorf("lockdown: %w", err)
	}
	return nil
}

// leave gives the host back: as it was, or, after a failure in lockdown, as it is. Only an explicit stop opens it.
func (h *host) leave() error {
	switch {
	case h.net == nil:
		return nil
	case h.failed && h.cfg.AlwaysOn.Lockdown:
		h.log.Warn("lockdown: the host stays closed until penstock runs again, or penstock cleanup opens it")
		return h.net.Release()
	}
	return h.net.Close()
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
	h := &host{cfg: cfg, log: log}
	if err := h.openHost(); err != nil {
		return err
	}
	if h.net == nil {
		return nil
	}
	return errors.Join(h.block(ctx), h.net.Release())
}
