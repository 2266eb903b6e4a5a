//go:build !release

package demo

import (
	"bytes"
	"strings"
	"testing"
)

func TestFleetOverMemoryGoesAsPromisedWithAnEngine(t *testing.T) {
	var out, progress bytes.Buffer
	if err := RunFleet(t.Context(), Options{Memory: true, Stdout: &out, Stderr: &progress}); err != nil {
		t.Fatalf("%v\n%s\n%s", err, progress.String(), out.String())
	}
	if got, want := strings.Count(out.String(), "  ok\n"), 10; got != want {
		t.Errorf("got %d rows as expected, want %d:\n%s", got, want, out.String())
	}
}
