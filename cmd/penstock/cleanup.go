package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/kernel"
	"penstock/router/hostnet"
)

func newCleanupCommand(e *env) *cobra.Command {
	var f stateFlags
	var stopped bool
	cmd := &cobra.Command{
		Use:   "cleanup [-c FILE | --state FILE]",
		Short: "Undo what a killed penstock left on the host",
		Long: `Undo what a killed penstock left on the host: addresses, routes, rules, firewall tables and
resolver settings, and what was changed so that the kernel forwards, as the state files record
them. Where a state file is lost or damaged, the firewall table tells instead, and what can no longer
be undone is logged. It does nothing where nothing is left. Under lockdown the host stays closed:
"penstock lockdown off" opens it.

With --stopped it is what a service runs after each end (ExecStopPost of systemd): it acts only
if the end was asked for, as SERVICE_RESULT tells. After a crash everything stays as it is, for the
next start to take over.`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if stopped && !askedFor(e.getenv("SERVICE_RESULT")) {
				fmt.Fprintln(e.stderr, "penstock was not asked to stop: the host stays as it is")
				return nil
			}
			c, _ := f.load()
			kernelErr := error(nil) // does not keep the rest from being cleaned up
			if f.state == "" && e.cleanupKernel != nil && (c == nil || c.Listen.TUN == nil) {
				if kernelErr = e.cleanGateway(c); c != nil && c.Listen.WireGuard != nil {
					return kernelErr
				}
			}
			state := f.path(e)
			switch {
			case state == "":
				return kernelErr
			case e.cleanup == nil:
				return errors.Join(kernelErr, errNotBuilt)
			}
			if e.cleanupKernel != nil {
				kernelErr = errors.Join(kernelErr, e.cleanupKernel(kernel.LaptopStateFile(state), newLogger(e, false)))
			}
			closed, err := e.cleanup(state, newLogger(e, false))
			if err == nil && closed && !stopped {
				fmt.Fprintln(e.stderr, `lockdown is in force: the host stays closed until penstock runs, or "penstock lockdown off" opens it`)
			}
			return whileInUse(errors.Join(kernelErr, err), "stop that one first, which undoes what it changed")
		},
	}
	f.add(cmd)
	f.addGood(cmd)
	cmd.Flags().BoolVar(&stopped, "stopped", false, "act only after a stop that was asked for, as systemd tells")
	return cmd
}

// cleanGateway undoes what a killed gateway left on the host. c may be nil. The service's folder counts too, for a configuration that
// is cleaned up from a shell.
func (e *env) cleanGateway(c *config.Config) error {
	log, service := newLogger(e, false), filepath.Dir(config.DefaultStateFile())
	own := c != nil && c.StateDir != service
	if own {
		if err := e.cleanupKernel(kernel.StateFile(c.StateDir), log); err != nil {
			return err
		}
	}
	switch err := e.cleanupKernel(kernel.StateFile(service), log); {
	case errors.Is(err, hostnet.ErrInUse):
		return nil
	case own && errors.Is(err, fs.ErrPermission): // the folder is not the caller's, and was not asked for
		return nil
	default:
		return err
	}
}

// whileInUse adds to an error what to do about a penstock that runs, if that is its reason.
func whileInUse(err error, mend string) error {
	if !errors.Is(err, hostnet.ErrInUse) {
		return err
	}
	return fmt.Errorf("%w: %s", err, mend)
}

// askedFor reports whether a service with this SERVICE_RESULT was told to stop, as opposed to having crashed. It may have been
// killed then, because stopping took too long.
func askedFor(result string) bool { return result == "success" || result == "timeout" }
