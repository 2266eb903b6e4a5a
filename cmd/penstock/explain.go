package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"penstock/cmd/internal/control"
)

func newExplainCommand(e *env) *cobra.Command {
	var query control.ExplainQuery
	var at string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain TARGET",
		Short: "Say what would happen to a flow, and why",
		Long: `Say what the running penstock would do with a flow to TARGET (a URL, host, host:port or
address), which rule decides, and what it knows. With --flow it explains a flow that was.
The exit code is 6 if the flow is blocked.`,
		Args: takes(0, 1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) {
			if (len(args) == 1) == (query.Flow != "") {
				return usagef("explain what? name a target, or a flow with --flow ID")
			}
			query.Target = strings.Join(args, "")
			query.At, err = parseAt(at, time.Now())
			return err
		},
		RunE: e.asking(func(ctx context.Context, client *control.Client, args []string) error {
			x, err := client.Explain(ctx, query)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(e.stdout, x)
			} else {
				err = printExplanation(e.stdout, plain(x))
			}
			if err == nil && (x.Verdict == "block" || x.Verdict == "drop") {
				err = exitError{code: exitBlocked}
			}
			return err
		}),
	}
	f := cmd.Flags()
	f.StringVar(&query.From, "from", "", "who sends it: a `PEER` or an address (default this machine)")
	f.StringVar(&query.Protocol, "proto", "", "tcp, udp or icmp (default what the target says, else tcp)")
	f.StringVar(&query.SNI, "sni", "", "`NAME` that the flow itself shows")
	f.StringVar(&at, "at", "", "`TIME` of the flow, 21:30 or 2026-01-31T21:30:00Z (default now)")
	f.StringVar(&query.Process, "process", "", "`PATH` of the program on this machine that sends it")
	f.StringVar(&query.Unit, "unit", "", "that program's `UNIT`, with user/ in front if it is a user's own")
	f.StringVar(&query.Container, "container", "", "that program's `CONTAINER`")
	f.StringVar(&query.Flow, "flow", "", "`ID` of a flow to explain instead")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// parseAt reads a time of today or a whole time; the zero time for nothing.
func parseAt(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse("15:04", s); err == nil {
		return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location()), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, usagef("--at is %q: write 21:30 or 2026-01-31T21:30:00Z", s)
	}
	return t, nil
}

func printExplanation(w io.Writer, x control.Explanation) error {
	var b strings.Builder
	line := func(label string, values ...string) {
		for _, v := range values {
			if v != "" {
				fmt.Fprintf(&b, "%-10s %s\n", label, v)
				label = ""
			}
		}
	}
	fmt.Fprintf(&b, "%s: %s\n", x.Target, verdictText(x.Verdict, x.Via))
	rule := x.Rule
	if x.Position != "" {
		rule += ", " + x.Position
	}
	line("rule", rule)
	line("category", x.Category)
	line("because", x.Because)
	line("protocol", x.Protocol)
	peer := x.Peer
	if len(x.Groups) > 0 {
		peer += " of " + strings.Join(x.Groups, ", ")
	}
	line("peer", peer)
	line("program", senderText(x.Sender))
	for i, n := range x.Names {
		label := ""
		if i == 0 {
			label = "names"
		}
		line(label, n.Host+" ("+n.Source+")")
	}
	line("addresses", x.Addresses...)
	for i, h := range x.Hits {
		label := ""
		if i == 0 {
			label = "lists"
		}
		line(label, hitText(h))
	}
	line("resolver", x.Resolver)
	line("transport", x.Transport)
	line("datapath", x.Datapath)
	line("shadowed", strings.Join(x.Shadowed, ", "))
	line("note", x.Notes...)
	if t := x.Then; t != nil {
		fmt.Fprintf(&b, "\nwhen it was judged, by policy %d (now %d): %s\n", t.Generation, x.Generation, verdictText(t.Verdict, t.Via))
		rule := t.Rule
		if t.Position != "" {
			rule += ", " + t.Position
		}
		line("rule", rule)
		line("category", t.Category)
		line("because", t.Because)
		for i, h := range t.Hits {
			label := ""
			if i == 0 {
				label = "lists"
			}
			line(label, hitText(h))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// hitText is an entry of a list with its place.
func hitText(h control.ListHit) string {
	place := h.List
	if h.Line > 0 {
		place = fmt.Sprintf("%s:%d", h.List, h.Line)
	}
	text := fmt.Sprintf("%s: %s in %s", h.Category, h.Entry, place)
	if h.Allow {
		text += " (allowed)"
	}
	return text
}
