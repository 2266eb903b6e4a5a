//go:build unix

package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// NoFollow is a flag for os.OpenFile that refuses a symbolic link. 0: the system has none.
const NoFollow = unix.O_NOFOLLOW

// try takes the lock of a file, unless somebody else has it.
func try(f *os.File) (taken bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	}
	return err == nil, err
}
