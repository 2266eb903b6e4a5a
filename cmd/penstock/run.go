package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
)

func newRunCommand(e *env) *cobra.Command {
	var file string
	var debug bool
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run penstock in the foreground",
		Long: `Run penstock in the foreground until it is interrupted, and undo what it changed on the host.

SIGHUP reads the configuration again, as penstock reload does.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadNamed(file)
			if err != nil {
				return err
			}
			if e.run == nil {
				return errNotBuilt
			}
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			return e.run(cmd.Context(), c, runOptions{Logger: newLogger(e, debug), Socket: e.socketPath(), Reload: reload})
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVarP(&debug, "debug", "d", false, "log every refused flow and more")
	return cmd
}

// fileFlag adds -c.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `FILE`")
}

// loadNamed loads the configuration that -c names.
func loadNamed(file string) (*config.Config, error) {
	if file == "" {
		return nil, usagef("which configuration? name it with -c FILE")
	}
	return config.Load(file)
}
