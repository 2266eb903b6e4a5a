package daemon

import (
	"io"
	"log/slog"
)

// Write appends a record, a line. One that cannot be written is counted and lost: questions don't wait for a disk either.
func (l *flowLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writeLocked(line); err != nil {
		l.dropped.Inc()
		return 0, err
	}
	return len(line), nil
}

// queryHandler writes questions into the flow log: its lines, its keys.
func queryHandler(w io.Writer) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey:
			a.Key = "end"
		case slog.LevelKey, slog.MessageKey:
			return slog.Attr{}
		}
		if a.Value.Kind() == slog.KindString && a.Value.String() == "" {
			return slog.Attr{}
		}
		return a
	}})
}
