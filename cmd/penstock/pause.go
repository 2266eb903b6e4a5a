package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

// wholeFilter is what a pause is about.
const wholeFilter = "filter"

func newPauseCommand(e *env) *cobra.Command {
	var peer string
	cmd := &cobra.Command{
		Use:   "pause TIME",
		Short: "Pause the filter, for at most 60 minutes",
		Long: `Let everything through that rules block by domain or category, for a time such as 5m and at
most 60 minutes. Everything else stays in force: rules by address, port or client, the guard,
sign-in, quotas, and a last rule that blocks. When the pause is over, the flows that only it let
pass are reset. A restart of penstock ends it.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			lasts, err := time.ParseDuration(args[0])
			if err != nil || lasts <= 0 {
				return usagef("for how long? %q is not a time such as 5m", args[0])
			}
			return e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
				a, err := control.DecisionClient{Client: client}.Allow(ctx, control.AllowQuery{Target: wholeFilter, For: lasts, Peer: peer})
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(e.stdout, "the filter is paused until %s\n", a.Until.Local().Format(time.DateTime))
				return err
			})(cmd, args)
		},
	}
	cmd.Flags().StringVar(&peer, "peer", "", "only for this `PEER`")
	return cmd
}

func newResumeCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "End every pause of the filter",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			book := control.DecisionClient{Client: client}
			answer, err := book.Decisions(ctx)
			if err != nil {
				return err
			}
			ended := 0
			for _, d := range answer.Decisions {
				if d.Target != wholeFilter {
					continue
				}
				r, err := book.RemoveDecision(ctx, control.DecisionRemoval{ID: d.ID})
				if err != nil {
					return err
				}
				ended += r.Ended
			}
			if _, err := fmt.Fprintln(e.stdout, "the filter is on"); err != nil {
				return err
			}
			return printEnded(e.stdout, ended)
		}),
	}
}
