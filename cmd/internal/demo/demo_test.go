package demo

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDemoOverMemoryGoesAsPromised(t *testing.T) {
	var out, progress bytes.Buffer
	if err := Run(t.Context(), Options{Memory: true, Stdout: &out, Stderr: &progress}); err != nil {
		t.Fatalf("%v\n%s\n%s", err, progress.String(), out.String())
	}
	if got, want := strings.Count(out.String(), "  ok\n"), len(rows()); got != want {
		t.Errorf("got %d rows as expected, want %d:\n%s", got, want, out.String())
	}
}
