package main

import (
	"context"
	"encoding/csv"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"penstock/cmd/internal/control"
)

// exportPage is how many records an export asks for at once.
const exportPage = 1000

// recordFlags are the flags that select records.
type recordFlags struct {
	filter       control.RecordFilter
	since, until string
}

func (f *recordFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.since, "since", "", "only what ended after this `TIME`: 2h or 7d ago, 2026-01-31, or 2026-01-31T21:30:00Z")
	flags.StringVar(&f.until, "until", "", "only what ended before this `TIME`")
	flags.BoolVar(&f.filter.Blocked, "blocked", false, "only what was blocked or dropped")
	flags.StringVar(&f.filter.Client, "client", "", "only of this `PEER`, or of this address that is no peer")
	flags.StringVar(&f.filter.Host, "host", "", "only to this `NAME` and all names below it")
	flags.StringVar(&f.filter.Rule, "rule", "", "only by this `RULE`")
	flags.StringVar(&f.filter.Category, "category", "", "only of this `CATEGORY`")
	flags.StringVar(&f.filter.Text, "text", "", "only with this `TEXT` in the host, client, address, rule or category")
	flags.StringVar(&f.filter.Kind, "kind", "", "only `flow` or question")
}

// read completes the filter.
func (f *recordFlags) read(now time.Time) (_ control.RecordFilter, err error) {
	filter := f.filter
	if filter.Kind != "" && filter.Kind != "flow" && filter.Kind != "question" {
		return filter, usagef("--kind is %q: write flow or question", filter.Kind)
	}
	if filter.Since, err = parsePast("--since", f.since, now); err == nil {
		filter.Until, err = parsePast("--until", f.until, now)
	}
	return filter, err
}

// parsePast reads a time that is given as such, or as how long ago it was.
func parsePast(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01-02T15:04", time.RFC3339} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("%s is %q: write 2h, 7d, 2026-01-31, 2026-01-31T21:30 or 2026-01-31T21:30:00Z", flag, text)
}

func newHistoryCommand(e *env) *cobra.Command {
	var flags recordFlags
	var limit int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "List past flows and questions",
		Long: `List flows that have ended and DNS questions that were answered, the newest first. penstock keeps them if the
configuration has a section history.`,
		Args: onlyCommands,
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			filter, err := flags.read(time.Now())
			if err != nil {
				return err
			}
			answer, err := newestRecords(ctx, client, control.RecordQuery{RecordFilter: filter, Limit: limit})
			if err != nil {
				return err
			}
			if err := printRows(e.stdout, asJSON, answer, recordRows); err != nil || !answer.More || asJSON {
				return err
			}
			_, err = fmt.Fprintln(e.stderr, "there are more: see them with --limit, --until or penstock history export")
			return err
		}),
	}
	flags.add(cmd)
	cmd.Flags().IntVar(&limit, "limit", 50, "list this `NUMBER` of records at most; 5000 is the most")
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newHistoryTotalsCommand(e), newHistoryExportCommand(e))
	return cmd
}

// recordFields are a record in words, for people and for a spreadsheet.
type recordFields struct {
	end                                           time.Time
	kind, from, to, host, verdict, rule, category string
	tx, rx                                        uint64
	result                                        string // of a question: its type and what came of it
}

func fieldsOf(r control.Record) recordFields {
	if q := r.Question; q != nil {
		return recordFields{q.End, "question", fromText(q.Peer, q.Src), "", q.Host, q.Verdict, q.Rule, q.Category, 0, 0, strings.TrimSpace(q.Type + " " + q.Result)}
	}
	f := r.Flow
	if f == nil {
		f = new(control.Flow)
	}
	return recordFields{f.End, f.Proto, fromText(f.Peer, f.Src), f.Dst, f.Host, verdictText(f.Verdict, f.Via), f.Rule, f.Category, f.TxBytes, f.RxBytes, f.Reason}
}

func fromText(peer, src string) string { return strings.TrimSpace(peer + " " + src) }

func recordRows(answer control.Records) [][]string {
	rows := [][]string{{"ENDED", "KIND", "FROM", "TO", "HOST", "VERDICT", "RULE", "TX", "RX", "RESULT"}}
	for _, r := range answer.Records {
		f := fieldsOf(r)
		tx, rx := "", ""
		if r.Flow != nil {
			tx, rx = bytesText(f.tx), bytesText(f.rx)
		}
		rows = append(rows, []string{f.end.Local().Format(time.DateTime), f.kind, f.from, f.to, f.host, f.verdict, ruleText(f.rule, f.category), tx, rx, f.result})
	}
	return rows
}

