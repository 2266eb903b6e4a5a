package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
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

func TestATable(t *testing.T) {
	var b bytes.Buffer
	if err := table(&b, [][]string{{"A", "B"}, {"longer", ""}}); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), "A       B\nlonger  -\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestJSONHasNoCharacterThatControls(t *testing.T) {
	const text = "a\x00\x1b\x7f\u0085\u009b\u202e\u2028\ufeff\U000e0001 ä €"
	var b bytes.Buffer
	if err := printJSON(&b, []string{text}); err != nil {
		t.Fatal(err)
	}
	want := `["a\u0000\u001b\u007f\u0085\u009b\u202e\u2028\ufeff\udb40\udc01 ä €"]` + "\n"
	if got := b.String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	var back []string
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back[0] != text {
		t.Errorf("got back %q, %v; want %q", back, err, text)
	}
}

func TestErrorsOfSeveralLinesKeepThem(t *testing.T) {
	for _, row := range []struct{ text, indent, want string }{
		{"one", "  ", "one"},
		{"one\ntwo\n\tthree\n", "  ", "one\n  two\n  \tthree"},
		{"a.yaml:1:1: no\n    1 | \x1b[2J\n      | ^", "", "a.yaml:1:1: no\n    1 | ?[2J\n      | ^"},
		{"one\r\u2028two", "", "one??two"},
	} {
		if got := printableLines(row.text, row.indent); got != row.want {
			t.Errorf("%q: got %q, want %q", row.text, got, row.want)
		}
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

func TestErrorsThatEndTheProgramHaveTheirPriority(t *testing.T) {
	terminal, err := os.Open(os.DevNull) // a character device, as a terminal is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	journal := func(string) string { return "8:1" }
	var b bytes.Buffer
	e := &env{stderr: &b, getenv: journal}
	report(e.complaints(), errors.New("one\ntwo"))
	if got, want := b.String(), "<3>penstock: one\n<3>  two\n"; got != want {
		t.Errorf("under systemd: got %q, want %q", got, want)
	}
	if e = (&env{stderr: terminal, getenv: journal}); e.complaints() != terminal {
		t.Error("a terminal of a desktop that runs under systemd gets priorities")
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
