//go:build !linux

package program

import (
	"errors"
	"net/netip"
)

// Find returns errors.ErrUnsupported.
func Find(string, netip.AddrPort, netip.AddrPort, bool) (Program, error) {
	return Program{}, errors.ErrUnsupported
}
