package filelock

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// NoFollow is a flag for os.OpenFile that refuses a symbolic link. 0: the system has none.
const NoFollow = 0

// try takes the lock of a file, unless somebody else has it.
func try(f *os.File) (taken bool, err error) {
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}
