//go:build !linux

package pathmon

import (
	"errors"
	"net/netip"
)

// Uplinks returns errors.ErrUnsupported.
func Uplinks(string) ([]string, error) { return nil, errors.ErrUnsupported }

// OnLink returns errors.ErrUnsupported.
func OnLink(string, netip.Addr) (bool, error) { return false, errors.ErrUnsupported }
