package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// tempPattern is what files are called while they are written. A glob such as *.yaml does not find them.
const tempPattern = ".penstock-*"

// WriteTemp writes a file of a new name in dir, which only its owner can read, and returns its path.
func WriteTemp(dir, text string) (string, error) {
	f, err := os.CreateTemp(dir, tempPattern)
	if err != nil {
		return "", err
	}
	_, err = f.WriteString(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// WriteNew makes a file that only its owner can read, and that appears whole or not at all. It does not replace one: then the
// error matches fs.ErrExist.
func WriteNew(path, text string) error {
	temp, err := WriteTemp(filepath.Dir(path), text)
	if err != nil {
		return err
	}
	defer os.Remove(temp)
	if err := os.Link(temp, path); errors.Is(err, fs.ErrExist) {
		return &fileError{fmt.Sprintf("there is a file %s already", path), fs.ErrExist}
	} else if err != nil {
		return err
	}
	return nil
}

// Replace makes or replaces a file that only its owner can read, whole or not at all, also if the machine fails meanwhile.
func Replace(path, text string) error {
	dir := filepath.Dir(path)
	temp, err := WriteTemp(dir, text)
	if err != nil {
		return err
	}
	defer os.Remove(temp) // after the rename there is none
	if err := os.Rename(temp, path); err != nil {
		return err
	}
	_ = SyncDir(dir) // a folder that cannot be synchronised stays as it is
	return nil
}

// SyncDir writes the entries of a folder to disk, where the system can.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
