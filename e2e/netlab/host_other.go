//go:build !linux

package netlab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Host is one machine of the lab. There is none here: every method that can fail returns errors.ErrUnsupported.
type Host struct{ name string }

// Enter calls run: there are no namespaces here.
func Enter(run func() int) int { return run() }

// EnterServing calls run with a listener on a free port of 127.0.0.1, or nil.
func EnterServing(run func(outside net.Listener) int) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return run(nil)
	}
	defer l.Close()
	return run(l)
}

// Available returns ErrUnavailable.
func Available(context.Context) error { return entered() }

func entered() error {
	return fmt.Errorf("%w: network namespaces: %w", ErrUnavailable, errors.ErrUnsupported)
}

func newHost(context.Context, string, []string) (*Host, error) { return nil, entered() }

func wire(*Host, string, *Host, string) error { return errors.ErrUnsupported }

func dieWithThread() *syscall.SysProcAttr { return nil }

// Name returns the host's name in the drawing.
func (h *Host) Name() string { return h.name }

// Nsenter returns nil.
func (h *Host) Nsenter() []string { return nil }

// NetworkNamespace returns "".
func (h *Host) NetworkNamespace() string { return "" }

// Close does nothing.
func (h *Host) Close() error { return nil }

// Do returns errors.ErrUnsupported.
func (h *Host) Do(func() error) error { return errors.ErrUnsupported }

// ReadFile returns errors.ErrUnsupported.
func (h *Host) ReadFile(string) ([]byte, error) { return nil, errors.ErrUnsupported }

// WriteFile returns errors.ErrUnsupported.
func (h *Host) WriteFile(string, []byte) error { return errors.ErrUnsupported }

// Sysctl returns errors.ErrUnsupported.
func (h *Host) Sysctl(string, string) error { return errors.ErrUnsupported }

// SetLink returns errors.ErrUnsupported.
func (h *Host) SetLink(string, bool) error { return errors.ErrUnsupported }

// AddAddr returns errors.ErrUnsupported.
func (h *Host) AddAddr(string, netip.Prefix) error { return errors.ErrUnsupported }

// DelAddr returns errors.ErrUnsupported.
func (h *Host) DelAddr(string, netip.Prefix) error { return errors.ErrUnsupported }

// AddRoute returns errors.ErrUnsupported.
func (h *Host) AddRoute(Route) error { return errors.ErrUnsupported }

// DelRoute returns errors.ErrUnsupported.
func (h *Host) DelRoute(Route) error { return errors.ErrUnsupported }

// DialContext returns errors.ErrUnsupported.
func (h *Host) DialContext(context.Context, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// DialFrom returns errors.ErrUnsupported.
func (h *Host) DialFrom(context.Context, netip.Addr, string, string) (net.Conn, error) {
	return nil, errors.ErrUnsupported
}

// Listen returns errors.ErrUnsupported.
func (h *Host) Listen(context.Context, string, string) (net.Listener, error) {
	return nil, errors.ErrUnsupported
}

// ListenPacket returns errors.ErrUnsupported.
func (h *Host) ListenPacket(context.Context, string, string) (net.PacketConn, error) {
	return nil, errors.ErrUnsupported
}

// Capture returns errors.ErrUnsupported.
func (h *Host) Capture(string, ...Endpoint) (*Capture, error) { return nil, errors.ErrUnsupported }

// Blackhole returns errors.ErrUnsupported.
func (h *Host) Blackhole(string, bool) error { return errors.ErrUnsupported }

// Impair returns errors.ErrUnsupported.
func (h *Host) Impair(string, Impairment) (*Impaired, error) { return nil, errors.ErrUnsupported }

// Capture watches one link of a host. There is none here.
type Capture struct{}

// Control returns errors.ErrUnsupported.
func (c *Capture) Control(context.Context, *Host, string) error { return errors.ErrUnsupported }

// Report returns an empty report.
func (c *Capture) Report() Report { return Report{} }

// Stop returns an empty report.
func (c *Capture) Stop() Report { return Report{} }

// Impaired is an impairment in force. There is none here.
type Impaired struct{}

// Close does nothing.
func (i *Impaired) Close() error { return nil }
