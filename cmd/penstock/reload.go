package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newReloadCommand(e *env) *cobra.Command {
	var query control.ReloadQuery
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Read the configuration again; flows and tunnels survive",
		Long: `Read the configuration again. If it is invalid or one of its tests does not hold, nothing
changes. It returns when the new rules are in force. Flows and tunnels survive.`,
		Args: takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			done, err := client.Reload(ctx, query)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e.stdout, done)
			}
			printReloaded(e, plain(done), query)
			return nil
		}),
	}
	cmd.Flags().BoolVar(&query.DryRun, "dry-run", false, "only say what would change")
	cmd.Flags().BoolVar(&query.KillDenied, "kill-denied", false, "end live flows that the new rules block")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printReloaded(e *env, done control.Reloaded, query control.ReloadQuery) {
	changed := "nothing"
	if len(done.Changed) > 0 {
		changed = strings.Join(done.Changed, ", ")
	}
	verb := "changed"
	if query.DryRun {
		verb = "would change"
	}
	fmt.Fprintf(e.stdout, "%s: %s; policy %d\n", verb, changed, done.Generation)
	fmt.Fprintf(e.stdout, "live flows that the new rules block: %d, send elsewhere: %d", done.Blocked, done.Rerouted)
	if query.KillDenied {
		fmt.Fprintf(e.stdout, ", ended: %d", done.Killed)
	}
	fmt.Fprintln(e.stdout)
	for _, warning := range done.Warnings {
		fmt.Fprintln(e.stderr, "warning:", warning)
	}
	if len(done.Restart) > 0 {
		fmt.Fprintf(e.stderr, "these changes wait for a restart: %s\n", strings.Join(done.Restart, ", "))
	}
}
