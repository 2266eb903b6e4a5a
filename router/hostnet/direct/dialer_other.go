//go:build !linux

package direct

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// Dialer dials outside our TUN. Only Linux has one.
type Dialer struct{}

// NewDialer returns errors.ErrUnsupported.
func NewDialer(Config) (*Dialer, error) { return nil, errors.ErrUnsupported }

// Control returns errors.ErrUnsupported.
func (*Dialer) Control(string, string, syscall.RawConn) error { return errors.ErrUnsupported }

// DialContext returns errors.ErrUnsupported.
func (*Dialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Reserved reports true: nothing is known about this host's addresses.
func (*Dialer) Reserved(netip.Addr) bool { return true }

// Routed returns false: nothing is known about routes.
func (*Dialer) Routed(netip.Addr) bool { return false }

// SelfTest returns errors.ErrUnsupported.
func (*Dialer) SelfTest(context.Context) error { return errors.ErrUnsupported }

// SetPrefixes does nothing.
func (*Dialer) SetPrefixes([]netip.Prefix) {}

// Marks returns false.
func (*Dialer) Marks() bool { return false }

// Close returns nil.
func (*Dialer) Close() error { return nil }
