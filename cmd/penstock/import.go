package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
)

func newImportCommand(e *env) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "import FILE [-o CONFIG]",
		Short: "Make a configuration that runs from a wg-quick or .ovpn file",
		Long: `Make a configuration from a wg-quick or .ovpn file. penstock judges all packets and DNS
questions of this machine, and sends through the tunnel what the profile routes there. The profile
stays where it is.

A warning on stderr names each line of the profile that penstock ignores or that is unsafe.
A profile that cannot run is refused with exit code 5.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return importProfile(cmd.Context(), e, args[0], out)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the configuration to this `FILE`, which only you can read (default stdout)")
	return cmd
}

func importProfile(ctx context.Context, e *env, profile, out string) error {
	if e.check == nil {
		return errNotBuilt
	}
	profile, err := filepath.Abs(profile)
	if err != nil {
		return err
	}
	if err := readProfile(profile); err != nil {
		return err
	}
	name := out
	if name == "" {
		name = "stdout"
	}
	text := fmt.Sprintf(`# Made from %s. The whole language: docs/configuration.md
version: 1
profile: %q
# block: [gambling, adult, malware]
# intranet: [corp.example]
metrics: {listen: "127.0.0.1:9477"}
`, filepath.Base(profile), profile)
	if _, err := interruptible(ctx, func() (struct{}, error) { return struct{}{}, checkImported(ctx, e, name, profile, text) }); err != nil {
		return err
	}
	if out == "" {
		_, err := io.WriteString(e.stdout, text)
		return err
	}
	if err := private.WriteNew(out, text); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	fmt.Fprintf(e.stderr, "%s is written; start it with: penstock run -c %s\n", out, out)
	return nil
}

// readProfile reports a file that cannot be read, before anybody asks what is missing from it.
func readProfile(path string) error {
	_, err := private.Read(path, config.MaxFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("import: %w", err)
	case err != nil:
		return exitError{exitConfig, fmt.Errorf("import: %w", err)}
	}
	return nil
}

// checkImported compiles the configuration that was made, as check does, and prints its warnings. Faults lose their places
// in that configuration, which does not exist yet: what is wrong is in the profile, and those of the profile keep theirs.
func checkImported(ctx context.Context, e *env, name, profile, text string) error {
	c, err := config.Parse(name, []byte(text))
	var found checkReport
	place := ""
	if err == nil {
		place = c.Position("profile").String() + ": "
		found, err = e.check(ctx, c)
	}
	if invalid, ok := errors.AsType[*config.Error](err); ok {
		made := &config.Error{}
		for _, f := range invalid.Faults {
			if f.Pos.File == profile {
				made.Faults = append(made.Faults, f)
				continue
			}
			made.Faults = append(made.Faults, config.Fault{Message: strings.TrimPrefix(f.Message, place), Mend: f.Mend})
		}
		return made
	}
	for _, warning := range found.Warnings {
		fmt.Fprintln(e.stderr, "warning:", warning)
	}
	return err
}
