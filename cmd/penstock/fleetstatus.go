package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/fleet"
)

func newFleetStatusCommand(e *env) *cobra.Command {
	var p place
	var site string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the gateways of a site are",
		Long: `Show how the gateways of a site are: one line that sums up, and then each of them. The gateway that
runs here says what it sees of the others.

PEERS have a session with a gateway, and LOAD is its share of those of its region.

With -c, --dir or --nats the store says it instead, for which nothing has to run here. It takes two
seconds. Nobody checks what the store says.

The exit code is 0 if all gateways serve the newest generation, 4 if not, and 3 if neither a gateway
nor a store has told anything.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := e.askFleet(cmd.Context(), p, site)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(e.stdout, f)
			} else {
				err = printFleet(e.stdout, *f, time.Now())
			}
			if err != nil || fleetGood(*f) {
				return err
			}
			return exitError{code: exitDegraded}
		},
	}
	p.flags(cmd)
	config := cmd.Flags().Lookup("config")
	config.Usage = "ask the store of the fleet section in this configuration `FILE`"
	config.Annotations = map[string][]string{fromEnv: {"no"}}
	cmd.Flags().StringVar(&site, "site", "", "the `NAME` of the site, if --dir or --nats has several")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// askFleet asks the store at a place, or without one the gateway that runs here.
func (e *env) askFleet(ctx context.Context, p place, site string) (*control.Fleet, error) {
	if p.config == "" && p.dir == "" && len(p.nats) == 0 && p.creds == "" && p.nkey == "" && p.ca == "" {
		if site != "" {
			return nil, usagef("--site is for a store: name it with --dir FOLDER or --nats URL")
		}
		s, err := askStatus(ctx, e)
		switch {
		case err != nil:
			return nil, err
		case s.State == "down" && s.Started.IsZero():
			return nil, exitError{exitNotRunning, errors.New("no gateway runs here: ask the store with -c FILE, --dir FOLDER or --nats URL")}
		case s.Fleet == nil:
			return nil, errors.New("the penstock that runs here is alone: its configuration has no fleet section")
		}
		return s.Fleet, nil
	}
	at, err := p.store()
	if err != nil {
		return nil, err
	}
	if len(p.nats) == 0 && p.dir == "" {
		own, err := loadFleet(p.config)
		if err != nil {
			return nil, err
		}
		site = own.Site
	}
	s, closing, err := fleet.OpenStore(ctx, at, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, exitError{exitNotRunning, err}
	}
	defer closing()
	f, err := fleet.Look(ctx, s, site)
	if err != nil {
		return nil, exitError{exitNotRunning, err}
	}
	return f, nil
}

// printFleet prints a fleet, and why something in it is not as it should be.
func printFleet(w io.Writer, f control.Fleet, now time.Time) error {
	f = plain(f)
	if _, err := fmt.Fprintf(w, "site %s\n\n", fleetSummary(f)); err != nil {
		return err
	}
	rows := [][]string{{"GATEWAY", "REGION", "STATE", "GENERATION", "REFUSED", "PEERS", "LOAD", "HEARD", "VERSION"}}
	ofRegion := make(map[string]int)
	for _, g := range f.Gateways {
		if g.State != fleet.Silent {
			ofRegion[g.Region] += g.Peers
		}
	}
	for _, g := range f.Gateways {
		name, heard, peers, load := g.Name, "", "", ""
		if !g.Heard.IsZero() {
			heard, peers = ago(now, g.Heard), strconv.Itoa(g.Peers)
		}
		if all := ofRegion[g.Region]; all > 0 && g.State != fleet.Silent {
			load = fmt.Sprintf("%d%%", (100*g.Peers+all/2)/all)
		}
		if g.Name == f.Gateway {
			name, heard = name+" (here)", ""
		}
		rows = append(rows, []string{name, g.Region, g.State, number(g.Generation), number(g.Refused), peers, load, heard, g.Version})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	if f.Trouble != "" {
		fmt.Fprintln(w, f.Trouble)
	}
	for _, g := range f.Gateways {
		if g.Why != "" {
			fmt.Fprintf(w, "%s is %s: %s\n", g.Name, g.State, g.Why)
		}
		if g.Fault != "" {
			fmt.Fprintf(w, "%s has not put generation %d in force: %s\n", g.Name, g.Refused, g.Fault)
		}
	}
	return nil
}

// number writes a number that is 0 where there is none.
func number(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}
