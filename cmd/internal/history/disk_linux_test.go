package history

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/control"
)

// TestADiskThatCannotBeWritten runs again, in namespaces where it may mount disks.
func TestADiskThatCannotBeWritten(t *testing.T) {
	dir := os.Getenv("PENSTOCK_HISTORY_DISK")
	if dir == "" {
		dir = t.TempDir()
		if out, err := exec.CommandContext(t.Context(), "unshare", "-rm", "mount", "-t", "tmpfs", "none", dir).CombinedOutput(); err != nil {
			t.Skipf("no disk can be mounted in a namespace: %v: %s", err, out)
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "-rm", os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "PENSTOCK_HISTORY_DISK="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	mount := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "mount", args...).CombinedOutput(); err != nil {
			t.Fatalf("mount %q: %v: %s", args, err, out)
		}
	}
	for _, row := range []struct {
		sentence string
		spoil    func(t *testing.T) (mend func())
		before   bool // it can be written first
	}{
		{"a disk that becomes full", func(t *testing.T) func() {
			filler := filepath.Join(dir, "filler")
			if os.WriteFile(filler, make([]byte, 8<<20), 0o600) == nil {
				t.Fatal("the disk is not full")
			}
			return func() { os.Remove(filler) }
		}, true},
		{"a disk that is full", func(t *testing.T) func() {
			filler := filepath.Join(dir, "filler")
			if os.WriteFile(filler, make([]byte, 8<<20), 0o600) == nil {
				t.Fatal("the disk is not full")
			}
			return func() { os.Remove(filler) }
		}, false},
		{"a disk that is read-only", func(*testing.T) func() {
			mount("-o", "remount,ro", dir)
			return func() { mount("-o", "remount,rw", dir) }
		}, false},
	} {
		t.Run(row.sentence, func(t *testing.T) {
			mount("-t", "tmpfs", "-o", "size=3m", "none", dir)
			t.Cleanup(func() { exec.Command("umount", dir).Run() })
			c := Config{File: filepath.Join(dir, "history.db"), retry: 10 * time.Millisecond}
			var f fixture
			var mend func()
			if row.before {
				f = begin(t, c)
				f.Put(flowAt(noon, "first.example"))
				f.flush(t)
				mend = row.spoil(t)
			} else {
				mend = row.spoil(t)
				f = begin(t, c)
			}
			for i := 0; f.lost() == 0 && i < 100; i++ { // the log may have room for a few
				for range 100 {
					f.Put(flowAt(noon, "lost.example"))
				}
				f.flush(t)
			}
			if lost := testutil.ToFloat64(f.metrics.dropped.WithLabelValues("disk")); lost == 0 || testutil.ToFloat64(f.metrics.stopped) != 1 {
				t.Fatalf("got %v lost, and stopped %v, want some and 1\n%s", lost, testutil.ToFloat64(f.metrics.stopped), f.said)
			}
			if row.before && len(f.all(t, control.RecordFilter{Host: "first.example"}, 0)) != 1 {
				t.Error("what was written before cannot be read")
			}
			mend()
			eventually(t, "it is written again", func() bool {
				f.Put(flowAt(noon, "again.example"))
				f.flush(t)
				page, err := f.Records(t.Context(), control.RecordQuery{RecordFilter: control.RecordFilter{Host: "again.example"}})
				return err == nil && len(page.Records) > 0
			})
			if testutil.ToFloat64(f.metrics.stopped) != 0 {
				t.Errorf("got stopped, want not\n%s", f.said)
			}
			f.Close()
		})
	}
}

// TestFiveThousandASecond needs PENSTOCK_SOAK. It prints which share of a core the writer uses.
func TestFiveThousandASecond(t *testing.T) {
	if os.Getenv("PENSTOCK_SOAK") == "" {
		t.Skip("it measures for half a minute: set PENSTOCK_SOAK=1")
	}
	const seconds, each = 30, 5000
	spent := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	resident := func() string {
		text, _ := os.ReadFile("/proc/self/status")
		_, after, _ := strings.Cut(string(text), "VmRSS:")
		line, _, _ := strings.Cut(after, "\n")
		return strings.TrimSpace(line)
	}
	run := func(put func(control.Record)) time.Duration {
		next, before := traffic(1), spent()
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for range seconds * 100 {
			<-tick.C
			for range each / 100 {
				put(next(time.Now()))
			}
		}
		return spent() - before
	}
	without := resident()
	making := run(func(control.Record) {})
	f := begin(t, Config{MaxSize: 16 << 20}) // so small that old records are removed as fast as others come
	all := run(f.Put)
	f.flush(t)
	t.Logf("%d records a second, the oldest removed for them: %.1f %% of a core, without making them; resident %s, before %s; %d lost", each,
		100*(all-making).Seconds()/seconds, resident(), without, f.lost())
	f.Close()
	f = begin(t, Config{})
	all = run(f.Put)
	f.flush(t)
	t.Logf("%d records a second, none removed: %.1f %% of a core; resident %s; %d lost", each, 100*(all-making).Seconds()/seconds, resident(), f.lost())
}
