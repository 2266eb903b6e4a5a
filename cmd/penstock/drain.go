package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

const (
	drainLook = 250 * time.Millisecond // how often the live flows are counted
	drainTell = 5 * time.Second        // how often the number is told
)

func newDrainCommand(e *env) *cobra.Command {
	var patience time.Duration
	var off bool
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Say that penstock is not ready, and wait until its flows are over",
		Long: `Make /readyz and status say that penstock is not ready, so that load balancers and monitoring
send new clients elsewhere, and wait until the live flows are over. What still arrives is served.
The exit code is 4 if some are left when the time is over. penstock goes on until it is stopped;
--off makes it ready again.`,
		Args: takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			if err := client.Drain(ctx, control.DrainOrder{Off: off}); err != nil || off {
				return err
			}
			return awaitFlows(ctx, e, client, patience)
		}),
	}
	cmd.Flags().DurationVar(&patience, "for", time.Minute, "wait at most this `TIME`; 0 does not wait")
	cmd.Flags().BoolVar(&off, "off", false, "be ready again")
	return cmd
}

// awaitFlows waits until penstock has no live flow.
func awaitFlows(ctx context.Context, e *env, client *control.Client, patience time.Duration) error {
	end := time.Now().Add(patience)
	var told time.Time
	for {
		s, err := client.Status(ctx)
		if err != nil {
			return err
		}
		left := s.Flows.Active
		switch {
		case left == 0:
			fmt.Fprintln(e.stdout, "no flows are left")
			return nil
		case time.Now().After(end):
			return exitError{exitDegraded, fmt.Errorf("flows that are left: %d: wait longer with --for, see them with penstock flows, or stop penstock, which resets them", left)}
		case time.Since(told) >= drainTell:
			fmt.Fprintln(e.stderr, "flows that are left:", left)
			told = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(drainLook):
		}
	}
}
