//go:build !linux

package hostnet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"penstock/router/hostnet/direct"
)

// Host is the host side of one penstock. Only Linux has one.
type Host struct{ Forwarding *Forwarding }

// Forwarding is what Settings.Forward has come to.
type Forwarding struct{}

// Open returns errors.ErrUnsupported.
func Open(Config) (*Host, error) { return nil, errors.ErrUnsupported }

// Apply returns errors.ErrUnsupported.
func (*Host) Apply(context.Context, Settings) error { return errors.ErrUnsupported }

// Block returns errors.ErrUnsupported.
func (*Host) Block(context.Context, Settings) error { return errors.ErrUnsupported }

// Overlap returns errors.ErrUnsupported.
func (*Host) Overlap(context.Context) error { return errors.ErrUnsupported }

// Watch returns errors.ErrUnsupported.
func (*Host) Watch(context.Context) error { return errors.ErrUnsupported }

// OriginalResolvers returns errors.ErrUnsupported.
func (*Host) OriginalResolvers(context.Context) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}

// LAN returns errors.ErrUnsupported.
func (*Host) LAN(context.Context) (map[string][]netip.Prefix, error) {
	return nil, errors.ErrUnsupported
}

// OriginalSearchDomains returns errors.ErrUnsupported.
func (*Host) OriginalSearchDomains(context.Context) ([]string, error) {
	return nil, errors.ErrUnsupported
}

// CleanupForwarding returns errors.ErrUnsupported.
func CleanupForwarding(string, *slog.Logger) error { return errors.ErrUnsupported }

// Release returns errors.ErrUnsupported.
func (*Host) Release() error { return errors.ErrUnsupported }

// Close returns errors.ErrUnsupported.
func (*Host) Close() error { return errors.ErrUnsupported }

// Families returns false.
func (*Forwarding) Families() (v4, v6 bool) { return false, false }

// Sieve returns errors.ErrUnsupported.
func (*Forwarding) Sieve() (string, error) { return "", errors.ErrUnsupported }

// Bar returns errors.ErrUnsupported.
func (*Forwarding) Bar(bool) (string, error) { return "", errors.ErrUnsupported }

// Sends returns false.
func (*Forwarding) Sends(netip.Addr) bool { return false }

// Elsewhere returns false.
func (*Forwarding) Elsewhere(netip.Addr) bool { return false }

// Probed returns errors.ErrUnsupported.
func (*Forwarding) Probed() (begun, left []uint64, err error) { return nil, nil, errors.ErrUnsupported }

// Closed returns false.
func (*Host) Closed() bool { return false }

// Cleanup returns errors.ErrUnsupported.
func Cleanup(string, *slog.Logger) (bool, error) { return false, errors.ErrUnsupported }

// Restore returns errors.ErrUnsupported.
func Restore(string, *slog.Logger) (bool, error) { return false, errors.ErrUnsupported }

// Lift returns errors.ErrUnsupported.
func Lift(string, *slog.Logger) (bool, error) { return false, errors.ErrUnsupported }

// IsClosed returns errors.ErrUnsupported.
func IsClosed(string) (bool, string, error) { return false, "", errors.ErrUnsupported }

// Seal returns errors.ErrUnsupported.
func Seal(Config, Settings) error { return errors.ErrUnsupported }

// ChooseAddresses returns errors.ErrUnsupported.
func ChooseAddresses(Choice) ([]netip.Prefix, error) { return nil, errors.ErrUnsupported }

// Look is not available on this system.
func Look(string) (Left, error) { return Left{}, errors.ErrUnsupported }

// LookForOthers is not available on this system.
func LookForOthers(string) ([]direct.Other, error) { return nil, errors.ErrUnsupported }

// Nftables is not available on this system.
func Nftables() error { return errors.ErrUnsupported }
