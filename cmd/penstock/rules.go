package main

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newRulesCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "List the rules in force with their use",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := client.Rules(ctx)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, ruleRows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func ruleRows(answer control.Rules) [][]string {
	rows := [][]string{{"RULE", "MATCH", "DO", "HITS", "LAST HIT", "SHADOWED BY", "AT"}}
	for _, r := range answer.Rules {
		rows = append(rows, []string{r.Name, r.Match, r.Do, strconv.FormatUint(r.Hits, 10), ago(time.Now(), r.LastHit), r.ShadowedBy, r.Position})
	}
	return rows
}
