package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newDNSCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dns",
		Short: "Ask the embedded DNS server, or empty its cache",
		Args:  cobra.ArbitraryArgs,
		RunE:  needsCommand,
	}
	cmd.AddCommand(newDNSQueryCommand(e), newDNSFlushCommand(e))
	return cmd
}

func newDNSQueryCommand(e *env) *cobra.Command {
	query := control.DNSQuery{Type: "A"}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "query NAME [TYPE]",
		Short: "Ask as a client would, and show where the answer comes from",
		Args:  takes(1, 2),
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			query.Name = args[0]
			if len(args) == 2 {
				query.Type = strings.ToUpper(args[1])
			}
			answer, err := client.DNSQuery(ctx, query)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(e.stdout, answer)
			}
			for i, record := range answer.Answers {
				answer.Answers[i] = strings.ReplaceAll(record, "\t", " ")
			}
			answer = plain(answer)
			for _, record := range answer.Answers {
				fmt.Fprintln(e.stdout, record)
			}
			fmt.Fprintln(e.stdout, dnsVerdict(answer))
			for _, hit := range answer.Hits {
				fmt.Fprintln(e.stdout, "  "+hitText(hit))
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&query.From, "from", "", "ask as this `PEER`")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// dnsVerdict is one line about where an answer came from.
func dnsVerdict(a control.DNSAnswer) string {
	text := fmt.Sprintf("%s for %s %s", a.Rcode, a.Name, a.Type)
	if a.Rule != "" {
		text += ", rule " + ruleText(a.Rule, a.Category)
	}
	if a.Decided != "" {
		text += " for " + a.Decided
	}
	if a.Source != "" {
		text += ", known from the " + a.Source
	}
	switch {
	case a.Cache == "stale":
		text += ", from the cache although it has expired: no upstream answers"
	case a.Cached && a.Upstream != "":
		text += ", from the cache, first from " + a.Upstream
	case a.Cached:
		text += ", from the cache"
	case a.Upstream != "":
		text += ", from " + a.Upstream
	}
	if a.Reason != "" && a.Category == "" {
		text += ", " + a.Reason
	}
	return text + ", in " + time.Duration(a.Took*float64(time.Second)).Round(10*time.Microsecond).String()
}

func newDNSFlushCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "flush",
		Short: "Empty the DNS cache",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			return client.DNSFlush(ctx)
		}),
	}
}
