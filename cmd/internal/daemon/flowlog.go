package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// flowLog writes a line of JSON for each finished flow, and begins a new file when one is full.
type flowLog struct {
	path    string
	maxSize int64
	keep    int

	dropped prometheus.Counter // records that could not be written

	mu     sync.Mutex // guards below
	file   *os.File   // nil after a rotation that failed
	size   int64
	closed bool
}

func openFlowLog(c config.FlowLog, dropped prometheus.Counter) (*flowLog, error) {
	l := &flowLog{path: c.File, maxSize: int64(c.MaxSize), keep: c.Keep, dropped: dropped}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("flow_log.file: %w", err)
	}
	return l, nil
}

func (l *flowLog) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.file, l.size = f, info.Size()
	return nil
}

// write appends the record of a finished flow. A record that cannot be written is counted and lost: flows don't wait
// for a disk.
func (l *flowLog) write(f control.Flow) {
	line, err := json.Marshal(f)
	if err != nil {
		l.dropped.Inc()
		return
	}
	_, _ = l.Write(append(line, '\n')) // counted there
}

func (l *flowLog) writeLocked(line []byte) error {
	switch {
	case l.closed:
		return os.ErrClosed
	case l.file == nil: // the disk may have room again
		if err := l.open(); err != nil {
			return err
		}
	case l.maxSize > 0 && l.size > 0 && l.size+int64(len(line)) > l.maxSize:
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return err
}

// rotate moves FILE to FILE.1, FILE.1 to FILE.2 and so on, and begins a new FILE.
func (l *flowLog) rotate() error {
	err := l.file.Close()
	l.file = nil
	if err != nil {
		return err
	}
	for i := l.keep; i > 0; i-- {
		from := l.path
		if i > 1 {
			from = fmt.Sprintf("%s.%d", l.path, i-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", l.path, i)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if l.keep == 0 {
		if err := os.Remove(l.path); err != nil {
			return err
		}
	}
	return l.open()
}

// Close closes the file.
func (l *flowLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
