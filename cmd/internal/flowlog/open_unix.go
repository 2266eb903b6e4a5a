//go:build unix

package flowlog

import (
	"errors"
	"os"
	"syscall"
)

// nonblock makes opening a pipe without a reader fail: open(2), ENXIO.
const nonblock = syscall.O_NONBLOCK

// isWithoutReader reports that path is a pipe that could not be opened because nobody reads it.
func isWithoutReader(path string, err error) bool {
	if !errors.Is(err, syscall.ENXIO) { // a socket gives it too
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}
