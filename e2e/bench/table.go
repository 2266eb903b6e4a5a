package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// row is what was measured once.
type row struct {
	path    path
	measure string
	value   float64
	unit    string
	note    string
	round   int
}

// table collects rows. Those of one path and measure are a line.
type table struct {
	paths []path // to explain below it
	rows  []row
	round int // that rows are added to
}

func (t *table) add(r row) {
	r.round = t.round
	t.rows = append(t.rows, r)
}

// line returns the rows of a path and measure, by value.
func (t *table) line(path, measure string) (rows []row) {
	for _, r := range t.rows {
		if r.path.name == path && r.measure == measure {
			rows = append(rows, r)
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.value, b.value) })
	return rows
}

// ratios returns what rows are to their baseline, each to that of the same round, from the smallest to the largest.
func (t *table) ratios(rows []row) (ratios []float64) {
	for _, r := range rows {
		for _, b := range t.line(r.path.baseline, r.measure) {
			if b.round == r.round && b.value > 0 {
				ratios = append(ratios, r.value/b.value)
			}
		}
	}
	slices.Sort(ratios)
	return ratios
}

// middle returns the median of what is sorted; of an even number of them, the lower one in the middle.
func middle[T any](sorted []T) T { return sorted[(len(sorted)-1)/2] }

// print prints the medians of all lines, each with the median of its ratios to the same measure of its baseline.
func (t *table) print(out io.Writer, where string) {
	fmt.Fprintf(out, "%s\n\n", where)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PATH\tMEASURE\tVALUE\tRATIO\tNOTE")
	for i, r := range t.rows {
		if slices.ContainsFunc(t.rows[:i], func(before row) bool { return before.path.name == r.path.name && before.measure == r.measure }) {
			continue
		}
		rows := t.line(r.path.name, r.measure)
		m := middle(rows)
		ratio, note := "", m.note
		ratios := t.ratios(rows)
		if len(ratios) > 0 {
			ratio = fmt.Sprintf("%.2f", middle(ratios))
		}
		if len(ratios) > 1 {
			ratio += fmt.Sprintf(" (%.2f to %.2f)", ratios[0], ratios[len(ratios)-1])
		}
		if len(rows) > 1 {
			note = fmt.Sprintf("median of %d, %s to %s; %s", len(rows), figure(rows[0].value), figure(rows[len(rows)-1].value), note)
		}
		fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\t%s\n", m.path.name, m.measure, figure(m.value), m.unit, ratio, note)
	}
	w.Flush()
	for _, p := range t.paths {
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
