package hostnet

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
)

// withDefaults returns c with its defaults, or why it cannot work.
func (c Config) withDefaults() (Config, error) {
	if c.Mark == 0 && c.MarkMask == 0 {
		c.Mark, c.MarkMask = DefaultMark, DefaultMarkMask
	}
	c.Table = cmp.Or(c.Table, DefaultTable)
	c.RulePriority = cmp.Or(c.RulePriority, DefaultRulePriority)
	c.ResolvConf = cmp.Or(c.ResolvConf, DefaultResolvConf)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case c.Interface == "" || len(c.Interface) > 15 || strings.ContainsAny(c.Interface, "/ \t\n") || c.Interface == "." || c.Interface == "..":
		return c, fmt.Errorf("hostnet: interface name %q: want 1 to 15 bytes without space or slash", c.Interface)
	case c.StateFile == "":
		return c, errors.New("hostnet: no state file: without one changes cannot be undone")
	case c.Mark == 0 || c.Mark&^c.MarkMask != 0:
		return c, fmt.Errorf("hostnet: mark %#x does not fit in mask %#x", c.Mark, c.MarkMask)
	case c.Table < 1 || c.Table >= 253 && c.Table <= 255:
		return c, fmt.Errorf("hostnet: table %d: want one that the kernel does not use", c.Table)
	case c.RulePriority < 1 || c.RulePriority+rulePriorities > 32766:
		return c, fmt.Errorf("hostnet: rule priority %d: want 1 to %d, before the main table's 32766", c.RulePriority, 32766-rulePriorities)
	}
	return c, nil
}

// check returns why the settings cannot be applied, or nil.
func (s Settings) check() error {
	for _, list := range [...]struct {
		name     string
		prefixes []netip.Prefix
	}{{"address", s.Addresses}, {"captured prefix", s.Capture}, {"excluded prefix", s.Exclude}} {
		for _, p := range list.prefixes {
			if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
				return fmt.Errorf("hostnet: %s %s is not a plain IPv4 or IPv6 prefix", list.name, p)
			}
		}
	}
	for _, a := range s.DNS {
		if !a.IsValid() || a.Is4In6() {
			return fmt.Errorf("hostnet: DNS server %s is not a plain address", a)
		}
	}
	for _, d := range s.Search {
		if strings.TrimPrefix(d, "~") == "" || strings.ContainsAny(d, " \t\r\n") {
			return fmt.Errorf("hostnet: search domain %q is not a name", d)
		}
	}
	if err := s.checkForward(); err != nil {
		return err
	}
	if s.MTU != 0 && (s.MTU < 576 || s.MTU > 65535) {
		return fmt.Errorf("hostnet: MTU %d: want 576 to 65535", s.MTU)
	}
	switch s.Resolver {
	case "", ResolverAuto, ResolverResolved, ResolverFile, ResolverNone:
		return nil
	}
	return fmt.Errorf("hostnet: resolver %q: want auto, resolved, file or none", s.Resolver)
}

// needTUN reports whether the settings say anything about the TUN.
func (s Settings) needTUN() bool {
	return len(s.Addresses) > 0 || len(s.Capture) > 0 || s.MTU != 0
}

// checkForward returns why settings that forward cannot be applied, or nil.
func (s Settings) checkForward() error {
	switch {
	case s.Forward && (len(s.Capture) > 0 || s.Lockdown || len(s.DNS) > 0):
		return errors.New("hostnet: a TUN whose packets are forwarded captures nothing")
	case s.Forward && len(s.Addresses) == 0:
		return errors.New("hostnet: a TUN whose packets are forwarded needs an address")
	case !s.Forward && len(s.Probes) > 0:
		return fmt.Errorf("hostnet: probes %v without forwarding", s.Probes)
	}
	return nil
}
