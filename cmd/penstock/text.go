package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"penstock/cmd/internal/show"
)

// printJSON writes one value on one line. Package json escapes the control characters of ASCII alone.
func printJSON(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, r := range string(text) {
		switch {
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	_, err = io.WriteString(w, b.String()+"\n")
	return err
}

// table writes rows in columns. The first row is the heads.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = orDash(cell)
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// printRows writes an answer as JSON, or as a table of the rows that are made from it.
func printRows[T any](w io.Writer, asJSON bool, answer T, rows func(T) [][]string) error {
	if asJSON {
		return printJSON(w, answer)
	}
	return table(w, rows(plain(answer)))
}

// printableLines is printable for a text of several lines, which may have tabs. All but the first are indented.
func printableLines(s, indent string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	for i, line := range lines {
		columns := strings.Split(line, "\t")
		for j, column := range columns {
			columns[j] = printable(column)
		}
		lines[i] = strings.Join(columns, "\t")
	}
	return strings.Join(lines, "\n"+indent)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// The texts that package show makes, under short names.

func plain[T any](answer T) T                { return show.Plain(answer) }
func printable(s string) string              { return show.Printable(s) }
func bytesText(n uint64) string              { return show.Bytes(n) }
func age(d time.Duration) string             { return show.Age(d) }
func ago(now, t time.Time) string            { return show.Ago(now, t) }
func verdictText(verdict, via string) string { return show.Verdict(verdict, via) }
func ruleText(rule, category string) string  { return show.Rule(rule, category) }
