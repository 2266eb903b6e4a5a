//go:build unix

package peerbook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LockFile takes the lock of a file, which it makes, and returns a function that gives it back. The system gives it back
// for a process that dies.
func LockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := share(path, filepath.Dir(path)); err != nil {
		f.Close()
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR):
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("%s: %w", path, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// share lets the group or owner of a folder read what root makes in it, because a gateway that does not run as root reads
// the files that root writes for it. If the group is enough, the owner stays root, so that root trusts the file later.
func share(path, folder string) error {
	info, err := os.Stat(folder)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return nil
	case owner.Gid != 0:
		mode := os.FileMode(0o640)
		if made, err := os.Stat(path); err == nil && made.IsDir() {
			mode = 0o750
		}
		if err := os.Chown(path, -1, int(owner.Gid)); err != nil {
			return err
		}
		return os.Chmod(path, mode)
	case owner.Uid != 0:
		return os.Chown(path, int(owner.Uid), -1)
	}
	return nil
}
