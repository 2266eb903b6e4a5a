package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newCheckCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Check a configuration and run its tests",
		Long: `Check a configuration without running it: its syntax, what it refers to, its rules, and
the tests in it. The exit code is 5 for an invalid configuration and 1 for a test that does not hold.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadNamed(file)
			if err != nil {
				return err
			}
			if e.check == nil {
				return errNotBuilt
			}
			found, err := e.check(cmd.Context(), c)
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
	return cmd
}
