package clock

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func file(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTimesThatAreSurelyOver(t *testing.T) {
	dir := t.TempDir()
	conf, profile := file(t, dir, "p.yaml", ""), file(t, dir, "hq.conf", "")
	written := time.Date(2031, 5, 6, 7, 8, 9, 0, time.UTC)
	if err := os.Chtimes(profile, written, written); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(dir, "host.json.handshake")
	r := Record{File: kept, Files: func() []string { return []string{conf, profile, filepath.Join(dir, "gone")} }}
	if got := r.Past(); !got.Time.Equal(written) || got.What != profile+" was written" {
		t.Errorf("without a handshake: got %v, %s; want the newest file's", got.Time, got.What)
	}
	for _, text := range []string{"", "2026-11-", "tomorrow\n"} { // what a full disk or a crash leaves
		file(t, dir, "host.json.handshake", text)
		if got := r.Past(); !got.Time.Equal(written) {
			t.Errorf("with the file %q: got %v, want the newest file's", text, got.Time)
		}
	}
	shake := time.Date(2026, 11, 29, 4, 5, 6, 0, time.UTC)
	file(t, dir, "host.json.handshake", "2026-11-29T04:05:06Z\n")
	if got := r.Past(); !got.Time.Equal(shake) || got.What != "the last handshake was" {
		t.Errorf("after a handshake: got %v, %s; want that of the handshake, whatever the files say", got.Time, got.What)
	}
	var out bytes.Buffer
	r.Log = slog.New(slog.NewTextHandler(&out, nil))
	r.tell()
	file(t, dir, "host.json.handshake", time.Now().AddDate(10, 0, 0).UTC().Format(time.RFC3339))
	told := out.String()
	r.tell()
	if got := strings.TrimPrefix(out.String(), told); strings.Count(got, "\n") != 1 || !strings.Contains(got, "the clock reads ") || !strings.Contains(got, "level=WARN") {
		t.Errorf("the clock is ten years behind: got %q, want one warning", got)
	}
	if strings.Contains(told, "clock") != time.Now().Before(shake) {
		t.Errorf("the clock is right: got %q, want nothing", told)
	}
}

func TestTheLastHandshakeIsKept(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "host.json.handshake")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var last time.Time
		shake := func() time.Time { mu.Lock(); defer mu.Unlock(); last = time.Now(); return last }
		r := Record{File: kept, Files: func() []string { return nil }, Last: func() time.Time { mu.Lock(); defer mu.Unlock(); return last }, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		time.Sleep(handshakeLook + time.Second)
		if _, err := os.Stat(kept); err == nil {
			t.Error("there was no handshake, but one is written down")
		}
		want := shake()
		check := func(when string) {
			t.Helper()
			synctest.Wait()
			if got := r.Past().Time; !got.Equal(want.Truncate(time.Second)) {
				t.Errorf("%s: got %v, want %v", when, got, want)
			}
		}
		time.Sleep(handshakeLook)
		check("a minute after a handshake")
		next := shake()
		time.Sleep(2 * handshakeLook)
		check("soon after the next one")
		want = next
		time.Sleep(handshakeKeep)
		check("ten minutes later")
		want = shake()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		check("at the end")
	})
	if err := (Record{Files: func() []string { return nil }}).Run(t.Context()); err != nil {
		t.Errorf("without a file: got %v, want nothing", err)
	}
}

func TestAFullDiskKeepsNoHandshakeAndDoesNoHarm(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := Record{File: filepath.Join(t.TempDir(), "gone", "host.json.handshake"), Files: func() []string { return nil }, Last: time.Now, Log: slog.New(slog.DiscardHandler)}
	if err := r.Run(ctx); err != nil {
		t.Errorf("got %v, want nothing", err)
	}
}
