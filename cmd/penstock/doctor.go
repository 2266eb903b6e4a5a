package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/doctor"
)

func newDoctorCommand(e *env) *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor [-c FILE]",
		Short: "Check the host, the configuration and the running penstock, and say how to mend what is wrong",
		Long: `Check the host, the configuration and the running penstock, and say how to mend what is wrong. Nothing is
changed, and it takes at most 10 seconds. It works whether penstock runs or not.

Without -c it looks at the configuration of the running penstock or, if none runs, of the system's.
Run it with sudo: some checks need its rights, and say so if they were not made.

The exit code is 4 if there is a warning or a fault.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := e.examine(cmd.Context(), file)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(e.stdout, control.Findings{APIVersion: control.APIVersion, Findings: list})
			} else {
				err = printFindings(e.stdout, list)
			}
			if err != nil || doctor.IsSound(list) {
				return err
			}
			return exitError{code: exitDegraded}
		},
	}
	fileFlag(cmd, &file)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// examine makes the checks of doctor. file is the configuration that -c names, or "".
func (e *env) examine(ctx context.Context, file string) ([]control.Finding, error) {
	cfg := doctor.Config{
		File: file, Load: func(file string) (*config.Config, error) { return config.LoadServing(file, nil) },
		Slow: func(looks []string) { fmt.Fprintln(e.stderr, "still looking at:", strings.Join(looks, ", ")) },
	}
	if e.check != nil {
		cfg.Check = e.checked
	}
	client, err := e.dial(ctx)
	if err == nil {
		defer client.Close()
		cfg.Running = client
	}
	cfg.Absent = err
	return doctor.New(cfg).Examine(ctx)
}

// checked is what penstock check says of a configuration.
func (e *env) checked(ctx context.Context, c *config.Config) doctor.Checked {
	found, err := e.check(ctx, c)
	out := doctor.Checked{Warnings: append(found.Warnings, unitWarnings(c.Path, found.Files, false)...), Failed: found.Failed}
	if err != nil {
		out.Fault = err.Error()
	}
	return out
}

// printFindings writes a table, and below it how to mend what is wrong.
func printFindings(w io.Writer, list []control.Finding) error {
	list = plain(list)
	rows := [][]string{{"CHECK", "RESULT", "FOUND"}}
	for _, f := range list {
		rows = append(rows, []string{f.Name, f.Result, f.Found})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	for _, f := range list {
		if f.Mend == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "\n%s: %s\n  found: %s\n  mend:  %s\n", f.Result, f.Name, f.Found, f.Mend); err != nil {
			return err
		}
	}
	return nil
}
