package main

import "github.com/spf13/cobra"

func newLockdownCommand(e *env) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "lockdown -c FILE",
		Short: "Close the host until penstock runs, where the configuration says so",
		Long: `Close the host as always_on.lockdown says, and leave it so until penstock runs and takes over, or
penstock cleanup opens it: for early boot, before there is a network. Without always_on.lockdown
it does nothing.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadNamed(file)
			if err != nil {
				return err
			}
			if e.lockdown == nil {
				return errNotBuilt
			}
			return e.lockdown(cmd.Context(), c, newLogger(e, false))
		},
	}
	fileFlag(cmd, &file)
	return cmd
}
