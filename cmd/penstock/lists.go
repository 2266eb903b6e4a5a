package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newListsCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lists",
		Short: "List the lists of all categories in use",
		Args:  onlyCommands,
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			answer, err := client.Lists(ctx)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, listRows)
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newListsRefreshCommand(e), newListsLookupCommand(e))
	return cmd
}

func listRows(answer control.Lists) [][]string {
	rows := [][]string{{"CATEGORY", "LIST", "NAMES", "UPDATED", "NEXT", "ERROR"}}
	for _, l := range answer.Lists {
		updated := "" // the built-in lists never are
		if !l.Updated.IsZero() {
			updated = ago(time.Now(), l.Updated)
		}
		next := "" // a file and a built-in list are read again by nobody but who asks for it
		if !l.Next.IsZero() {
			next = "in " + max(0, time.Until(l.Next)).Round(time.Second).String()
		}
		rows = append(rows, []string{l.Category, l.List, strconv.Itoa(l.Entries), updated, next, l.Error})
	}
	return rows
}

func newListsRefreshCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "refresh",
		Short: "Read all lists again",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			return client.ListRefresh(ctx)
		}),
	}
}

func newListsLookupCommand(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lookup NAME",
		Short: "Say which lists have a name",
		Args:  takes(1, 1),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			answer, err := client.ListLookup(ctx, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e.stdout, answer)
			}
			if len(answer.Hits) == 0 {
				fmt.Fprintf(e.stdout, "%s is in no list\n", printable(args[0]))
			}
			for _, h := range plain(answer).Hits {
				fmt.Fprintln(e.stdout, hitText(h))
			}
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
