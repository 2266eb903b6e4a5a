//go:build !linux

package program

import (
	"errors"
	"net/netip"
)

// Finder finds nothing on this system.
type Finder struct{}

// New returns a Finder.
func New() *Finder { return new(Finder) }

// Close does nothing.
func (*Finder) Close() {}

// Sees returns false.
func (*Finder) Sees() bool { return false }

// Find returns errors.ErrUnsupported.
func (*Finder) Find(string, netip.AddrPort, netip.AddrPort, Want) (Program, error) {
	return Program{}, errors.ErrUnsupported
}

// Socket is nothing on this system.
type Socket struct{}

// Look finds nothing.
func (*Finder) Look(string, netip.AddrPort, netip.AddrPort) (Socket, bool) { return Socket{}, false }

// Known returns the zero Program.
func (*Finder) Known(Socket) Program { return Program{} }

// Holder returns the zero Program.
func (*Finder) Holder(Socket, Want) Program { return Program{} }
