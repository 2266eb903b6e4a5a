//go:build !linux

package hostnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
)

// Host is the host side of one penstock. Only Linux has one.
type Host struct{}

// Open returns errors.ErrUnsupported.
func Open(Config) (*Host, error) { return nil, errors.ErrUnsupported }

// Apply returns errors.ErrUnsupported.
func (*Host) Apply(context.Context, Settings) error { return errors.ErrUnsupported }

// Block returns errors.ErrUnsupported.
func (*Host) Block(context.Context, Settings) error { return errors.ErrUnsupported }

// Watch returns errors.ErrUnsupported.
func (*Host) Watch(context.Context) error { return errors.ErrUnsupported }

// OriginalResolvers returns errors.ErrUnsupported.
func (*Host) OriginalResolvers(context.Context) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}

// OriginalSearchDomains returns errors.ErrUnsupported.
func (*Host) OriginalSearchDomains(context.Context) ([]string, error) {
	return nil, errors.ErrUnsupported
}

// Release returns errors.ErrUnsupported.
func (*Host) Release() error { return errors.ErrUnsupported }

// Close returns errors.ErrUnsupported.
func (*Host) Close() error { return errors.ErrUnsupported }

// Cleanup returns errors.ErrUnsupported.
func Cleanup(string, *slog.Logger) error { return errors.ErrUnsupported }

// Control returns a function that returns errors.ErrUnsupported.
func Control(_, _ uint32) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return errors.ErrUnsupported }
}

// Dialer dials outside our TUN. Only Linux has one.
type Dialer struct{}

// NewDialer returns errors.ErrUnsupported.
func NewDialer(DialerConfig) (*Dialer, error) { return nil, errors.ErrUnsupported }

// Control returns errors.ErrUnsupported.
func (*Dialer) Control(string, string, syscall.RawConn) error { return errors.ErrUnsupported }

// DialContext returns errors.ErrUnsupported.
func (*Dialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Reserved reports true: nothing is known of this host's addresses.
func (*Dialer) Reserved(netip.Addr) bool { return true }

// SelfTest returns errors.ErrUnsupported.
func (*Dialer) SelfTest(context.Context) error { return errors.ErrUnsupported }

// Close returns nil.
func (*Dialer) Close() error { return nil }
