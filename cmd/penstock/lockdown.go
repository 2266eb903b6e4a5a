package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/config"
	"penstock/cmd/internal/kernel"
	"penstock/cmd/internal/lastgood"
)

func newLockdownCommand(e *env) *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use:   "lockdown [-c FILE | --state FILE]",
		Short: "Say whether lockdown keeps the host closed, lift it, or restore it at boot",
		Long: `Say whether lockdown is in force.

With always_on.lockdown: true penstock closes the host, and leaves it closed when it stops, crashes or
cannot start, and after the next boot. To open it, run "penstock lockdown off", or have penstock run
or reload a configuration without the key.`,
		Args: onlyCommands,
		RunE: func(*cobra.Command, []string) error {
			if e.closed == nil {
				return errNotBuilt
			}
			c, fault := f.load()
			if fault != nil && f.isMissing() {
				return fault // an answer about another state file would mislead; off and restore have to work all the same
			}
			state := f.pathIn(e, c, fault)
			if state == "" {
				return nil
			}
			recorded, table, err := e.closed(state)
			switch {
			case err != nil:
				return asRoot(err)
			case recorded && table == "":
				return fmt.Errorf("lockdown is on in %s, but the host is open: its nftables table is gone. "+
					"Start penstock, or close the host with \"penstock lockdown restore\"", state)
			case recorded:
				fmt.Fprintln(e.stdout, "on: the host is closed to everything but penstock")
			case table != "":
				fmt.Fprintln(e.stdout, "on:", unrecorded(table, state))
			default:
				fmt.Fprintln(e.stdout, "off: no lockdown is in force")
			}
			return nil
		},
	}
	f.add(cmd)
	cmd.AddCommand(newLockdownOffCommand(e), newLockdownRestoreCommand(e))
	return cmd
}

