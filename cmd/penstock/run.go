package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/daemon"
	"penstock/cmd/internal/fleet"
	"penstock/cmd/internal/fleet/bundle"
	"penstock/cmd/internal/fleet/store"
	"penstock/cmd/internal/lastgood"
)

func newRunCommand(e *env) *cobra.Command {
	var file, good string
	var debug bool
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run penstock in the foreground",
		Long: `Run penstock in the foreground until it is interrupted, and undo what it changed on the host.

SIGHUP reads the configuration again, as penstock reload does.

With --last-good penstock keeps a copy of each configuration that works, with the files that it
names, in a folder that only its owner can read. If the present configuration has a fault, penstock
runs the copy, and says so in the log and in the status. Mend the fault and run penstock reload.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.run == nil {
				return errNotBuilt
			}
			reload := make(chan os.Signal, 1)
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			o := runOptions{Logger: newLogger(e, debug), Socket: e.socketPath(), Reload: reload}
			o.Sockets = inherit(o.Logger)
			var err error
			if good != "" {
				if o.Good.Dir, err = filepath.Abs(good); err != nil {
					return err
				}
			}
			c, err := loadServing(file, o.Good.Former)
			if err != nil && lacksBundle(file) {
				err = fleet.First(cmd.Context(), file, checkOnly, o.Logger)
				if cmd.Context().Err() != nil { // nothing runs yet, so nothing has to end
					return nil
				}
				if err == nil {
					c, err = loadServing(file, o.Good.Former)
				}
			}
			if err == nil {
				err = unlessStopped(cmd.Context(), e.run(cmd.Context(), c, o), o.Logger)
			}
			if _, faulty := errors.AsType[*config.Error](err); !faulty || good == "" {
				return err
			}
			return runCopy(cmd.Context(), e, file, o, err)
		},
	}
	fileFlag(cmd, &file)
	cmd.Flags().BoolVarP(&debug, "debug", "d", false, "log every refused flow and more")
	cmd.Flags().StringVar(&good, "last-good", "", "keep a copy of the last configuration that worked in `DIR`, and run it while the present one has a fault")
	return cmd
}

// unlessStopped returns the error of a run, but nil if that was told to stop while it started: a service manager would take it for a
// failure, after which the host may have to stay as it is.
func unlessStopped(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() == nil || !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped while starting", "at", err)
	return nil
}

// lacksBundle reports whether the configuration is of a gateway of a fleet that has no bundle yet.
func lacksBundle(file string) bool {
	c, err := config.LoadFleet(file)
	if err != nil || c.Fleet == nil {
		return false
	}
	_, err = bundle.Disk{Dir: c.Fleet.Folder}.Current()
	return errors.Is(err, store.ErrNone)
}

// checkOnly compiles a configuration and runs its tests.
func checkOnly(ctx context.Context, c *config.Config) error {
	_, err := daemon.Check(ctx, c)
	return err
}

// runCopy runs the last configuration that worked, because of a fault of the present one.
func runCopy(ctx context.Context, e *env, file string, o runOptions, fault error) error {
	path, err := filepath.Abs(file)
	if err != nil {
		return fault
	}
	c, kept, err := o.Good.Load(path)
	if errors.Is(err, lastgood.ErrNone) {
		return fault
	}
	if err == nil {
		o.Logger.Error("the configuration has a fault: penstock runs the last good one", "fault", fault.Error(), "of", kept.Format(time.RFC3339))
		o.Fault = fault
		err = unlessStopped(ctx, e.run(ctx, c, o), o.Logger)
	}
	if _, faulty := errors.AsType[*config.Error](err); faulty {
		o.Logger.Error("the last good configuration cannot be run either", "err", err)
		return fault
	}
	return err
}

// fileFlag adds -c.
func fileFlag(cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", "", "configuration `FILE` (default $PENSTOCK_CONFIG)")
}

// loadNamed loads the configuration that -c names.
func loadNamed(file string) (*config.Config, error) {
	if file == "" {
		return nil, usagef("which configuration? name it with -c FILE, or in PENSTOCK_CONFIG")
	}
	return config.Load(file)
}

// loadServing loads the configuration that -c names, in spite of faults in files of peers.
func loadServing(file string, former config.Former) (*config.Config, error) {
	if file == "" {
		return loadNamed(file)
	}
	return config.LoadServing(file, former)
}
