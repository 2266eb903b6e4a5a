//go:build unix

package private

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// open does not wait for somebody to write into a pipe: a pipe that nobody writes into is empty.
func open(path string) (*os.File, error) { return os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) }

// Owner returns who owns a file, as text that differs between owners.
func Owner(info fs.FileInfo) string {
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%d:%d", owner.Uid, owner.Gid)
	}
	return ""
}

// check returns an error if somebody else can read or change an open file: by its mode, or by owning it.
func check(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o027 != 0 {
		return fmt.Errorf("mode %04o of %s lets others read it or its group write it: run: chmod 600 %s", info.Mode().Perm(), path, path)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s is not known", path)
	}
	if uid := os.Geteuid(); owner.Uid != 0 && int(owner.Uid) != uid {
		return fmt.Errorf("%s belongs to user %d, who can change it at any time: run: chown %d %s", path, owner.Uid, uid, path)
	}
	return nil
}
