package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
)

// TestAStopWhilePenstockStartsIsNoFailure: a service manager that asked for the end must not be told of a failure.
func TestAStopWhilePenstockStartsIsNoFailure(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen: {tun: {}}\nrules: [{name: rest, do: direct}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		name    string
		stopped bool
		fault   error
		code    int
	}{
		{"a stop", true, context.Canceled, exitOK},
		{"a failure after a stop", true, errors.New("something else"), exitFailure},
		{"a failure", false, context.Canceled, exitFailure},
	} {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &errs, stderr: &errs, getenv: func(string) string { return "" }}
		e.run = func(context.Context, *config.Config, runOptions) error {
			if row.stopped {
				stop()
			}
			return fmt.Errorf("configure the host: %w", row.fault)
		}
		if code := execute(ctx, e, []string{"run", "-c", file}); code != row.code {
			t.Errorf("%s: got code %d and %q, want %d", row.name, code, errs.String(), row.code)
		}
	}
}
