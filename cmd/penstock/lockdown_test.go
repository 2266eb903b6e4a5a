package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/kernel"
)

// TestLockdownOffOfAnotherStateFile has a host that is closed, with a state file that does not say so.
func TestLockdownOffOfAnotherStateFile(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("rulez: 1\nfoo: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := filepath.Join(t.TempDir(), "gone.yaml")
	for _, row := range []struct {
		name, table, line string
		code              int
		stdout, stderr    string
		mayLook           error
	}{
		{"nothing closes the host", "", "lockdown off --state host.json", exitOK, "no lockdown was in force\n", "", nil},
		{"a table of another state file", "penstock_pen0", "lockdown off --state host.json", exitFailure, "", "delete it: nft delete table inet penstock_pen0\n", nil},
		{"the same, asked for", "penstock_pen0", "lockdown --state host.json", exitOK, "on: the nftables table penstock_pen0 closes the host, although host.json does not say so", "", nil},
		{"a configuration with faults", "", "lockdown -c " + bad, exitOK, "off: no lockdown is in force\n", `bad.yaml:1:1: unknown key "rulez": did you mean "rules"?` + "\nthis uses the default state file ", nil},
		{"a configuration that is not there", "", "lockdown -c " + gone, exitConfig, "", "there is no file " + gone + "\n", nil},
		{"the same, whose lockdown is lifted", "", "lockdown off -c " + gone, exitOK, "no lockdown was in force\n", "there is no file " + gone + "\nthis uses the default state file ", nil},
		{"the same at boot", "", "lockdown restore -c " + gone, exitOK, "lockdown was in force: the host is closed", "there is no file " + gone + "\nthis uses the default state file ", nil},
		{"somebody who may not look", "", "lockdown --state host.json", exitDegraded, "", "operation not permitted: run this with sudo\n", syscall.EPERM},
		{"somebody who may not look, and wants it open", "", "lockdown off --state host.json", exitDegraded, "", "operation not permitted: run this with sudo\n", syscall.EPERM},
	} {
		var out, errs bytes.Buffer
		e := &env{stdin: strings.NewReader(""), stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
		e.lift = func(string, *slog.Logger) (bool, error) { return false, nil }
		e.restore = func(string, *slog.Logger) (bool, error) { return true, nil }
		e.lockdown = func(context.Context, *config.Config, *slog.Logger) error { return nil }
		e.closed = func(string) (bool, string, error) { return false, row.table, row.mayLook }
		code := execute(t.Context(), e, strings.Fields(row.line))
		if code != row.code || !strings.HasPrefix(out.String(), row.stdout) || !strings.Contains(errs.String(), row.stderr) {
			t.Errorf("%s: got code %d, stdout %q, stderr %q; want %d, %q, %q", row.name, code, out.String(), errs.String(), row.code, row.stdout, row.stderr)
		}
		if row.stdout == "" && out.Len() > 0 || row.stderr == "" && errs.Len() > 0 {
			t.Errorf("%s: got stdout %q and stderr %q, want only one of them", row.name, out.String(), errs.String())
		}
	}
}

// TestLockdownOffUndoesForwardingToo: a host that stays a router is left behind, too.
func TestLockdownOffUndoesForwardingToo(t *testing.T) {
	cleaned := ""
	e := &env{stdin: strings.NewReader(""), stdout: new(bytes.Buffer), stderr: new(bytes.Buffer), getenv: func(string) string { return "" }}
	e.lift = func(string, *slog.Logger) (bool, error) { return true, nil }
	e.closed = func(string) (bool, string, error) { return false, "", nil }
	e.cleanupKernel = func(file string, _ *slog.Logger) error {
		cleaned = file
		return nil
	}
	state := filepath.Join("folder", "host.json")
	if code := execute(t.Context(), e, []string{"lockdown", "off", "--state", state}); code != exitOK || cleaned != kernel.LaptopStateFile(state) {
		t.Errorf("got code %d, and cleaned %q, want %d and %q", code, cleaned, exitOK, kernel.LaptopStateFile(state))
	}
}
