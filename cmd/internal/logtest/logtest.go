// Package logtest is a log for tests, which read what is said while others say more.
//
// It does not format: log/slog does.
package logtest

import (
	"bytes"
	"strings"
	"sync"
)

// Log keeps what is written to it. It may be used concurrently, and its zero value is empty.
type Log struct {
	mu   sync.Mutex // guards below
	text bytes.Buffer
}

// Write never fails.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// String returns all that was written so far.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count returns how often text was written so far.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }
