package history

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/text"
)

const (
	defaultTotals = 100
	maxHours      = 3 * 366 * 24 // that days are made of
	fewRecords    = 100_000      // that are looked up one by one, at most
	// Others is the key of those that an hour has no sums of their own for.
	Others = "*"
)

// sumsBy is what the sums by a word are: in table total, and of records.
type sumsBy struct {
	by     int
	key    string // of record r, its circumstances h and its place p
	text   string // of a key k
	column string // of the hours of one key: who chooses it
}

var sumsOf = map[string]sumsBy{
	"verdict":  {byVerdict, "h.verdict", "(SELECT text FROM word WHERE id = k)", ""},
	"rule":     {byRule, "h.rule", "(SELECT text FROM word WHERE id = k)", ""},
	"category": {byCategory, "h.category", "(SELECT text FROM word WHERE id = k)", ""},
	"client":   {byClient, "r.client", "(SELECT iif(peer = '', addr, peer) FROM client WHERE id = k)", ""},
	"host":     {byHost, "p.host", "(SELECT rev FROM host WHERE id = k)", ""},
	"hour":     {byVerdict, "r.end - (r.end % 3600000 + 3600000) % 3600000", "k", ""},
}

// part is a part of the time that sums are over: whole hours of table total, or records.
type part struct {
	from, to int64 // ms since 1970, to exclusive
	records  bool
	after    int64 // the last record before them
}

// Totals returns sums over records. Whole hours come from the sums of hours where the filter names one thing at most; records give the
// rest, and everything else.
func (s *Store) Totals(ctx context.Context, q control.TotalsQuery) (out control.Totals, err error) {
	out.Totals = []control.Total{}
	limit, err := pageSizeOf(q.Limit, defaultTotals)
	if err == nil {
		err = checkFilter(q.RecordFilter)
	}
	by := q.By
	if by == "day" {
		by = "hour"
	}
	of, ok := sumsOf[by]
	if !ok && err == nil {
		err = fmt.Errorf("sums by %q: there are hour, day, client, host, rule, category and verdict", q.By)
	}
	if err != nil {
		return out, err
	}
	err = s.reading(ctx, func(ctx context.Context, tx *sql.Tx) error {
		most := limit
		if q.By == "day" {
			most = maxHours
		}
		list, err := totals(ctx, tx, q.RecordFilter, of, by == "hour", most)
		if err == nil && q.By == "day" {
			list = days(list)
			list = list[max(len(list)-limit, 0):]
		}
		if list != nil {
			out.Totals = list
		}
		return err
	})
	return out, err
}

