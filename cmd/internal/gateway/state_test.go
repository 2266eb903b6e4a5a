package gateway

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"penstock/cmd/internal/config"
)

func TestEachGatewayHasItsOwnState(t *testing.T) {
	dir := t.TempDir()
	load := func(name, stateDir string) *config.Config {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("listen: {tun: {}}\nstate_dir: "+stateDir+"\nrules: {name: rest, do: direct}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := config.Load(path)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	var said strings.Builder
	log := slog.New(slog.NewTextHandler(&said, nil))
	one, two := load("one.yaml", "a/state"), load("two.yaml", "a/state")
	release, err := HoldState(t.Context(), one, log)
	if err != nil {
		t.Fatal(err)
	}
	brief, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errHeld)
	defer cancel()
	if _, err := HoldState(brief, two, log); err == nil || !strings.Contains(err.Error(), "two.yaml:2:") || !strings.Contains(err.Error(), "another penstock uses it: give each gateway a state_dir of its own") {
		t.Errorf("a folder in use: got %v, want where it is said and what to do", err)
	}
	if err := release(); err != nil {
		t.Fatal(err)
	}
	if release, err = HoldState(t.Context(), two, log); err != nil || said.Len() > 0 {
		t.Fatalf("a folder that is free again: got %v, log %q", err, said.String())
	}
	defer release()
	none, err := HoldState(t.Context(), load("three.yaml", "one.yaml/state"), log)
	if err != nil || none() != nil || !strings.Contains(said.String(), filepath.Join("one.yaml", "state")) {
		t.Errorf("a folder that cannot be: got %v, log %q; want the gateway to run, and the log to say so", err, said.String())
	}
}
