//go:build !linux

package laptop

import (
	"errors"
	"syscall"
)

// bindToDevice returns errors.ErrUnsupported.
func bindToDevice(syscall.RawConn, string) error { return errors.ErrUnsupported }
