// Package private reads files that hold secrets or decide what is trusted: configurations, keys, passwords.
//
// Such a file must belong to whoever runs penstock, and nobody else may write it or read it. What is looked at is the
// file that was opened, not the path: a file that is swapped in between gains nothing.
//
// It does not look at the folders above a file.
package private

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Read reads a regular file of at most limit bytes. The error says how to mend what is wrong with the file.
func Read(path string, limit int64) ([]byte, error) {
	f, err := open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no file %s: %w", path, fs.ErrNotExist)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("no permission to read %s: run this as its owner or as root: %w", path, fs.ErrPermission)
	case err != nil:
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory: name a file", path)
	case !info.Mode().IsRegular() && !isPipe(info):
		return nil, fmt.Errorf("%s is neither a file nor a pipe", path)
	}
	if info.Mode().IsRegular() {
		if err := check(path, info); err != nil {
			return nil, err
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

// isPipe reports a pipe, as a shell makes one for <(command): whoever made it may hand in secrets by it.
func isPipe(info fs.FileInfo) bool { return info.Mode()&os.ModeNamedPipe != 0 }
