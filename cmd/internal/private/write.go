package private

import (
	"os"
	"path/filepath"
)

// Write writes a file that only its owner can read. It replaces the file, if there is one, whole or not at all, also if the
// machine fails meanwhile. It makes the folder if there is none.
func Write(path string, data []byte) (err error) {
	folder := filepath.Dir(path)
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(folder, "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if d, err := os.Open(folder); err == nil { // what cannot be opened or synchronised, such as a folder on Windows, stays as it is
		_ = d.Sync()
		d.Close()
	}
	return nil
}
