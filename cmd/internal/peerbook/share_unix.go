//go:build unix

package peerbook

import (
	"os"
	"syscall"
)

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
