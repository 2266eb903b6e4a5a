// Package filelock takes locks on files, so that one process at a time does something. The system gives the lock of a process back
// when it dies.
package filelock

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// pause is between two tries of a lock that somebody else has.
const pause = 5 * time.Millisecond

// Open takes the lock of the file at path, which it makes with a mode if it is missing. It waits until ctx ends. The file is open for
// writing, because a network file system locks no other.
func Open(ctx context.Context, path string, mode fs.FileMode) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|NoFollow, mode)
	if err != nil {
		return nil, err
	}
	if err := Take(ctx, f); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Take takes the lock of an open file. It waits until ctx ends. Closing the file gives the lock back.
func Take(ctx context.Context, f *os.File) error {
	for {
		taken, err := try(f)
		switch {
		case err != nil:
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		case taken:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock %s: %w", f.Name(), context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}
