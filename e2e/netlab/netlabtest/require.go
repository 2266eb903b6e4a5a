// Package netlabtest creates network labs for tests, and skips tests on machines that cannot run one.
//
// It does not build the lab itself: package netlab does.
package netlabtest

import (
	"os"
	"testing"

	"penstock/e2e/netlab"
)

// Require skips the test with the reason if this machine cannot run a lab. With PENSTOCK_REQUIRE_NETNS=1 it fails the test
// instead. TestMain must have called netlab.Enter.
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

// New returns a lab that is closed when the test ends. If this machine cannot run one, it skips or fails the test like Require.
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
