package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newCheckCommand(e *env) *cobra.Command {
	var file string
	var unit bool
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration and run its tests",
		Long: `Check a configuration without running it: its syntax, what it refers to, its rules, and
the tests in it. The exit code is 5 for an invalid configuration and 1 for a test that does not hold.

Warnings are on stderr. For a configuration in /etc/penstock that root checks, they name the files
that the service unit will not be able to read; --unit does so for any configuration.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.check == nil {
				return errNotBuilt
			}
			found, err := interruptible(cmd.Context(), func() (checkReport, error) {
				c, err := loadNamed(file)
				if err != nil {
					return checkReport{}, err
				}
				found, err := e.check(cmd.Context(), c)
				found.Warnings = append(found.Warnings, unitWarnings(c.Path, found.Files, unit)...)
				if control.UnknownGroup(c.Control.Group) {
					found.Warnings = append(found.Warnings, fmt.Sprintf("%s: this machine has no group called %s: penstock does not start without it: groupadd --system %s",
						c.Position("control.group"), c.Control.Group, c.Control.Group))
				}
				return found, err
			})
			if err != nil {
				return err
			}
			for _, warning := range found.Warnings {
				fmt.Fprintln(e.stderr, "warning:", warning)
			}
			for _, failed := range found.Failed {
				fmt.Fprintln(e.stderr, failed)
			}
			if n := len(found.Failed); n > 0 {
				return fmt.Errorf("%d of %d tests in %s do not hold", n, found.Tests, file)
			}
			fmt.Fprintf(e.stdout, "%s is good: %d rules, %d tests hold\n", file, found.Rules, found.Tests)
			return nil
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&unit, "unit", false, "warn of files that the service unit cannot read")
	return cmd
}

// interruptible returns the result of f, or an error as soon as ctx ends. Reading files cannot be interrupted: then f is left
// alone, and ends with the process.
func interruptible[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var none T
		return none, errors.New("interrupted")
	}
}
