package hostnet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
)

type Host struct{}

func Open(Config) (*Host, error)                    { return nil, errors.ErrUnsupported }
func (*Host) Apply(context.Context, Settings) error { return errors.ErrUnsupported }
func (*Host) Block(context.Context, Settings) error { return errors.ErrUnsupported }
func (*Host) Watch(context.Context) error           { return errors.ErrUnsupported }
func (*Host) OriginalResolvers(context.Context) ([]netip.Addr, error) {
	return nil, errors.ErrUnsupported
}
func (*Host) Release() error             { return errors.ErrUnsupported }
func (*Host) Close() error               { return errors.ErrUnsupported }
func Cleanup(string, *slog.Logger) error { return errors.ErrUnsupported }
func Control(_, _ uint32) func(network, address string, c syscall.RawConn) error {
	return func(string, string, syscall.RawConn) error { return errors.ErrUnsupported }
}

type Dialer struct{}

func NewDialer(DialerConfig) (*Dialer, error)                 { return nil, errors.ErrUnsupported }
func (*Dialer) Control(string, string, syscall.RawConn) error { return errors.ErrUnsupported }
func (*Dialer) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}
func (*Dialer) Reserved(netip.Addr) bool       { return true }
func (*Dialer) SelfTest(context.Context) error { return errors.ErrUnsupported }
func (*Dialer) Close() error                   { return nil }
