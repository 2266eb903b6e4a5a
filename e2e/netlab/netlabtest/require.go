// Package netlabtest decides for tests whether a network lab can be had.
//
// It makes no lab itself.
package netlabtest

import (
	"os"
	"testing"

	"penstock/e2e/netlab"
)

// Require skips the test where no lab can be had, with the reason; with PENSTOCK_REQUIRE_NETNS=1 it fails it. TestMain
// must have called netlab.Enter.
func Require(t testing.TB) {
	t.Helper()
	err := netlab.Available(t.Context())
	switch {
	case err == nil:
	case os.Getenv("PENSTOCK_REQUIRE_NETNS") == "1":
		t.Fatalf("PENSTOCK_REQUIRE_NETNS=1: %v", err)
	default:
		t.Skip(err)
	}
}

// New returns a lab that is closed when the test ends, or skips or fails the test as Require does.
func New(t testing.TB, o netlab.Options) *netlab.Lab {
	t.Helper()
	Require(t)
	lab, err := netlab.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Errorf("close lab: %v", err)
		}
	})
	return lab
}
