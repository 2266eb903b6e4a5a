package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/router/hostnet"
)

func TestAskedFor(t *testing.T) {
	tests := []struct {
		name   string
		result string
		want   bool
	}{
		{"a stop that worked", "success", true},
		{"a stop that took too long", "timeout", true},
		{"a kill", "signal", false},
		{"a watchdog's bite", "watchdog", false},
		{"a failed start", "exit-code", false},
		{"no service manager", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := askedFor(tt.result); got != tt.want {
				t.Errorf("got %t, want %t", got, tt.want)
			}
		})
	}
}

// TestTheServicesFolderMayBeSomebodyElses: a gateway of an ordinary user is cleaned up, although the folder of the service is not for
// that user to look into.
func TestTheServicesFolderMayBeSomebodyElses(t *testing.T) {
	service := filepath.Dir(config.DefaultStateFile())
	denied := fmt.Errorf("open: %w", fs.ErrPermission)
	for _, row := range []struct {
		name   string
		config *config.Config
		denied string // folder
		want   error
		looked []string
	}{
		{"a folder of its own", &config.Config{StateDir: "own"}, service, nil, []string{"own", service}},
		{"its own is somebody else's", &config.Config{StateDir: "own"}, "own", denied, []string{"own"}},
		{"the service's is its own", &config.Config{StateDir: service}, service, denied, []string{service}},
		{"no configuration", nil, service, denied, []string{service}},
	} {
		t.Run(row.name, func(t *testing.T) {
			var looked []string
			e := &env{stderr: io.Discard, getenv: func(string) string { return "" }, cleanupKernel: func(file string, _ *slog.Logger) error {
				dir := filepath.Dir(file)
				looked = append(looked, dir)
				if dir == row.denied {
					return denied
				}
				return nil
			}}
			if err := e.cleanGateway(row.config); err != row.want || !slices.Equal(looked, row.looked) {
				t.Errorf("got %v after %v, want %v after %v", err, looked, row.want, row.looked)
			}
		})
	}
}

// TestWhatARunningPenstockHoldsIsNotCleanedUp: the error says what to do instead.
func TestWhatARunningPenstockHoldsIsNotCleanedUp(t *testing.T) {
	held := func(string, *slog.Logger) (bool, error) {
		return false, fmt.Errorf("host.json.lock: %w", hostnet.ErrInUse)
	}
	for _, row := range []struct{ line, mend string }{
		{"cleanup --state host.json", "stop that one first"},
		{"lockdown off --state host.json", "stop that one first, or set always_on.lockdown to false"},
	} {
		var errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: &errs, getenv: func(string) string { return "" }, cleanup: held, lift: held}
		e.closed = func(string) (bool, string, error) { return false, "", nil }
		if code := execute(t.Context(), e, strings.Fields(row.line)); code != exitFailure || !strings.Contains(errs.String(), row.mend) {
			t.Errorf("%s: got code %d and %q, want %d and %q", row.line, code, errs.String(), exitFailure, row.mend)
		}
	}
}

// TestCleanupGoesOnAfterAnError: what cannot be undone of one part leaves nothing of the others.
func TestCleanupGoesOnAfterAnError(t *testing.T) {
	fault, cleaned := errors.New("in use"), ""
	e := &env{
		stderr: io.Discard, getenv: func(string) string { return "" },
		cleanupKernel: func(string, *slog.Logger) error { return fault },
		cleanup: func(file string, _ *slog.Logger) (bool, error) {
			cleaned = file
			return false, nil
		},
	}
	cmd := newCleanupCommand(e)
	cmd.SetArgs([]string{"--state", "folder/host.json"})
	if err := cmd.Execute(); !errors.Is(err, fault) || cleaned != "folder/host.json" {
		t.Errorf("got %v, cleaned %q, want %v, and the rest cleaned", err, cleaned, fault)
	}
}