func newLockdownOffCommand(e *env) *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use:   "off [-c FILE | --state FILE]",
		Short: "Open a host that lockdown keeps closed while penstock does not run",
		Long: `Open a host that lockdown keeps closed while penstock does not run, and undo what a killed penstock
left on it. While penstock runs, set always_on.lockdown to false in its configuration instead and
run "penstock reload".`,
		Args: takes(0, 0),
		RunE: func(*cobra.Command, []string) error {
			if e.lift == nil || e.closed == nil {
				return errNotBuilt
			}
			state := f.path(e)
			if state == "" {
				return nil
			}
			closed, err := e.lift(state, newLogger(e, false))
			if e.cleanupKernel != nil { // what was changed so that the kernel forwards has a state file of its own
				err = errors.Join(err, e.cleanupKernel(kernel.LaptopStateFile(state), newLogger(e, false)))
			}
			switch {
			case err != nil:
				return whileInUse(asRoot(err), "stop that one first, or set always_on.lockdown to false in its configuration and run penstock reload")
			case !closed:
				switch _, table, err := e.closed(state); {
				case errors.Is(err, fs.ErrPermission): // who may not look cannot say that the host is open
					return asRoot(err)
				case err == nil && table != "":
					return errors.New(unrecorded(table, state))
				}
				fmt.Fprintln(e.stdout, "no lockdown was in force")
				return nil
			}
			fmt.Fprintln(e.stdout, "the host is open")
			if c, err := config.LoadServing(f.configured(), nil); err == nil && c.AlwaysOn.Lockdown {
				fmt.Fprintf(e.stdout, "%s still has always_on.lockdown: true: the next start and the next boot close the host again\n", c.Path)
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

func newLockdownRestoreCommand(e *env) *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use:   "restore [-c FILE | --state FILE]",
		Short: "Close the host again if lockdown was in force: for early boot",
		Long: `Close the host before there is a network, if lockdown was in force when the host went down or if the
configuration sets always_on.lockdown. Until penstock runs and takes over, the host stays closed. If
lockdown was in force, this works without a valid configuration.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if e.restore == nil || e.lockdown == nil {
				return errNotBuilt
			}
			log := newLogger(e, false)
			c, fault := f.load()
			state := f.pathIn(e, c, fault)
			if state == "" {
				return nil
			}
			closed, err := e.restore(state, log)
			switch {
			case err != nil:
				return err
			case closed:
				fmt.Fprintln(e.stdout, "lockdown was in force: the host is closed until penstock runs")
				return nil
			case c == nil:
				return fault
			}
			return e.lockdown(cmd.Context(), c, log)
		},
	}
	f.add(cmd)
	f.addGood(cmd)
	return cmd
}

// asRoot says what to do where only root may look.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: run this with sudo", err)
	}
	return err
}

// unrecorded says which table closes the host although the state file does not say so, and how to open the host.
func unrecorded(table, state string) string {
	return fmt.Sprintf("the nftables table %s closes the host, although %s does not say so: use --state to name the state file "+
		"of the penstock that made the table, or delete it: nft delete table inet %s", table, state, table)
}

// systemConfig is the configuration of the system's penstock.
const systemConfig = "/etc/penstock/config.yaml"

// stateFlags say which state file a command is about.
type stateFlags struct{ file, state, good string }

func (f *stateFlags) add(cmd *cobra.Command) {
	fileFlag(cmd, &f.file)
	cmd.Flags().StringVar(&f.state, "state", "", "state `FILE` of the penstock (default that of the configuration)")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if f.file != "" && f.state != "" {
			return usagef("both -c and --state name the state file: keep one of them")
		}
		return nil
	}
}

// addGood adds --last-good, for what a service runs.
func (f *stateFlags) addGood(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.good, "last-good", "", "while the configuration has a fault, use the copy in `DIR` of the last one that worked")
}

// path returns the state file: --state, or else that of the configuration, or else, if that has a fault, the default. It is ""
// for a configuration that has none, which it says.
func (f *stateFlags) path(e *env) string {
	c, fault := f.load()
	return f.pathIn(e, c, fault)
}

// pathIn is path for what load returned.
func (f *stateFlags) pathIn(e *env, c *config.Config, fault error) string {
	switch {
	case f.state != "":
		return f.state
	case fault != nil:
		first, _, _ := strings.Cut(fault.Error(), "\n")
		fmt.Fprintf(e.stderr, "%s\nthis uses the default state file %s instead of the configuration's: --state names another\n", printable(first), config.DefaultStateFile())
		return config.DefaultStateFile()
	case c == nil:
		return config.DefaultStateFile()
	case c.Listen.TUN == nil && f.file != "":
		fmt.Fprintln(e.stderr, f.file, "has no listen.tun: penstock changes nothing on the host")
		return ""
	case c.Listen.TUN == nil:
		return config.DefaultStateFile()
	}
	return c.Listen.TUN.StateFile
}

// load returns the configuration that -c names, or else the system's if there is one, or else nil. For one with a fault it returns
// the copy that --last-good names. With --state it returns nil.
func (f *stateFlags) load() (*config.Config, error) {
	if f.state != "" {
		return nil, nil
	}
	path := f.configured()
	if _, err := os.Stat(path); f.file == "" && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	c, err := config.LoadServing(path, nil) // whether the host is closed does not hang on a peer
	if err == nil || f.good == "" {
		return c, err
	}
	abs, absErr := filepath.Abs(path)
	dir, dirErr := filepath.Abs(f.good)
	copied, _, copyErr := lastgood.Copy{Dir: dir}.Load(abs)
	if absErr != nil || dirErr != nil || copyErr != nil {
		return nil, err // that of the configuration is the one to mend
	}
	return copied, nil
}

// isMissing reports whether there is no file that -c names.
func (f *stateFlags) isMissing() bool {
	_, err := os.Stat(f.configured())
	return f.file != "" && errors.Is(err, fs.ErrNotExist)
}

// configured returns the configuration that -c names, or the system's.
func (f *stateFlags) configured() string {
	if f.file != "" {
		return f.file
	}
	return systemConfig
}
