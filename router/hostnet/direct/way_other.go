//go:build !linux

package direct

import (
	"errors"
	"net/netip"
)

// WayOf is not available on this system.
func WayOf(netip.AddrPort) (Way, error) { return Way{}, errors.ErrUnsupported }
