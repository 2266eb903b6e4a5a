package main

import (
	"fmt"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
)

func newCleanupCommand(e *env) *cobra.Command {
	var file, state string
	var stopped bool
	cmd := &cobra.Command{
		Use:   "cleanup [-c FILE | --state FILE]",
		Short: "Undo what a killed penstock left on the host",
		Long: `Undo what a killed penstock left on the host: addresses, routes, rules, firewall tables and
resolver settings, as its state file records them. It does nothing where nothing is left.

With --stopped it is what a service runs after each end (ExecStopPost of systemd): it acts only
if the end was asked for, as SERVICE_RESULT tells. After a crash the host stays closed for the
next start to take over, and in lockdown also when stopping took too long.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			lockdown := true // unless the configuration says otherwise
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
				lockdown = c.AlwaysOn.Lockdown
			}
			if stopped && !askedFor(e.getenv("SERVICE_RESULT"), lockdown) {
				fmt.Fprintln(e.stderr, "penstock was not asked to stop: the host stays as it is")
				return nil
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
	cmd.Flags().BoolVar(&stopped, "stopped", false, "act only after a stop that was asked for: for service managers")
	return cmd
}

// askedFor reports whether a service ended because it was asked to: systemd.exec(5) names the results.
func askedFor(result string, lockdown bool) bool {
	return result == "success" || result == "timeout" && !lockdown
}
