package blocklist

import (
	"errors"
	"fmt"
)

// Reasons for which a list is refused as a whole. A *ListError wraps one of them.
var (
	ErrHTML         = errors.New("it is a web page and not a list")
	ErrEmpty        = errors.New("it has no entry")
	ErrHalved       = errors.New("it has less than half of the entries it had")
	ErrPublicSuffix = errors.New("an entry covers a whole top-level domain")
	ErrNeverBlock   = errors.New("an entry covers a name that must never be blocked")
	ErrLongLine     = errors.New("a line is too long")
	ErrTooLarge     = errors.New("it is too large")
	ErrCompressed   = errors.New("its compressed data is damaged")
)

// ListError says why a list is refused and what to do about it.
type ListError struct {
	List   string // as in Options.List
	Line   int    // 0 if it is about the whole file
	Text   string // the entry or a few words of fact; may be empty
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

// Limits of a list that cannot be configured away.
const (
	MaxLine         = 4 << 10   // bytes in a line
	DefaultMaxBytes = 256 << 20 // bytes of a list, decompressed
)

// plausible judges a list that has been read to its end.
func plausible(o *Options, r *Report) error {
	n := r.Entries()
	switch {
	case r.Format == URLs, o.AllowEmpty && n == 0:
		return nil
	case n == 0:
		return &ListError{List: o.List, Reason: ErrEmpty, Text: fmt.Sprintf("read as %s, %d lines", r.Format, r.Lines),
			Mend: "check the address, or name the format"}
	case n < (o.Previous+1)/2:
		return &ListError{List: o.List, Reason: ErrHalved, Text: fmt.Sprintf("%d, before %d", n, o.Previous),
			Mend: "if that is right, remove the cached copy"}
	}
	return nil
}
