package quota

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	when, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		t.Fatal(err)
	}
	return when
}

// save does what the gateway does.
func save(b *Book) error {
	text, err := b.Unsaved()
	if err != nil || text == nil {
		return err
	}
	if err := Write(b.path, text); err != nil {
		b.NotSaved()
		return err
	}
	return nil
}

func open(t *testing.T, path string) *Book {
	t.Helper()
	b, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTheClockDecidesWhichMonthCounts(t *testing.T) {
	for name, steps := range map[string][]struct {
		now  string
		want uint64 // before 100 more are added
	}{
		"a new month begins at 0":                      {{"2026-11-30 23:59", 0}, {"2026-12-01 00:00", 0}, {"2026-12-31 12:00", 100}},
		"a clock that is set back a little":            {{"2026-11-30 23:59", 0}, {"2026-12-01 00:00", 0}, {"2026-11-30 23:59", 100}, {"2026-12-01 00:00", 100}},
		"a board that boots in 1970":                   {{"2026-11-30 23:59", 0}, {"1970-01-01 00:00", 100}, {"2026-11-30 23:59", 200}},
		"a board that boots in 1970, after two months": {{"2026-10-30 23:59", 0}, {"2026-11-30 23:59", 0}, {"1970-01-01 00:00", 100}, {"2026-11-30 23:59", 200}},
		"a clock that was in the future for a while":   {{"2026-11-02 00:00", 0}, {"2031-01-02 00:00", 0}, {"2026-11-03 00:00", 100}, {"2026-12-01 00:00", 0}, {"2027-01-01 00:00", 0}, {"2027-01-02 00:00", 100}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state", "quota.json")
			for i, s := range steps {
				b := open(t, path) // restarts change nothing
				if got := b.Used("ana", at(t, s.now)); got != s.want {
					t.Errorf("step %d, at %s: got %d used, want %d", i, s.now, got, s.want)
				}
				b.Add("ana", 100, at(t, s.now))
				if err := save(b); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(open(t, path).content.Months); n > maxMonths {
				t.Errorf("got %d months in the file, want at most %d", n, maxMonths)
			}
		})
	}
}

func TestAClockThatWasInTheFutureAtFirstDoesNotStopTheMonths(t *testing.T) {
	b := open(t, filepath.Join(t.TempDir(), "quota.json"))
	b.Add("ana", 100, at(t, "2031-01-02 00:00"))
	for _, s := range []struct {
		now  string
		want uint64
	}{
		{"2026-11-03 00:00", 100}, {"2026-11-03 23:59", 100}, {"2026-11-04 00:00", 0}, {"2026-11-05 00:00", 100}, {"2026-12-01 00:00", 0},
		{"2031-01-02 00:00", 100}, {"1970-01-01 00:00", 100}, {"2026-12-02 00:00", 100}, {"1970-01-01 23:00", 100},
	} {
		if got := b.Used("ana", at(t, s.now)); got != s.want {
			t.Errorf("at %s: got %d used, want %d", s.now, got, s.want)
		}
		if s.want == 0 {
			b.Add("ana", 100, at(t, s.now))
		}
	}
	if got, want := b.Ends(at(t, "2026-12-02 00:00")), at(t, "2027-01-01 00:00"); !got.Equal(want) {
		t.Errorf("the month ends %v, want %v", got, want)
	}
}

func TestResetIsForOnePeer(t *testing.T) {
	path, now := filepath.Join(t.TempDir(), "quota.json"), at(t, "2026-02-03 00:00")
	b := open(t, path)
	b.Add("ana", 5, now)
	b.Add("bob", 7, now)
	b.Reset("ana", now)
	if err := save(b); err != nil {
		t.Fatal(err)
	}
	b = open(t, path)
	if ana, bob := b.Used("ana", now), b.Used("bob", now); ana != 0 || bob != 7 {
		t.Errorf("got %d and %d, want 0 and 7", ana, bob)
	}
	if got, want := b.Ends(now), at(t, "2026-03-01 00:00"); !got.Equal(want) {
		t.Errorf("the month ends %v, want %v", got, want)
	}
}

func TestAFileThatCannotBeUsedIsSetAside(t *testing.T) {
	for name, text := range map[string]string{
		"empty":              "",
		"cut short":          `{"version":1,"month":"2026-11","mon`,
		"of a newer version": `{"version":2,"month":"2026-11","months":{}}`,
		"no month":           `{"version":1,"month":"2026-11","months":{"yesterday":{}}}`,
		"without its month":  `{"version":1,"month":"2026-11","months":{}}`,
		"negative":           `{"version":1,"month":"2026-11","months":{"2026-11":{"ana":-1}}}`,
		"null":               `{"version":1,"month":"2026-11","months":{"2026-11":null}}`,
	} {
		t.Run(name, func(t *testing.T) {
			path, now := filepath.Join(t.TempDir(), "quota.json"), at(t, "2026-11-03 00:00")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			b, err := Open(path)
			if err == nil || !strings.Contains(err.Error(), path+" cannot be used, and is now "+path+".damaged-") {
				t.Fatalf("got %v, want where the file is now", err)
			}
			aside, _ := filepath.Glob(path + ".damaged-*")
			if len(aside) != 1 {
				t.Fatalf("got %q set aside, want one file", aside)
			}
			if kept, err := os.ReadFile(aside[0]); err != nil || string(kept) != text {
				t.Errorf("set aside: got %q, %v", kept, err)
			}
			b.Add("ana", 9, now)
			if err := save(b); err != nil {
				t.Fatal(err)
			}
			if got := open(t, path).Used("ana", now); got != 9 {
				t.Errorf("after it began anew: got %d used, want 9", got)
			}
		})
	}
}

func TestAFolderThatCannotBeWrittenIsAnErrorEachTime(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b := &Book{path: filepath.Join(file, "quota.json")}
	b.Add("ana", 1, time.Now())
	for range 2 {
		if err := save(b); err == nil {
			t.Fatal("got no error")
		}
	}
	if got := b.Used("ana", time.Now()); got != 1 {
		t.Errorf("got %d used, want 1: it counts on in memory", got)
	}
}
