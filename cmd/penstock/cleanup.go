package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
)

func newCleanupCommand(e *env) *cobra.Command {
	var file, state string
	cmd := &cobra.Command{
		Use:   "cleanup [-c FILE | --state FILE]",
		Short: "Undo what a killed penstock left on the host",
		Long: `Undo what a killed penstock left on the host: addresses, routes, rules, firewall tables and
resolver settings, as its state file records them. It does nothing where nothing is left.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file != "" && state != "" {
				return usagef("both -c and --state name the state file: keep one of them")
			}
			if file != "" {
				c, err := config.Load(file)
				if err != nil {
					return err
				}
				if c.Listen.TUN == nil {
					fmt.Fprintln(e.stderr, file, "has no listen.tun: penstock changes nothing on the host")
					return nil
				}
				state = c.Listen.TUN.StateFile
			}
			if state == "" {
				state = config.DefaultStateFile()
			}
			if e.cleanup == nil {
				return errNotBuilt
			}
			return e.cleanup(cmd.Context(), state, newLogger(e, false))
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().StringVar(&state, "state", "", "state `FILE` (default that of listen.tun.state_file)")
	return cmd
}
