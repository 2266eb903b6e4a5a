package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/control"
)

func newConfigCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Print a configuration as it is in force, or the schema of all configurations",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(newConfigShowCommand(e), newConfigSchemaCommand(e))
	return cmd
}

func newConfigShowCommand(e *env) *cobra.Command {
	var file string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show -c FILE",
		Short: "Print a configuration with its short form, includes and defaults written out",
		Long: `Print a configuration as penstock reads it: what profile, block and intranet stand for, the files
that it includes, and every default. The output is a configuration, too, and means the same.

Secrets are not in it: it says where they are. A URL with a password or a token in it is replaced
by [hidden], which penstock check refuses.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := interruptible(cmd.Context(), func() (*config.Config, error) { return loadNamed(file) })
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e.stdout, struct {
					APIVersion string      `json:"apiVersion"`
					Config     config.Show `json:"config"`
				}{control.APIVersion, config.NewShow(c)})
			}
			for _, warning := range c.Warnings() {
				fmt.Fprintln(e.stderr, "warning:", warning)
			}
			_, err = io.WriteString(e.stdout, config.NewShow(c).String())
			return err
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newConfigSchemaCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration file, for editors",
		Long: `Print the JSON Schema (draft 2020-12) of a configuration file. An editor with the YAML language server
completes and checks a file whose first line is

  # yaml-language-server: $schema=penstock.schema.json`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(e.stdout, config.Schema())
			return err
		},
	}
}
