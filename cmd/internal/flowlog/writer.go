package flowlog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
)

const (
	maxWrite    = 64 << 10    // bytes written at once
	reopenPause = time.Second // between two tries to open a file that cannot be opened
	lookPause   = time.Second // between two looks whether the open file is still the one at its path
)

// file is what a writer needs of an *os.File.
type file interface {
	io.WriteCloser
	Stat() (fs.FileInfo, error)
	Truncate(size int64) error
}

// writer writes lines to a file and rotates it. It is used by one goroutine; only abort may be called from others.
type writer struct {
	path     string
	maxSize  int64
	keep     int
	openFile func(path string) (file, error)

	size    int64     // of the file
	regular bool      // neither a pipe nor a device
	torn    bool      // the file does not end with a whole line
	look    time.Time // when to look whether the file is still the one at its path
	retry   time.Time // when to open the file again after a failure
	failure error     // that failure

	mu      sync.Mutex // guards below
	file    file       // nil if it is not open
	aborted bool
}

// openFile opens a log for appending. A pipe without a reader fails at once; it would be waited for otherwise.
func openFile(path string) (file, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|nonblock, 0o640)
}

func (w *writer) name() string { return w.path }

// start opens the file. A pipe that nobody reads is opened later.
func (w *writer) start() error {
	if err := w.open(); err != nil && !isWithoutReader(w.path, err) {
		return err
	}
	return nil
}

// open opens the file. The next record begins a new line, whatever a crash has left at the end.
func (w *writer) open() error {
	f, err := w.openFile(w.path)
	if err != nil {
		return fmt.Errorf("flow log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("flow log: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.aborted {
		f.Close()
		return os.ErrClosed
	}
	w.file, w.size, w.regular = f, info.Size(), info.Mode().IsRegular()
	w.torn = w.regular && w.size > 0 && !endsLine(w.path, w.size)
	return nil
}

// endsLine reports whether the last byte of a file ends a line.
func endsLine(path string, size int64) bool {
	f, err := os.Open(path)
	if err != nil {
		return false // an empty line too many does no harm
	}
	defer f.Close()
	last := make([]byte, 1)
	_, err = f.ReadAt(last, size-1)
	return err == nil && last[0] == '\n'
}

// group returns the first of the lines that are written at once, one or more.
func (w *writer) group(lines [][]byte) [][]byte {
	size := 0
	for i, line := range lines {
		size += len(line)
		if i > 0 && (size > maxWrite || w.maxSize > 0 && w.size+int64(size) > w.maxSize) {
			return lines[:i]
		}
	}
	return lines
}

// write appends lines, all or none of them as far as the file allows.
func (w *writer) write(lines [][]byte) error {
	if err := w.ready(lines); err != nil {
		return err
	}
	var text []byte
	if w.torn {
		text = append(text, '\n')
	}
	for _, line := range lines {
		text = append(text, line...)
	}
	n, err := w.file.Write(text)
	if err == nil {
		w.size += int64(n)
		w.torn = false
		return nil
	}
	if n > 0 && !w.undo(n) {
		w.size += int64(n)
		w.torn = true
	}
	if !w.regular { // a pipe whose reader has left is opened anew
		w.close()
	}
	return fmt.Errorf("flow log: %w", err)
}

// undo takes back n bytes that were written, if they are the end of the file.
func (w *writer) undo(n int) bool {
	info, err := w.file.Stat()
	return err == nil && w.regular && info.Size() == w.size+int64(n) && w.file.Truncate(w.size) == nil
}

// ready opens the file if it is not open, and rotates it if the lines would make it too large.
func (w *writer) ready(lines [][]byte) error {
	now := time.Now()
	if w.file != nil && w.regular && !now.Before(w.look) {
		w.look = now.Add(lookPause)
		if w.moved() {
			w.close() // what is written from here on would be in no file, or in one that is somebody else's now
		}
	}
	if w.file == nil && now.Before(w.retry) {
		return w.failure
	}
	err := w.readyNow(lines)
	if w.file == nil {
		w.retry, w.failure = now.Add(reopenPause), err
	}
	return err
}

// moved reports whether the open file is not the one at its path any more: somebody has deleted or renamed it, or its
// directory.
func (w *writer) moved() bool {
	open, err := w.file.Stat()
	if err != nil {
		return false // the write will tell
	}
	there, err := os.Stat(w.path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(open, there)
}

func (w *writer) readyNow(lines [][]byte) error {
	if w.file == nil { // the disk may have room again, or the pipe a reader
		if err := w.open(); err != nil {
			return err
		}
	}
	size := int64(0)
	for _, line := range lines {
		size += int64(len(line))
	}
	if w.regular && w.maxSize > 0 && w.size > 0 && w.size+size > w.maxSize {
		return w.rotate()
	}
	return nil
}

// rotate renames FILE to FILE.1, FILE.1 to FILE.2 and so on, and begins a new FILE.
func (w *writer) rotate() error {
	w.close()
	for i := w.keep; i > 0; i-- {
		from := w.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", w.path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", w.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("flow log: %w", err)
		}
	}
	if w.keep == 0 {
		if err := os.Remove(w.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("flow log: %w", err)
		}
	}
	return w.open()
}

// close closes the file. An error here is of no use: each record was handed to the system before.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}

// abort closes the file under a write that does not end, and lets no other be opened.
func (w *writer) abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.aborted = true
	if w.file != nil {
		w.file.Close()
	}
}
