package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newPeerQuotaCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "quota",
		Short: "Give a peer its quota of this month again",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "reset NAME",
		Short: "Forget what a peer has used of its quota in this month",
		Long: `Forget what a peer has used of its quota in this month, so that it has all of it again. The running
gateway does so at once. penstock peer show NAME tells what a peer has used.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := e.dial(cmd.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			if err := client.PeerQuotaReset(cmd.Context(), args[0]); err != nil {
				return err
			}
			fmt.Fprintf(e.stderr, "peer %s has all of its quota again\n", args[0])
			return nil
		},
	})
	return cmd
}
