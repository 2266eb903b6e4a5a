package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

func TestExitCodes(t *testing.T) {
	invalid := &config.Error{Faults: []config.Fault{{Message: "wrong"}}}
	for _, row := range []struct {
		name string
		err  error
		want int
	}{
		{"all is well", nil, 0},
		{"a failure", errors.New("no"), 1},
		{"nobody runs", fmt.Errorf("%w: no socket", control.ErrNotRunning), 3},
		{"no right to ask", fmt.Errorf("%w: socket", control.ErrNoPermission), 4},
		{"no right to a file", fmt.Errorf("open: %w", fs.ErrPermission), 4},
		{"a function that is not there is a failure", control.ErrNotOffered, 1},
		{"an invalid configuration", invalid, 5},
		{"an invalid configuration in another error", fmt.Errorf("reload: %w", invalid), 5},
		{"a block", exitError{code: exitBlocked}, 6},
		{"a wrong command line", usagef("what?"), 64},
		{"a wrong command line about a missing right", exitError{exitUsage, fs.ErrPermission}, 64},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := exitCode(row.err)
			if got != row.want {
				t.Errorf("got %d, want %d", got, row.want)
			}
			if got == 2 {
				t.Error("got 2, which is how Go ends a crash")
			}
		})
	}
}

func TestExitCodesOfStatus(t *testing.T) {
	for state, want := range map[string]int{
		"connected": 0, "down": 3, "connecting": 4, "reconnecting": 4, "offline": 4, "blocked": 4, "waiting": 4, "quiesced": 4,
	} {
		if got := statusCode(control.Status{State: state}); got != want {
			t.Errorf("%s: got %d, want %d", state, got, want)
		}
	}
	if got := statusCode(control.Status{State: "connected", Degraded: true}); got != exitDegraded {
		t.Errorf("degraded: got %d, want %d", got, exitDegraded)
	}
}

func TestErrorsArePrintedForPeopleAndEditors(t *testing.T) {
	invalid := &config.Error{Faults: []config.Fault{
		{Pos: config.Position{File: "a.yaml", Line: 2, Column: 3}, Message: "unknown key", Mend: "remove it"},
		{Pos: config.Position{File: "b.yaml"}, Message: "the file is empty"},
	}}
	for _, row := range []struct {
		name string
		err  error
		want string
	}{
		{"a fault begins with its place", invalid, "a.yaml:2:3: unknown key: remove it\nb.yaml: the file is empty\n"},
		{"anything else with the program", errors.New("no"), "penstock: no\n"},
		{"a code alone says nothing", exitError{code: exitBlocked}, ""},
		{"usage", usagef("what?"), "penstock: what?\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			var b bytes.Buffer
			report(&b, row.err)
			if got := b.String(); got != row.want {
				t.Errorf("got %q, want %q", got, row.want)
			}
		})
	}
}
