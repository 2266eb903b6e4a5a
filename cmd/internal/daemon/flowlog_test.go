package daemon

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

func newFlowLog(t *testing.T, size config.Size, keep int) (*flowLog, prometheus.Counter) {
	t.Helper()
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	l, err := openFlowLog(config.FlowLog{File: filepath.Join(t.TempDir(), "flows.json"), MaxSize: size, Keep: keep}, dropped)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l, dropped
}

// records are the flows in a file.
func records(t *testing.T, path string) []control.Flow {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []control.Flow
	for s := bufio.NewScanner(f); s.Scan(); {
		var r control.Flow
		if err := json.Unmarshal(s.Bytes(), &r); err != nil {
			t.Fatalf("line %q: %v", s.Text(), err)
		}
		list = append(list, r)
	}
	return list
}

func TestAFullFlowLogIsRotated(t *testing.T) {
	l, dropped := newFlowLog(t, 4096, 2)
	for range 100 {
		l.write(control.Flow{ID: "1", Rule: strings.Repeat("r", 200), Generation: 3, Verdict: "block"})
	}
	for _, path := range []string{l.path, l.path + ".1", l.path + ".2"} {
		info, err := os.Stat(path)
		if err != nil || info.Size() > 4096 {
			t.Errorf("%s: got %v, %v; want 4096 bytes at most", path, info.Size(), err)
		}
		for _, r := range records(t, path) {
			if r.Generation != 3 || r.Verdict != "block" {
				t.Errorf("%s: got %+v, want the record whole", path, r)
			}
		}
	}
	if _, err := os.Stat(l.path + ".3"); !os.IsNotExist(err) {
		t.Errorf("a third old file: got %v, want none", err)
	}
	if got := testutil.ToFloat64(dropped); got != 0 {
		t.Errorf("dropped: got %v, want 0", got)
	}
}

func TestAFlowLogThatCannotBeWrittenCountsAndComesBack(t *testing.T) {
	l, dropped := newFlowLog(t, 4096, 1)
	old := l.path + ".1" // a directory with something in it is in the way of the rotation
	if err := os.MkdirAll(filepath.Join(old, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		l.write(control.Flow{Rule: strings.Repeat("r", 200)})
	}
	if got := testutil.ToFloat64(dropped); got == 0 {
		t.Error("dropped: got 0, want what could not be written")
	}
	if err := os.RemoveAll(old); err != nil {
		t.Fatal(err)
	}
	before := testutil.ToFloat64(dropped)
	l.write(control.Flow{ID: "back"})
	if got := testutil.ToFloat64(dropped); got != before {
		t.Errorf("dropped with the way free: got %v, want %v", got, before)
	}
	if list := records(t, l.path); len(list) == 0 || list[len(list)-1].ID != "back" {
		t.Errorf("got %d records, want the last to be the new one", len(list))
	}
}

func TestARecordAfterTheEndIsCounted(t *testing.T) {
	l, dropped := newFlowLog(t, 4096, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.write(control.Flow{})
	if got := testutil.ToFloat64(dropped); got != 1 {
		t.Errorf("dropped: got %v, want 1", got)
	}
}
