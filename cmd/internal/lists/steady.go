package lists

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

// A file that changes while it is read is read this often, with this pause in between.
const (
	steadyAttempts = 5
	steadyPause    = 20 * time.Millisecond
)

var errChanging = errors.New("it changes while it is read: reload when it is written")

// steady reads a file and fails at its end if the file has changed meanwhile: half of a list reads like a shorter list.
type steady struct {
	file   *os.File
	before fs.FileInfo
}

func openSteady(path string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &steady{f, info}, nil
}

// Read returns errChanging in the place of io.EOF if the file has changed.
func (s *steady) Read(p []byte) (int, error) {
	n, err := s.file.Read(p)
	if err != io.EOF {
		return n, err
	}
	now, failed := s.file.Stat()
	if failed != nil || now.Size() != s.before.Size() || !now.ModTime().Equal(s.before.ModTime()) {
		return n, errChanging
	}
	return n, err
}

func (s *steady) Close() error { return s.file.Close() }