func newHistoryTotalsCommand(e *env) *cobra.Command {
	var flags recordFlags
	var query control.TotalsQuery
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "totals",
		Short: "Add up past flows and questions",
		Long: `Add up flows that have ended and questions that were answered, by hour, day, client, host, rule, category or
verdict: times in order, others with the largest first. The sums of hours stay for a year. In them the key *
stands for hosts and clients that had few records in an hour.`,
		Args: takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) (err error) {
			if query.RecordFilter, err = flags.read(time.Now()); err != nil {
				return err
			}
			answer, err := control.Ask[control.Totals](ctx, client, "history/totals", query)
			if err != nil {
				return err
			}
			return printRows(e.stdout, asJSON, answer, func(t control.Totals) [][]string { return totalRows(t, query.By) })
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&query.By, "by", "day", "what the records of a sum have in common: hour, day, client, host, rule, category or `verdict`")
	cmd.Flags().IntVar(&query.Limit, "limit", 50, "list this `NUMBER` of sums at most; 5000 is the most")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func totalRows(answer control.Totals, by string) [][]string {
	rows := [][]string{{strings.ToUpper(by), "ALLOWED", "BLOCKED", "TX", "RX"}}
	for _, t := range answer.Totals {
		key := t.Key
		if by == "hour" {
			key = t.Time.Local().Format("2006-01-02 15:04")
		}
		rows = append(rows, []string{key, strconv.FormatUint(t.Allowed, 10), strconv.FormatUint(t.Blocked, 10), bytesText(t.TxBytes), bytesText(t.RxBytes)})
	}
	return rows
}

func newHistoryExportCommand(e *env) *cobra.Command {
	var flags recordFlags
	var format string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print all past flows and questions as CSV or JSON lines",
		Args:  takes(0, 0),
		RunE: e.asking(func(ctx context.Context, client *control.Client, _ []string) error {
			filter, err := flags.read(time.Now())
			if err != nil {
				return err
			}
			switch format {
			case "csv":
				return exportCSV(ctx, e, client, filter)
			case "json":
				return eachRecord(ctx, client, filter, func(r control.Record) error {
					return printJSON(e.stdout, struct {
						APIVersion string `json:"apiVersion"`
						control.Record
					}{control.APIVersion, r})
				})
			}
			return usagef("--format is %q: write csv or json", format)
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&format, "format", "csv", "`csv` or json: a line for each record")
	return cmd
}

// newestRecords asks for the newest records. Where few match, an answer has those that were found within a moment, and the next question
// goes on behind them.
func newestRecords(ctx context.Context, client *control.Client, query control.RecordQuery) (all control.Records, err error) {
	for {
		page, err := control.Ask[control.Records](ctx, client, "history/records", query)
		if err != nil {
			return all, err
		}
		query.Before, query.Limit = page.Next, query.Limit-len(page.Records)
		page.Records = append(all.Records, page.Records...)
		all = page
		if page.Searched.IsZero() || query.Limit <= 0 {
			return all, nil
		}
	}
}

// eachRecord calls f with all records that a filter selects, newest first. It asks for one page after another.
func eachRecord(ctx context.Context, client *control.Client, filter control.RecordFilter, f func(control.Record) error) error {
	query := control.RecordQuery{RecordFilter: filter, Limit: exportPage}
	for {
		page, err := control.Ask[control.Records](ctx, client, "history/records", query)
		if err != nil {
			return err
		}
		for _, r := range page.Records {
			if err := f(r); err != nil {
				return err
			}
		}
		if !page.More {
			return nil
		}
		query.Before = page.Next
	}
}

func exportCSV(ctx context.Context, e *env, client *control.Client, filter control.RecordFilter) error {
	w := csv.NewWriter(e.stdout)
	w.Write([]string{"end", "kind", "from", "to", "host", "verdict", "rule", "category", "tx_bytes", "rx_bytes", "result"})
	err := eachRecord(ctx, client, filter, func(r control.Record) error {
		f := fieldsOf(plain(r))
		row := []string{f.end.UTC().Format(time.RFC3339Nano), f.kind, f.from, f.to, f.host, f.verdict, f.rule, f.category,
			strconv.FormatUint(f.tx, 10), strconv.FormatUint(f.rx, 10), f.result}
		for i, cell := range row {
			row[i] = harmless(cell)
		}
		return w.Write(row)
	})
	w.Flush()
	if err == nil {
		err = w.Error()
	}
	return err
}

// harmless returns a cell that a spreadsheet does not take for a formula: names come from strangers.
func harmless(cell string) string {
	if cell != "" && strings.ContainsRune("=+-@", rune(cell[0])) {
		return "'" + cell
	}
	return cell
}