func totals(ctx context.Context, tx *sql.Tx, f control.RecordFilter, of sumsBy, hours bool, limit int) ([]control.Total, error) {
	sums, keys, ok, err := sumsFor(ctx, tx, f, of, hours)
	if err != nil {
		return nil, err
	}
	parts := []part{{from: millisOr(f.Since, minTime), to: millisOr(f.Until, maxTime), records: true}}
	if ok {
		if parts, err = divide(ctx, tx, f); err != nil {
			return nil, err
		}
	}
	var selects []string
	var args []any
	for _, p := range parts {
		text, more, err := p.query(ctx, tx, f, of, sums, keys, hours)
		if err != nil {
			return nil, err
		}
		selects, args = append(selects, text), append(args, more...)
	}
	order := "sum(n) DESC, text"
	if hours {
		order = "k DESC"
	}
	if !slices.ContainsFunc(parts, func(p part) bool { return p.from < p.to }) {
		return nil, nil
	}
	rows, err := tx.QueryContext(ctx, fmt.Sprintf(`WITH t (k, b, n, tx, rx) AS (%s)
		SELECT CASE k WHEN -1 THEN '%s' ELSE coalesce(%s, '') END AS text, sum(n * (1 - b)), sum(n * b), sum(tx), sum(rx) FROM t GROUP BY text ORDER BY %s LIMIT ?`,
		strings.Join(selects, " UNION ALL "), Others, of.text, order), append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []control.Total
	for rows.Next() {
		var t control.Total
		if err := rows.Scan(&t.Key, &t.Allowed, &t.Blocked, &t.TxBytes, &t.RxBytes); err != nil {
			return nil, err
		}
		switch {
		case hours:
			at, err := strconv.ParseInt(t.Key, 10, 64)
			if err != nil {
				return nil, err
			}
			t.Time = time.UnixMilli(at)
			t.Key = t.Time.Format(time.RFC3339)
		case of.by == byHost && t.Key != Others:
			t.Key = text.Reversed(t.Key)
		}
		list = append(list, t)
	}
	if hours {
		slices.Reverse(list)
	}
	return list, rows.Err()
}

const (
	minTime = int64(-1) << 60
	maxTime = int64(1) << 60
)

func millisOr(t time.Time, none int64) int64 {
	if t.IsZero() {
		return none
	}
	return millisUp(t)
}

// sumsFor finds the sums of hours that answer a question: what they are by, and their keys if not all. ok is false if there are none.
func sumsFor(ctx context.Context, tx *sql.Tx, f control.RecordFilter, of sumsBy, hours bool) (by int, keys []int64, ok bool, err error) {
	by = of.by
	named := 0
	var query string
	var args []any
	for _, n := range []struct {
		name, of, query string
		by              int
	}{
		{f.Client, "client", "SELECT id FROM client WHERE peer = ?1 OR peer = '' AND addr = ?1", byClient},
		{f.Rule, "rule", "SELECT id FROM word WHERE text = ?", byRule},
		{f.Category, "category", "SELECT id FROM word WHERE text = ?", byCategory},
		{f.Host, "host", "", byHost},
	} {
		if n.name == "" {
			continue
		}
		named++
		if !hours && by != n.by {
			return by, nil, false, nil
		}
		by, query, args = n.by, n.query, []any{n.name}
		if n.by == byHost {
			query, args = hostsBelow(n.name)
			query = "SELECT h.id FROM host h WHERE " + query
		}
	}
	if named > 1 || f.Text != "" {
		return by, nil, false, nil
	}
	if named == 1 {
		c, err := choose(ctx, tx, "", query, args...)
		if err != nil || c.many {
			return by, nil, false, err
		}
		keys = append(c.ids, -2) // not nil: no other keys
	}
	return by, keys, true, nil
}

// divide divides the time of a filter: whole hours, and the parts of hours before and after them. An hour of which there are not all
// records any more is whole.
func divide(ctx context.Context, tx *sql.Tx, f control.RecordFilter) ([]part, error) {
	from, to := millisOr(f.Since, minTime), millisOr(f.Until, maxTime)
	gone := minTime
	if err := tx.QueryRowContext(ctx, "SELECT value FROM note WHERE name = 'gone'").Scan(&gone); err != nil && err != sql.ErrNoRows {
		return nil, err
	}
	low, high := from, to
	if from != minTime {
		low = from - (from%hourMillis+hourMillis)%hourMillis
		if low < from && low > gone {
			low += hourMillis
		}
	}
	if to != maxTime {
		high = to - (to%hourMillis+hourMillis)%hourMillis
		if high < to && high <= gone {
			high += hourMillis
		}
	}
	if low > high { // within an hour
		return []part{{from: from, to: to, records: true}}, nil
	}
	parts := []part{{from: low, to: high}}
	if from < low {
		parts = append(parts, part{from: from, to: low, records: true})
	}
	if high < to {
		parts = append(parts, part{from: high, to: to, records: true})
	}
	var summed int64
	if err := tx.QueryRowContext(ctx, "SELECT value FROM note WHERE name = 'summed'").Scan(&summed); err != nil && err != sql.ErrNoRows {
		return nil, err
	}
	return append(parts, part{from: low, to: high, records: true, after: summed}), nil
}

// query is the query for a part: rows of key, blocked, number and bytes.
func (p part) query(ctx context.Context, tx *sql.Tx, f control.RecordFilter, of sumsBy, by int, keys []int64, hours bool) (string, []any, error) {
	if p.records {
		if p.from != minTime {
			f.Since = time.UnixMilli(p.from)
		}
		if p.to != maxTime {
			f.Until = time.UnixMilli(p.to)
		}
		c, err := chooseRecords(ctx, tx, f)
		c.low = max(c.low, p.after)
		if err != nil {
			return "", nil, err
		}
		from, args, err := c.from(ctx, tx)
		return "SELECT " + of.key + ", h.blocked, count(*), sum(r.tx), sum(r.rx) FROM (" + from + ") r CROSS JOIN how h ON h.id = r.how LEFT JOIN place p ON p.id = r.place GROUP BY 1, 2", args, err
	}
	var kinds []string
	for _, question := range []bool{false, true} {
		for _, blocked := range []bool{false, true} {
			if !(f.Blocked && !blocked) && !(f.Kind == "flow" && question) && !(f.Kind == "question" && !question) {
				kinds = append(kinds, strconv.Itoa(totalKind(by, question, blocked)))
			}
		}
	}
	key := "key"
	if hours {
		key = "hour"
	}
	text := "SELECT " + key + ", kind & 1, sum(n), sum(tx), sum(rx) FROM total WHERE kind IN (" + strings.Join(kinds, ",") + ") AND hour >= ? AND hour < ?"
	if keys != nil {
		where, _ := choice{column: "key", ids: keys}.where()
		text += " AND " + where
	}
	return text + " GROUP BY 1, 2", []any{p.from, p.to}, nil
}

// from is the query for the records of a sum: one by one if they are few, and otherwise all are looked through.
func (c chosen) from(ctx context.Context, tx *sql.Tx) (string, []any, error) {
	if len(c.listed) > 0 {
		few := search{tx: tx, chosen: c, limit: fewRecords + 1}
		if err := few.run(ctx); err != nil {
			return "", nil, err
		}
		if len(few.found) <= fewRecords {
			ids := []byte{'['}
			for i, id := range few.found {
				if i > 0 {
					ids = append(ids, ',')
				}
				ids = strconv.AppendInt(ids, id, 10)
			}
			return "SELECT record.* FROM json_each(?) CROSS JOIN record ON record.id = json_each.value", []any{string(append(ids, ']'))}, nil
		}
	}
	where, args := c.condition()
	return "SELECT record.* FROM record WHERE " + where, args, nil
}

// days adds up hours to days of the local time.
func days(hours []control.Total) (list []control.Total) {
	for _, h := range hours {
		at := h.Time.Local()
		day := time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.Local)
		if len(list) == 0 || !list[len(list)-1].Time.Equal(day) {
			list = append(list, control.Total{Key: day.Format(time.DateOnly), Time: day})
		}
		d := &list[len(list)-1]
		d.Allowed, d.Blocked, d.TxBytes, d.RxBytes = d.Allowed+h.Allowed, d.Blocked+h.Blocked, d.TxBytes+h.TxBytes, d.RxBytes+h.RxBytes
	}
	return list
}
