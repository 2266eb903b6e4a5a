package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newAllowCommand(e *env) *cobra.Command {
	var query control.AllowQuery
	cmd := &cobra.Command{
		Use:   "allow NAME|category:NAME --for TIME",
		Short: "Let something through for a while",
		Args:  takes(1, 1),
		PreRunE: func(*cobra.Command, []string) error {
			if query.For <= 0 {
				return usagef("for how long? write --for 10m")
			}
			return nil
		},
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			query.Target = args[0]
			allowed, err := client.Allow(ctx, query)
			if err != nil {
				return err
			}
			allowed = plain(allowed)
			_, err = fmt.Fprintf(e.stdout, "%s is allowed until %s\n", allowed.Target, allowed.Until.Local().Format(time.DateTime))
			return err
		}),
	}
	cmd.Flags().DurationVar(&query.For, "for", 0, "how long, for example 10m")
	cmd.Flags().StringVar(&query.Peer, "peer", "", "only for this `PEER`")
	return cmd
}
