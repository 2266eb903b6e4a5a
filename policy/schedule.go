package policy

import (
	"fmt"
	"strings"
	"time"
)

// window is a span of time that repeats every week.
type window struct {
	days     uint8 // bit 1<<time.Weekday for each day on which it starts
	from, to int   // minutes since midnight; to <= from ends on the next day
}

const minutesPerDay = 24 * 60

// contains uses the wall clock of t's location.
func (w window) contains(t time.Time) bool {
	today := w.days>>t.Weekday()&1 != 0
	m := t.Hour()*60 + t.Minute()
	if w.from < w.to {
		return today && w.from <= m && m < w.to
	}
	yesterday := w.days>>((t.Weekday()+6)%7)&1 != 0
	return today && m >= w.from || yesterday && m < w.to
}

var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseWindow reads "mon-fri 21:00-06:00", days alone, or hours alone.
func parseWindow(s string) (window, error) {
	w := window{days: 0x7f, to: minutesPerDay}
	fields := strings.Fields(strings.ToLower(s))
	if len(fields) == 0 || len(fields) > 2 {
		return w, fmt.Errorf("schedule %q: write days, hours or both, such as %q", s, "mon-fri 21:00-06:00")
	}
	for i, f := range fields {
		var err error
		if strings.Contains(f, ":") {
			w.from, w.to, err = parseHours(f)
		} else if i == 0 {
			w.days, err = parseDays(f)
		} else {
			err = fmt.Errorf("%q is not a span of hours", f)
		}
		if err != nil {
			return w, fmt.Errorf("schedule %q: %w", s, err)
		}
	}
	return w, nil
}

func parseDays(s string) (uint8, error) {
	var days uint8
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, err := parseDay(first)
		if err != nil {
			return 0, err
		}
		b, err := parseDay(last)
		if err != nil {
			return 0, err
		}
		for d := a; ; d = (d + 1) % 7 {
			days |= 1 << d
			if d == b {
				break
			}
		}
	}
	return days, nil
}

func parseDay(s string) (int, error) {
	for i, name := range dayNames {
		if s == name {
			return i, nil
		}
	}
	return 0, fmt.Errorf("%q is not a day: use %s", s, strings.Join(dayNames[:], ", "))
}

func parseHours(s string) (from, to int, err error) {
	a, b, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0, fmt.Errorf("%q is not a span of hours such as 21:00-06:00", s)
	}
	if from, err = parseClock(a); err != nil {
		return 0, 0, err
	}
	if to, err = parseClock(b); err != nil {
		return 0, 0, err
	}
	if from == to {
		return 0, 0, fmt.Errorf("%q is empty: leave out the hours to mean the whole day", s)
	}
	if from == minutesPerDay {
		from = 0
	}
	return from, to, nil
}

func parseClock(s string) (int, error) {
	if s == "24:00" {
		return minutesPerDay, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a time of day such as 06:30", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}
