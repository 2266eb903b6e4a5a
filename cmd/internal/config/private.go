package config

import (
	"fmt"
	"os"
	"runtime"
)

// CheckPrivate returns an error with the mend if the regular file at path can be read by others or written by its group.
// Modes say nothing on Windows, where every file passes.
func CheckPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if runtime.GOOS == "windows" || !info.Mode().IsRegular() || info.Mode().Perm()&0o027 == 0 {
		return nil
	}
	return fmt.Errorf("mode %04o lets others read it or its group write it: run: chmod 600 %s", info.Mode().Perm(), path)
}
