package laptop

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindToDevice makes a socket use one interface only.
func bindToDevice(c syscall.RawConn, name string) error {
	var err error
	if controlErr := c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), name) }); controlErr != nil {
		return controlErr
	}
	if err != nil {
		return fmt.Errorf("bind to %s: %w", name, err)
	}
	return nil
}
