package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
)

// newLogger logs to stderr: text to a terminal, JSON to anything else. Under systemd each line begins with its priority.
func newLogger(e *env, debug bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		options.Level = slog.LevelDebug
	}
	if isTerminal(e.stderr) {
		return slog.New(slog.NewTextHandler(e.stderr, options))
	}
	w := e.stderr
	if e.getenv("JOURNAL_STREAM") != "" {
		w = &journal{w: w}
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// complaints returns where errors that end the program go. Under systemd each of their lines has the priority of an error. A
// terminal gets them as they are, because desktops hand JOURNAL_STREAM on to the shells in their terminals.
func (e *env) complaints() io.Writer {
	if e.getenv("JOURNAL_STREAM") == "" || isTerminal(e.stderr) {
		return e.stderr
	}
	return failure{e.stderr}
}

// failure puts the priority of an error before each line.
type failure struct{ w io.Writer }

// Write takes whole lines.
func (f failure) Write(text []byte) (int, error) {
	var marked bytes.Buffer
	for line := range bytes.Lines(text) {
		marked.WriteString("<3>")
		marked.Write(line)
	}
	if _, err := f.w.Write(marked.Bytes()); err != nil {
		return 0, err
	}
	return len(text), nil
}

// journal puts the priority that journald reads before each line: sd-daemon(3).
type journal struct {
	mu sync.Mutex // guards below
	w  io.Writer
}

// Write takes one line, as slog's handlers do.
func (j *journal) Write(line []byte) (int, error) {
	priority := 6 // info
	for level, p := range map[string]int{"DEBUG": 7, "WARN": 4, "ERROR": 3} {
		if bytes.Contains(line, []byte(`"level":"`+level+`"`)) {
			priority = p
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.w.Write(append([]byte("<"+strconv.Itoa(priority)+">"), line...)); err != nil {
		return 0, err
	}
	return len(line), nil
}
