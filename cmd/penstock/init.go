package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"penstock/cmd/internal/config"
	"penstock/cmd/internal/setup"
	"penstock/router/transport/wireguard"
)

// initOptions are the flags of init.
type initOptions struct {
	file                           string
	profile, endpoint, port        string
	networks, dns, block, intranet []string
	lists                          []string
	yes, dryRun, service           bool
}

func newInitCommand(e *env) *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init [laptop|gateway]",
		Short: "Make the first configuration of this machine",
		Long: `Ask what this machine is for, and write a configuration with comments that penstock check accepts,
and what it needs beside it: a copy of the profile, or the key of a gateway and the folder of its
peers. Nothing that exists is replaced. On a machine with systemd it then offers to start the service.

Each question has a flag. With --yes nothing is asked, and what has no flag takes its default:

  penstock init --profile hq.conf --block gambling,adult --yes
  penstock init gateway --network 10.20.0.0/16 --endpoint vpn.corp.example:51820 --yes

With --yes the service is started only if --service says so.`,
		Args: takes(0, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := o.answers(args)
			if err != nil {
				return err
			}
			given := func(flag string) bool { return cmd.Flags().Changed(flag) }
			_, err = interruptible(cmd.Context(), func() (struct{}, error) { return struct{}{}, initialise(cmd.Context(), e, o, a, given) })
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.file, "file", "", "write the configuration to this `FILE` "+
		"(default /etc/penstock/config.yaml for root, else in your configuration folder)")
	f.StringVar(&o.profile, "profile", "", "laptop: wg-quick or .ovpn `FILE` of the company or provider")
	f.StringSliceVar(&o.block, "block", nil, "`CATEGORIES` to block; built in are "+strings.Join(config.BuiltIn(), ", "))
	f.StringArrayVar(&o.lists, "list", nil, "list of a category to block, `NAME=FILE` or NAME=URL")
	f.StringSliceVar(&o.intranet, "intranet", nil, "`DOMAINS` of the intranet")
	f.StringSliceVar(&o.networks, "network", nil, "gateway: `NETWORKS` behind it that peers may reach")
	f.StringVar(&o.endpoint, "endpoint", "", "gateway: `HOST:PORT` that peers dial")
	f.StringVar(&o.port, "port", "", "gateway: UDP `PORT` on which it listens (default that of --endpoint, or 51820)")
	f.StringSliceVar(&o.dns, "dns", nil, "gateway: `ADDRESSES` of the DNS servers that it asks (default those of this machine)")
	f.BoolVarP(&o.yes, "yes", "y", false, "ask nothing")
	f.BoolVar(&o.dryRun, "dry-run", false, "print the configuration and write nothing")
	f.BoolVar(&o.service, "service", false, "install the service unit, if no package has, and start it now and at each boot")
	return cmd
}

// answers turns the flags into answers.
func (o *initOptions) answers(args []string) (*setup.Answers, error) {
	a := &setup.Answers{Profile: o.profile}
	steps := []func() error{
		func() (err error) {
			if len(args) > 0 {
				a.Purpose, err = setup.ParsePurpose(args[0])
			}
			return err
		},
		func() error { return o.purpose(a) },
		func() error { return a.SetBlock(o.block) },
		func() error { return a.SetIntranet(o.intranet) },
		func() error { return a.SetNetworks(o.networks) },
		func() error { return a.SetDNS(o.dns) },
		func() error {
			if o.port == "" {
				return nil
			}
			return a.SetPort(o.port)
		},
		func() error {
			if o.endpoint == "" {
				return nil
			}
			return a.SetEndpoint(o.endpoint)
		},
	}
	for _, list := range o.lists {
		steps = append(steps, func() error { return a.AddList(list) })
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, usagef("%v", err)
		}
	}
	if a.File = o.file; a.File == "" {
		var err error
		if a.File, err = setup.DefaultFile(os.Geteuid() == 0); err != nil {
			return nil, fmt.Errorf("where does the configuration go? name it with --file FILE: %w", err)
		}
	}
	var err error
	a.File, err = filepath.Abs(a.File)
	return a, err
}

// purpose finds out from the flags what the machine is for.
func (o *initOptions) purpose(a *setup.Answers) error {
	laptop, gateway := o.profile != "", len(o.networks) > 0 || o.endpoint != "" || o.port != "" || len(o.dns) > 0
	switch {
	case a.Purpose == "" && laptop:
		a.Purpose = setup.Laptop
	case a.Purpose == "" && gateway:
		a.Purpose = setup.Gateway
	}
	switch {
	case a.Purpose == setup.Laptop && gateway:
		return fmt.Errorf("--network, --endpoint, --port and --dns are for a gateway")
	case a.Purpose == setup.Gateway && laptop:
		return fmt.Errorf("--profile is for a laptop")
	}
	return nil
}

