package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

func newDecisionsCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "decisions",
		Short: "List what was allowed, blocked or paused, and until when",
		Args:  onlyCommands,
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := control.DecisionClient{Client: client}.Decisions(ctx)
			if err != nil {
				return err
			}
			if err := printRows(e.stdout, asJSON, answer, decisionRows); err != nil || answer.Fault == "" {
				return err
			}
			return exitError{exitDegraded, errors.New("the file of decisions has a fault, and nothing that it allows is allowed: " + answer.Fault)}
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newDecisionsRmCommand(e))
	return cmd
}

func decisionRows(answer control.Decisions) [][]string {
	rows := [][]string{{"ID", "UNTIL", "MADE", "BY", "KEPT", "NOTE"}}
	for _, d := range answer.Decisions {
		until, kept := "always", "no"
		if !d.Until.IsZero() {
			until = d.Until.Local().Format(time.DateTime)
		}
		if d.Kept {
			kept = "yes"
		}
		rows = append(rows, []string{d.ID, until, ago(time.Now(), d.Made), d.By, kept, d.Note})
	}
	return rows
}

func newDecisionsRmCommand(e *env) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "rm ID|NAME",
		Short: "Take a decision back",
		Long: `Take a decision back. A name or category:NAME does for the ID, if there is one decision about
it. Live flows that only the decision let pass are reset.`,
		Args: takes(1, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			r, err := control.DecisionClient{Client: client}.RemoveDecision(ctx, control.DecisionRemoval{ID: args[0], DryRun: dry})
			switch {
			case err != nil:
				return err
			case dry:
				return printDiff(e.stdout, r.Diff)
			}
			if _, err := fmt.Fprintf(e.stdout, "%s is taken back\n", printable(r.ID)); err != nil {
				return err
			}
			return printEnded(e.stdout, r.Ended)
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only show what would be written")
	return cmd
}
