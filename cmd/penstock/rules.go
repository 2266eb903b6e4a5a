package main

import (
	"cmp"
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newRulesCommand(e *env) *cobra.Command {
	var asJSON, tests bool
	cmd := &cobra.Command{
		Use:   "rules",
		Short: "List the rules in force with their use",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := client.Rules(ctx)
			if err != nil {
				return err
			}
			if tests {
				return printRows(e.stdout, asJSON, answer, testRows)
			}
			return printRows(e.stdout, asJSON, answer, ruleRows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&tests, "tests", false, "list the configuration's own tests, judged now, instead")
	return cmd
}

func testRows(answer control.Rules) [][]string {
	rows := [][]string{{"FROM", "TO", "EXPECT", "GOT", "RULE", "HOLDS", "AT"}}
	for _, t := range answer.Tests {
		from, holds := cmp.Or(t.From, "here"), "yes"
		if t.Error != "" {
			holds = "no"
		}
		rows = append(rows, []string{from, t.To, t.Expect, t.Got, t.Rule, holds, t.Position})
	}
	return rows
}

func ruleRows(answer control.Rules) [][]string {
	rows := [][]string{{"RULE", "MATCH", "DO", "HITS", "LAST HIT", "SHADOWED BY", "AT"}}
	for _, r := range answer.Rules {
		rows = append(rows, []string{r.Name, r.Match, r.Do, strconv.FormatUint(r.Hits, 10), ago(time.Now(), r.LastHit), r.ShadowedBy, r.Position})
	}
	return rows
}
