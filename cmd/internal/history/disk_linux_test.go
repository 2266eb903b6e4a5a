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
	fill := func(t *testing.T) func() {
		filler := filepath.Join(dir, "filler")
		if os.WriteFile(filler, make([]byte, 8<<20), 0o600) == nil {
			t.Fatal("the disk is not full")
		}
		return func() { os.Remove(filler) }
	}
	for _, row := range []struct {
		sentence string
		spoil    func(t *testing.T) (mend func())
		before   bool // it can be written first
	}{
		{"a disk that becomes full", fill, true},
		{"a disk that is full", fill, false},
		{"a disk that is read-only", func(t *testing.T) func() {
			// The program mount would repeat the owner of the disk as it is outside of the namespace, which the kernel refuses.
			remount := func(flags uintptr) {
				t.Helper()
				if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
					t.Fatalf("remount: %v", err)
				}
			}
			remount(syscall.MS_RDONLY)
			return func() { remount(0) }
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
			if got := f.Trouble(); !strings.HasPrefix(got, c.File+": ") || len(got) < len(c.File)+5 {
				t.Errorf("got the trouble %q, want the file and why", got)
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
			if testutil.ToFloat64(f.metrics.stopped) != 0 || f.Trouble() != "" {
				t.Errorf("got stopped, with %q, want not\n%s", f.Trouble(), f.said)
			}
			f.Close()
		})
	}
}
