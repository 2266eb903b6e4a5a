// Package private reads and writes files that hold secrets or decide what is trusted: configurations, keys, passwords.
//
// Such a file must belong to whoever runs penstock, or to root, and nobody else may write it or read it. What is looked
// at is the file that was opened, not the path: a file that is swapped in between gains nothing. A file that changes
// while it is read is read again.
//
// It does not look at the folders above a file.
package private

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"penstock/policy/textfile"
)

const (
	attempts  = 5                     // to read a file that others are writing
	pause     = 20 * time.Millisecond // between them
	pipeLimit = 10 * time.Second      // for whoever writes into a pipe
)

// Read reads a regular file, or a pipe, of at most limit bytes. The error says how to mend what is wrong with the file.
// Errors for a missing file or permission match fs.ErrNotExist and fs.ErrPermission.
func Read(path string, limit int64) ([]byte, error) {
	for attempt := 1; ; attempt++ {
		data, whole, err := read(path, limit)
		switch {
		case err != nil || whole:
			return data, err
		case attempt == attempts:
			return nil, fmt.Errorf("%s changes while it is read: try again when it is written", path)
		}
		time.Sleep(pause)
	}
}

// ReadText is Read for a file of text, in whatever way its editor writes text.
func ReadText(path string, limit int64) ([]byte, error) {
	data, err := Read(path, limit)
	return textfile.Decode(data), err
}

// read reads a file once. The result is not whole if the file changed meanwhile.
func read(path string, limit int64) (data []byte, whole bool, err error) {
	f, err := open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, &fileError{"there is no file " + path, fs.ErrNotExist}
	case errors.Is(err, fs.ErrPermission):
		return nil, false, &fileError{"no permission to read " + path + ": run this as its owner or as root", fs.ErrPermission}
	case err != nil:
		return nil, false, err
	}
	defer f.Close()
	before, err := f.Stat()
	switch {
	case err != nil:
		return nil, false, err
	case before.IsDir():
		return nil, false, fmt.Errorf("%s is a directory: name a file", path)
	case isPipe(before):
		_ = f.SetReadDeadline(time.Now().Add(pipeLimit)) // where a pipe has no deadline, its writer is waited for
	case !before.Mode().IsRegular():
		return nil, false, fmt.Errorf("%s is neither a file nor a pipe", path)
	default:
		if err := check(path, before); err != nil {
			return nil, false, err
		}
	}
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, false, err
	case int64(len(data)) > limit:
		return nil, false, fmt.Errorf("%s is larger than %d bytes", path, limit)
	case isPipe(before):
		return data, true, nil
	}
	after, err := f.Stat()
	whole = err == nil && int64(len(data)) == after.Size() && after.Size() == before.Size() && after.ModTime().Equal(before.ModTime())
	return data, whole, err
}

// isPipe reports a pipe, as a shell makes one for <(command): whoever made it may hand in secrets by it.
func isPipe(info fs.FileInfo) bool { return info.Mode()&os.ModeNamedPipe != 0 }

// fileError is an error of package fs in words that name the mend.
type fileError struct {
	text string
	kind error
}

func (e *fileError) Error() string { return e.text }
func (e *fileError) Unwrap() error { return e.kind }
