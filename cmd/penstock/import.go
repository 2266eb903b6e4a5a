package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/private"
	"penstock/router/transport/wireguard"
)

func newImportCommand(e *env) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "import FILE [-o CONFIG]",
		Short: "Make a configuration that runs from a wg-quick or .ovpn file",
		Long: `Make a configuration from a wg-quick or .ovpn file: all packets of this machine go through
penstock and that profile, and so do DNS questions. The profile stays where it is.`,
		Args: takes(1, 1),
		RunE: func(_ *cobra.Command, args []string) error {
			return importProfile(e, args[0], out)
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "write the configuration to this `FILE`, which only you can read (default stdout)")
	return cmd
}

func importProfile(e *env, profile, out string) error {
	profile, err := filepath.Abs(profile)
	if err != nil {
		return err
	}
	if err := checkProfile(e, profile); err != nil {
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
	if _, err := config.Parse(name, []byte(text)); err != nil {
		return err
	}
	if out == "" {
		_, err := io.WriteString(e.stdout, text)
		return err
	}
	if err := writeNew(out, text); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	fmt.Fprintf(e.stderr, "%s is written; start it with: penstock run -c %s\n", out, out)
	return nil
}

// checkProfile reads a wg-quick file as its transport will, so that the user hears now what it refuses. An .ovpn file is
// read only when it is used.
func checkProfile(e *env, profile string) error {
	if strings.EqualFold(filepath.Ext(profile), ".ovpn") {
		return nil
	}
	data, err := private.Read(profile, config.MaxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("import: %w", err)
	}
	if err != nil {
		return exitError{exitConfig, fmt.Errorf("import: %w", err)}
	}
	parsed, err := wireguard.ParseConfig(bytes.NewReader(data), profile)
	if err != nil {
		return exitError{exitConfig, err}
	}
	for _, warning := range parsed.Warnings {
		fmt.Fprintln(e.stderr, "warning:", warning)
	}
	return nil
}
