package blocklist

import (
	"errors"
	"fmt"
)

// Reasons to refuse a whole list. A *ListError wraps one of them.
var (
	ErrHTML       = errors.New("this is a web page, not a list")
	ErrEmpty      = errors.New("no entries")
	ErrHalved     = errors.New("fewer than half of the previous entries")
	ErrNeverBlock = errors.New("an entry covers a name that must never be blocked")
	ErrTooLarge   = errors.New("list too large")
	ErrCompressed = errors.New("damaged gzip data")
	ErrPacked     = errors.New("this is an archive or a compressed file, not a list")
)

// ListError says why a list was refused and how to fix it.
type ListError struct {
	List   string // as in Options.List
	Line   int    // 0: the whole file
	Text   string // the entry, or a detail; may be empty
	Mend   string // what the operator can do
	Reason error  // one of the sentinels above
}

func (e *ListError) Error() string {
	s := "list " + e.List
	if e.List == "" {
		s = "list"
	}
	if e.Line > 0 {
		s += fmt.Sprintf(" line %d", e.Line)
	}
	s += ": " + e.Reason.Error()
	if e.Text != "" {
		s += " (" + e.Text + ")"
	}
	if e.Mend != "" {
		s += ": " + e.Mend
	}
	return s
}

func (e *ListError) Unwrap() error { return e.Reason }

// Limits of a list.
const (
	MaxLine         = 4 << 10   // bytes in a line; longer ones are skipped
	DefaultMaxBytes = 256 << 20 // bytes of a list, decompressed; see Options.MaxBytes
)

// plausible checks the report of a list that was read to the end.
func plausible(o *Options, r *Report) error {
	n := r.Entries()
	switch {
	case r.Format == URLs, o.AllowEmpty && n == 0:
		return nil
	case n == 0:
		return &ListError{List: o.List, Reason: ErrEmpty, Text: fmt.Sprintf("read as %s, %d lines", r.Format, r.Lines),
			Mend: "check the address, or set the format"}
	case n < (o.Previous+1)/2:
		return &ListError{List: o.List, Reason: ErrHalved, Text: fmt.Sprintf("%d now, %d before", n, o.Previous),
			Mend: "if the list really shrank, remove the cached copy"}
	}
	return nil
}
