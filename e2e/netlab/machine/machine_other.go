//go:build !linux

package machine

import (
	"context"
	"errors"
	"fmt"

	"penstock/e2e/netlab"
)

// Machine is a booted Debian.
type Machine struct{}

// Result is what a program left.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// New always fails: machines need Linux.
func New(context.Context, *netlab.Lab, string) (*Machine, error) {
	return nil, fmt.Errorf("%w: %w", ErrUnavailable, errors.ErrUnsupported)
}

// Available always fails: machines need Linux.
func Available() error { return fmt.Errorf("%w: %w", ErrUnavailable, errors.ErrUnsupported) }

// Close does nothing.
func (m *Machine) Close() error { return nil }

// Boot always fails.
func (m *Machine) Boot(context.Context) error { return errors.ErrUnsupported }

// PowerOff always fails.
func (m *Machine) PowerOff(context.Context) error { return errors.ErrUnsupported }

// Cut always fails.
func (m *Machine) Cut() error { return errors.ErrUnsupported }

// Run always fails.
func (m *Machine) Run(context.Context, string, ...string) (Result, error) {
	return Result{}, errors.ErrUnsupported
}

// Capture always fails.
func (m *Machine) Capture(context.Context, ...netlab.Endpoint) (*netlab.Capture, error) {
	return nil, errors.ErrUnsupported
}

// Write always fails.
func (m *Machine) Write(string, []byte, uint32) error { return errors.ErrUnsupported }

// Read always fails.
func (m *Machine) Read(string) ([]byte, error) { return nil, errors.ErrUnsupported }

// Console returns nothing.
func (m *Machine) Console() string { return "" }
