package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// row is one line of the table.
type row struct {
	path    path
	measure string
	value   float64
	unit    string
	note    string
}

// table collects rows.
type table struct{ rows []row }

func (t *table) add(r row) { t.rows = append(t.rows, r) }

// print prints the rows, each with its ratio to the same measure of its baseline.
func (t *table) print(out io.Writer, where string) {
	fmt.Fprintf(out, "%s\n\n", where)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tMEASURE\tVALUE\tRATIO\tNOTE")
	for _, r := range t.rows {
		ratio := ""
		for _, b := range t.rows {
			if b.path.name == r.path.baseline && b.measure == r.measure && b.value > 0 {
				ratio = fmt.Sprintf("%.2f", r.value/b.value)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\t%s\n", r.path.name, r.measure, figure(r.value), r.unit, ratio, r.note)
	}
	w.Flush()
	for _, p := range paths() {
		fmt.Fprintf(out, "%s: %s", p.name, p.title)
		if p.baseline != "" {
			fmt.Fprintf(out, "; ratio to %s", p.baseline)
		}
		fmt.Fprintln(out)
	}
}

// figure formats a number with three significant digits.
func figure(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