// initialise asks what is missing, and makes the configuration.
func initialise(ctx context.Context, e *env, o initOptions, a *setup.Answers, given func(string) bool) error {
	if e.check == nil {
		return errNotBuilt
	}
	if err := setup.Free(a.File); err != nil && !o.dryRun {
		return err
	}
	if len(a.DNS) == 0 {
		a.DNS = setup.NameServers("/run/systemd/resolve/resolv.conf", "/etc/resolv.conf")
	}
	asking := !o.yes && canAnswer(e.stdin)
	q := setup.Questions{In: bufio.NewReader(e.stdin), Out: e.stderr}
	if asking {
		if err := a.Ask(q, given); err != nil {
			return err
		}
	}
	if missing := a.Missing(); len(missing) > 0 || !asking && !o.yes && !o.dryRun {
		if !asking && !o.yes && !o.dryRun {
			missing = append(missing, "--yes")
		}
		return usagef("there is nobody to ask: give %s; see penstock init --help", strings.Join(missing, ", "))
	}
	key := func() string { return wireguard.GeneratePrivateKey().Reveal() }
	host := setup.Host{Own: setup.OwnAddresses(), Schema: setup.InstalledSchema(), Key: key}
	p, warnings, err := setup.New(ctx, a, host, func(ctx context.Context, c *config.Config) (setup.Found, error) {
		found, err := e.check(ctx, c)
		return setup.Found{Files: found.Files, Warnings: found.Warnings, Failed: found.Failed}, err
	})
	for _, warning := range warnings {
		fmt.Fprintln(e.stderr, "warning:", warning)
	}
	if err != nil {
		return err
	}
	if o.dryRun {
		_, err := io.WriteString(e.stdout, p.Text)
		return err
	}
	if asking {
		fmt.Fprintf(e.stderr, "\n%s\n", p.Text)
		if yes, err := q.Confirm("Write this to "+p.File, true); err != nil || !yes {
			return orElse(err, fmt.Errorf("nothing was written"))
		}
	}
	made, err := p.Write()
	if err != nil {
		return err
	}
	for _, path := range made {
		fmt.Fprintln(e.stdout, "made", path)
	}
	return offerService(ctx, e, o, a, q, asking)
}

func orElse(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// offerService starts the service if that is wanted, and says what to do next.
func offerService(ctx context.Context, e *env, o initOptions, a *setup.Answers, q setup.Questions, asking bool) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s := setup.Service{Program: program, Config: a.File, Run: setup.RunCommand}
	start := o.service
	if fault := serviceFault(s); fault != nil {
		if start {
			return fmt.Errorf("the configuration is written, and the service cannot run it: %w", fault)
		}
	} else if asking && !start {
		if start, err = q.Confirm("Start penstock as a service, now and at each boot", true); err != nil {
			return err
		}
	}
	if start {
		made, err := s.Start(ctx)
		for _, path := range made {
			fmt.Fprintln(e.stdout, "made", path)
		}
		if err != nil {
			return fmt.Errorf("the configuration is written, and the service did not start: %w", err)
		}
	}
	for _, files := range a.Lists {
		for _, warning := range unitWarnings(a.File, files, start) {
			fmt.Fprintln(e.stderr, "warning:", warning)
		}
	}
	next := []string{"penstock run -c " + a.File + "    # as root"}
	if a.Purpose == setup.Gateway {
		next[0] = "penstock run -c " + a.File
	}
	if start {
		next[0] = "penstock status"
	}
	if a.Purpose == setup.Gateway {
		next = append(next, "penstock peer add NAME --qr -c "+a.File+"    # for each person or device")
	} else if start {
		next = append(next, "penstock flows --denied    # what was blocked")
	} else {
		next = append(next, "penstock status    # in another terminal")
	}
	fmt.Fprintf(e.stdout, "next:\n  %s\n", strings.Join(next, "\n  "))
	return nil
}

// serviceFault says why systemd cannot run the configuration as a service; nil if it can.
func serviceFault(s setup.Service) error {
	if !s.Available() {
		return fmt.Errorf("systemd does not run here")
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("only root can install it")
	}
	for _, warning := range unitWarnings(s.Config, []string{s.Program, s.Config}, true) {
		return fmt.Errorf("%s", warning)
	}
	return s.Fits()
}

// canAnswer reports whether questions reach somebody.
func canAnswer(in io.Reader) bool {
	f, ok := in.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
