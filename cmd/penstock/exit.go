package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

// Exit codes. Scripts rely on them.
const (
	exitOK         = 0
	exitFailure    = 1
	exitNotRunning = 3 // not running, or down
	exitDegraded   = 4 // degraded, blocked from connecting, or no permission
	exitConfig     = 5 // invalid configuration
	exitBlocked    = 6 // blocked by policy
	// exitUsage is EX_USAGE of sysexits(3). It is not the usual 2, because Go ends a crash with 2: a service manager must be
	// able to tell a wrong command line, which stays wrong, from a crash, after which it starts penstock again.
	exitUsage = 64
)

// exitError is an error with an exit code of its own. With a nil error there is nothing to print.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// usagef is an error in the command line.
func usagef(format string, args ...any) error {
	return exitError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode chooses the code for an error.
func exitCode(err error) int {
	var withCode exitError
	var invalid *config.Error
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &withCode):
		return withCode.code
	case errors.As(err, &invalid):
		return exitConfig
	case errors.Is(err, control.ErrNotRunning):
		return exitNotRunning
	case errors.Is(err, control.ErrNoPermission), errors.Is(err, fs.ErrPermission):
		return exitDegraded
	}
	return exitFailure
}

// report prints an error. The faults of a configuration begin with their place, so that editors find it.
func report(w io.Writer, err error) {
	var withCode exitError
	if errors.As(err, &withCode) && withCode.err == nil {
		return
	}
	text := "penstock: " + printableLines(err.Error(), "  ")
	if invalid, ok := err.(*config.Error); ok {
		text = printableLines(invalid.Error(), "")
	}
	fmt.Fprintln(w, text)
}
