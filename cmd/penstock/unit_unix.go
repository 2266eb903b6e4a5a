//go:build unix

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// systemFolder is where the service unit expects the configuration.
const systemFolder = "/etc/penstock"

// hidden are the folders that deploy/penstock.service hides from penstock, and the setting that does.
var hidden = []struct{ folder, setting string }{
	{"/home", "ProtectHome=yes"}, {"/root", "ProtectHome=yes"}, {"/run/user", "ProtectHome=yes"},
	{"/tmp", "PrivateTmp=yes"}, {"/var/tmp", "PrivateTmp=yes"},
}

// unitWarnings returns a sentence for each file that root can read here and the service unit cannot. They are for the
// configuration of the system, and for any if asked is set.
func unitWarnings(config string, files []string, asked bool) []string {
	if !asked && (os.Geteuid() != 0 || !isBelow(config, systemFolder)) {
		return nil
	}
	var list []string
	for _, file := range slices.Compact(slices.Sorted(slices.Values(files))) {
		if why := unitCannotRead(file); why != "" {
			list = append(list, fmt.Sprintf("the service unit cannot read %s: %s", file, why))
		}
	}
	return list
}

// unitCannotRead says why the service unit cannot read a file, and how to mend that; empty if it can.
func unitCannotRead(file string) string {
	paths := []string{file}
	if real, err := filepath.EvalSymlinks(file); err == nil && real != file {
		paths = append(paths, real)
	}
	for _, path := range paths {
		for _, h := range hidden {
			if isBelow(path, h.folder) {
				return fmt.Sprintf("its %s hides %s: move the file to %s", h.setting, h.folder, systemFolder)
			}
		}
	}
	return closedToRoot(paths[len(paths)-1])
}

// closedToRoot says which file or folder on a path a root without CAP_DAC_OVERRIDE, as that of the unit, cannot open.
func closedToRoot(path string) string {
	need := fs.FileMode(0o004) // to read the file; to pass the folders above it, 1
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return "" // whoever reads it says so
		}
		if err != nil {
			return err.Error()
		}
		owner, ok := info.Sys().(*syscall.Stat_t)
		needed := need
		if ok && owner.Gid == 0 {
			needed <<= 3 // root is in the group
		}
		if ok && owner.Uid != 0 && info.Mode().Perm()&needed == 0 {
			return fmt.Sprintf("%s belongs to user %d and has mode %04o, and the service has no right to pass over that: run: chown root %s", at, owner.Uid, info.Mode().Perm(), at)
		}
		if at == filepath.Dir(at) {
			return ""
		}
		need = 0o001
	}
}

// isBelow reports whether a path is a folder or in it.
func isBelow(path, folder string) bool {
	path = filepath.Clean(path)
	return path == folder || strings.HasPrefix(path, folder+"/")
}
