//go:build release

package demo

import (
	"io"
	"strings"
	"testing"
)

func TestWithoutAnEngineTheDemoOfAFleetSaysWhereOneIs(t *testing.T) {
	err := RunFleet(t.Context(), Options{Memory: true, Stdout: io.Discard, Stderr: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "go run ./cmd/penstock demo --fleet") {
		t.Errorf("got %v, want an error that says how to get a build that has one", err)
	}
}
