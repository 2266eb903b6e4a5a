package main

import (
	"bytes"
	"log/slog"
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                  "0.0s",
		400 * time.Millisecond:        "0.4s",
		59 * time.Second:              "59s",
		61 * time.Second:              "1m01s",
		3*time.Hour + 4*time.Minute:   "3h04m",
		50*time.Hour + 30*time.Minute: "2d2h",
	} {
		if got := age(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
	if got, want := ago(time.Now(), time.Time{}), "never"; got != want {
		t.Errorf("the zero time: got %s, want %s", got, want)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 10: "10 KiB", 999 << 10: "999 KiB", 1000 << 10: "1.0 MiB", 1 << 40: "1.0 TiB", 1<<64 - 1: "16 EiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

func TestATerminalIsToldNothingByOthers(t *testing.T) {
	var b bytes.Buffer
	if err := table(&b, [][]string{{"A", "B"}, {"x\x1b[2J\ny", ""}}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "A        B\nx?[2J?y  -\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheJournalGetsPriorities(t *testing.T) {
	var b bytes.Buffer
	e := &env{stderr: &b, getenv: func(name string) string { return map[string]string{"JOURNAL_STREAM": "8:1"}[name] }}
	log := newLogger(e, true)
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log.Log(t.Context(), level, "hello")
	}
	var got []byte
	for line := range bytes.Lines(b.Bytes()) {
		got = append(got, line[:3]...)
	}
	if want := "<7><6><4><3>"; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestParseAt(t *testing.T) {
	now := time.Date(2026, 1, 31, 10, 0, 5, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"":                     {},
		"21:30":                time.Date(2026, 1, 31, 21, 30, 0, 0, time.UTC),
		"2026-02-01T00:00:00Z": time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got, err := parseAt(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}
