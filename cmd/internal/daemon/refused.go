package daemon

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"penstock/cmd/internal/config"
)

// refused adds to the system's refusal of what the configuration asks for at a path where that stands. What is taken by
// others (a port, a name) is a fault of the configuration, which can name something else; mend says so where err does
// not. Other refusals, of permission above all, stay of their own kind.
func refused(cfg *config.Config, path, mend string, err error) error {
	taken := []error{syscall.EADDRINUSE, syscall.EADDRNOTAVAIL, syscall.EBUSY, syscall.EEXIST}
	if slices.ContainsFunc(taken, func(t error) bool { return errors.Is(err, t) }) {
		return cfg.Err(path, err.Error(), mend)
	}
	return fmt.Errorf("%s: %w", cfg.Position(path), err)
}
