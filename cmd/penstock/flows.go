package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newFlowsCommand(e *env) *cobra.Command {
	var query control.FlowQuery
	var watch, byProgram, asJSON bool
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List flows and what was decided about them",
		Args:  onlyCommands,
		PreRunE: func(*cobra.Command, []string) error {
			if byProgram && (watch || query.Peer != "") {
				return usagef("--by-program sums up flows of this machine that there are: leave out --watch and --peer")
			}
			return nil
		},
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			if byProgram {
				sums, err := sumPrograms(ctx, client, query)
				if err != nil {
					return err
				}
				return printRows(e.stdout, asJSON, sums, programRows)
			}
			if watch {
				return watchFlows(ctx, e, client, query, asJSON)
			}
			answer, err := client.Flows(ctx, query)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, flowRows)
		}),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "print each flow as it begins and ends")
	cmd.Flags().BoolVar(&query.Denied, "denied", false, "only flows that were refused recently")
	cmd.Flags().BoolVar(&query.Recent, "recent", false, "finished flows too")
	cmd.Flags().StringVar(&query.Peer, "peer", "", "only flows of this `PEER`")
	cmd.Flags().BoolVar(&byProgram, "by-program", false, "sum up the flows of this machine, finished ones too, by program")
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newFlowsKillCommand(e))
	return cmd
}

func newFlowsKillCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "kill ID",
		Short: "End a flow",
		Args:  takes(1, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			return client.KillFlow(ctx, args[0])
		}),
	}
}

func flowRows(answer control.Flows) [][]string {
	rows := [][]string{{"ID", "PROTO", "FROM", "TO", "HOST", "VERDICT", "RULE", "TX", "RX", "AGE"}}
	programs := slices.ContainsFunc(answer.Flows, func(f control.Flow) bool { return f.Program+f.Unit+f.Container != "" })
	if programs {
		rows[0] = append(rows[0], "PROGRAM", "UNIT")
	}
	reasons := slices.ContainsFunc(answer.Flows, func(f control.Flow) bool { return f.Reason != "" })
	if reasons {
		rows[0] = append(rows[0], "REASON")
	}
	for _, f := range answer.Flows {
		row := flowRow(f, time.Now())
		if programs {
			row = append(row, programText(f.Sender), unitText(f.Sender))
		}
		if reasons {
			row = append(row, f.Reason)
		}
		rows = append(rows, row)
	}
	return rows
}

func flowRow(f control.Flow, now time.Time) []string {
	from, host := f.Src, f.Host
	if f.Peer != "" {
		from = f.Peer + " " + f.Src
	}
	if f.HostSource != "" {
		host += " (" + f.HostSource + ")"
	}
	until := now
	if !f.End.IsZero() {
		until = f.End
	}
	return []string{f.ID, f.Proto, from, f.Dst, host, verdictText(f.Verdict, f.Via), ruleText(f.Rule, f.Category),
		bytesText(f.TxBytes), bytesText(f.RxBytes), age(until.Sub(f.Start))}
}

// watchFlows prints flows as they begin and as they end, until ctx ends.
func watchFlows(ctx context.Context, e *env, client *control.Client, query control.FlowQuery, asJSON bool) error {
	query.Recent = true
	live := make(map[string]bool) // flows printed: true while they live
	return every(ctx, watchPeriod, func() error {
		answer, err := client.Flows(ctx, query)
		if err != nil {
			return err
		}
		seen := make(map[string]bool, len(answer.Flows))
		for _, f := range answer.Flows {
			lives := f.End.IsZero()
			seen[f.ID] = lives
			if was, printed := live[f.ID]; printed && was == lives {
				continue
			}
			if err := printFlow(e, f, asJSON); err != nil {
				return err
			}
		}
		live = seen
		return nil
	})
}

func printFlow(e *env, f control.Flow, asJSON bool) error {
	if asJSON {
		return printJSON(e.stdout, struct {
			APIVersion string `json:"apiVersion"`
			control.Flow
		}{control.APIVersion, f})
	}
	f = plain(f)
	at, what := f.Start, "begin"
	if !f.End.IsZero() {
		at, what = f.End, "end"
	}
	row := flowRow(f, time.Now())
	who := senderText(f.Sender)
	if who != "" {
		who = ", sent by " + who
	}
	why := f.Reason
	if why != "" {
		why = ": " + why
	}
	_, err := fmt.Fprintf(e.stdout, "%s %-5s %s %s %s -> %s %s %s by %s, %s up, %s down%s%s\n", at.Format(time.TimeOnly), what, row[0], row[1],
		row[2], row[3], orDash(row[4]), row[5], row[6], row[7], row[8], who, why)
	return err
}
