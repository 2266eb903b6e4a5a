//go:build !linux

package hostnet

import (
	"errors"
	"net/netip"
)

// FindProgram is not known on this system.
func FindProgram(string, netip.AddrPort, netip.AddrPort, bool) (Program, error) {
	return Program{}, errors.ErrUnsupported
}
