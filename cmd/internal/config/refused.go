package config

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
)

// Refused adds the position of a configuration key to an error from the system. If something else already uses the port or
// name that the key sets, the error becomes a fault of the configuration, which can choose another; mend is the advice if err
// has none. Other errors, such as a missing permission, keep their type.
func Refused(cfg *Config, path, mend string, err error) error {
	taken := []error{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EBUSY, syscall.EEXIST}
	if slices.ContainsFunc(taken, func(t error) bool { return errors.Is(err, t) }) {
		return cfg.Err(path, err.Error(), mend)
	}
	return fmt.Errorf("%s: %w", cfg.Position(path), err)
}
