package peerbook

import (
	"context"
	"os"
	"path/filepath"

	"penstock/cmd/internal/filelock"
)

// LockFile takes the lock of a file, which it makes for whoever may read its folder, and returns a function that gives it back.
func LockFile(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|filelock.NoFollow, 0o600) // who may only read it can take the lock as well
	if err != nil {
		return nil, err
	}
	if err = share(path, filepath.Dir(path)); err == nil {
		err = filelock.Take(ctx, f)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
