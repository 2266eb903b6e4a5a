package clock

import (
	"testing"
	"time"
)

func TestAWrongClockDoesNotEmptyTheHistory(t *testing.T) {
	noon := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	a := Age{Seen: noon}
	now, passed := noon, time.Duration(0)
	run := func(d time.Duration) (at time.Time) {
		for end := passed + d; passed < end; {
			passed, now = passed+time.Minute, now.Add(time.Minute)
			at = a.Now(now, passed)
		}
		return at
	}
	if got := run(time.Hour); !got.Equal(now) {
		t.Errorf("a right clock: got %v, want %v", got, now)
	}
	now = now.AddDate(1, 0, 0)
	if got := run(time.Hour); got.After(noon.Add(27 * time.Hour)) {
		t.Errorf("a clock that is a year ahead for an hour: got %v, want a day ahead at most", got)
	}
	now = now.AddDate(-1, 0, 0)
	if got := run(time.Minute); !got.Equal(now) {
		t.Errorf("a clock that is right again: got %v, want %v", got, now)
	}
	now = now.AddDate(0, 0, -1)
	if got := run(time.Hour); !got.Equal(now) {
		t.Errorf("a clock that is behind: got %v, want %v", got, now)
	}
	now = now.AddDate(0, 0, 30)
	if got := run(25 * time.Hour); !got.Equal(now) {
		t.Errorf("a month later, and a day of running: got %v, want %v", got, now)
	}
	fresh := Age{}
	if got := fresh.Now(time.Unix(0, 0), 0); got.Unix() != 0 {
		t.Errorf("a new history of a machine without a clock: got %v, want 1970", got)
	}
}
