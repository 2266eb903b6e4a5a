package history

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/text"
)

const (
	defaultPage = 200
	maxPage     = 5000
	maxChosen   = 1000 // rows of one table whose records are looked up in table list, and not by looking through all records
)

// column is a column of records that table list has.
type column string

const (
	columnHow    column = "how"
	columnClient column = "client"
	columnPlace  column = "place"
)

// kind is the kind of a column in table list.
func (c column) kind() int {
	return map[column]int{columnHow: listHow, columnClient: listClient, columnPlace: listPlace}[c]
}

// choice is the rows of a table that a filter chooses: their IDs or, of many, the query that finds them.
type choice struct {
	column column
	ids    []int64
	query  string
	args   []any
	many   bool
}

// where is the condition on records.
func (c choice) where() (string, []any) {
	if c.many {
		return string(c.column) + " IN (" + c.query + ")", c.args
	}
	list := make([]string, len(c.ids))
	for i, id := range c.ids {
		list[i] = strconv.FormatInt(id, 10)
	}
	return string(c.column) + " IN (" + strings.Join(list, ",") + ")", nil
}

// choose finds the rows that a query chooses.
func choose(ctx context.Context, tx *sql.Tx, of column, query string, args ...any) (choice, error) {
	c := choice{column: of, query: query, args: args}
	rows, err := tx.QueryContext(ctx, query, args...)
	if err == nil {
		c.ids, err = numbers(rows, maxChosen+1)
	}
	if len(c.ids) > maxChosen {
		c.ids, c.many = nil, true
	}
	return c, err
}

// chosen is which records a filter selects.
type chosen struct {
	low, high int64      // IDs, exclusive
	listed    [][]choice // of each of these one must hold, and table list tells which records have it
	where     []string   // all of these must hold, too
	args      []any
}

func (c *chosen) and(where string, args ...any) {
	c.where, c.args = append(c.where, where), append(c.args, args...)
}

// condition is c as the condition of a query.
func (c chosen) condition() (string, []any) {
	where := append([]string{"id > ?", "id < ?"}, c.where...)
	args := append([]any{c.low, c.high}, c.args...)
	for _, any := range c.listed {
		text, more := oneOf(any)
		where, args = append(where, text), append(args, more...)
	}
	return strings.Join(where, " AND "), args
}

// oneOf is the condition that one of some choices holds.
func oneOf(list []choice) (text string, args []any) {
	var texts []string
	for _, one := range list {
		where, more := one.where()
		texts, args = append(texts, where), append(args, more...)
	}
	return "(" + strings.Join(texts, " OR ") + ")", args
}

// chooseRecords finds out what a filter selects.
func chooseRecords(ctx context.Context, tx *sql.Tx, f control.RecordFilter) (c chosen, err error) {
	c.high = math.MaxInt64
	if err := c.limitTime(ctx, tx, f.Since, f.Until); err != nil {
		return c, err
	}
	var all [][]choice // each of these must hold, one of its choices
	pick := func(of column, query string, args ...any) {
		if err == nil {
			var one choice
			if one, err = choose(ctx, tx, of, query, args...); err == nil {
				all = append(all, []choice{one})
			}
		}
	}
	if f.Host != "" {
		query, args := hostsBelow(f.Host)
		pick(columnPlace, "SELECT p.id FROM host h JOIN place p ON p.host = h.id WHERE "+query, args...)
	}
	if f.Text != "" && err == nil {
		var any []choice
		any, err = chooseText(ctx, tx, f.Text)
		all = append(all, any)
	}
	if f.Client != "" {
		pick(columnClient, "SELECT id FROM client WHERE peer = ?1 OR peer = '' AND addr = ?1", f.Client)
	}
	if where, args := howWhere(f); where != "" {
		pick(columnHow, "SELECT id FROM how WHERE "+where, args...)
	}
	for _, any := range all {
		if slices.ContainsFunc(any, func(one choice) bool { return one.many }) {
			text, args := oneOf(any)
			c.and(text, args...)
		} else {
			c.listed = append(c.listed, any)
		}
	}
	return c, err
}

// limitTime limits the IDs to those of some time, and the time itself.
func (c *chosen) limitTime(ctx context.Context, tx *sql.Tx, since, until time.Time) error {
	var id sql.NullInt64
	if !since.IsZero() {
		if err := tx.QueryRowContext(ctx, "SELECT min(first) - 1 FROM span WHERE until >= ?", since.UnixMilli()).Scan(&id); err != nil {
			return err
		}
		c.low = math.MaxInt64 // there is none
		if id.Valid {
			c.low = id.Int64
		}
		c.and("end >= ?", millisUp(since))
	}
	if !until.IsZero() {
		if err := tx.QueryRowContext(ctx, "SELECT max(last) + 1 FROM span WHERE begin < ?", millisUp(until)).Scan(&id); err != nil {
			return err
		}
		c.high = id.Int64 // 0 if there is none
		c.and("end < ?", millisUp(until))
	}
	return nil
}

// millisUp is the first millisecond that is not before t. Ends are kept in whole ones.
func millisUp(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

// hostsBelow is the condition for a name and all names below it.
func hostsBelow(name string) (string, []any) {
	rev := text.Reversed(strings.ToLower(strings.Trim(name, ".")))
	return "(h.rev = ? OR h.rev > ? AND h.rev < ?)", []any{rev, rev + ".", rev + "/"}
}

// howWhere is the condition on circumstances.
func howWhere(f control.RecordFilter) (string, []any) {
	var where []string
	var args []any
	switch f.Kind {
	case "flow":
		where = append(where, "question = 0")
	case "question":
		where = append(where, "question = 1")
	}
	if f.Blocked {
		where = append(where, "blocked = 1")
	}
	for _, of := range []struct{ column, text string }{{"rule", f.Rule}, {"category", f.Category}} {
		if of.text != "" {
			where = append(where, of.column+" = (SELECT id FROM word WHERE text = ?)")
			args = append(args, of.text)
		}
	}
	return strings.Join(where, " AND "), args
}

// chooseText finds names and words that have a text.
func chooseText(ctx context.Context, tx *sql.Tx, part string) (list []choice, err error) {
	escape := strings.NewReplacer(`\`, `\\`, "%", `\%`, "_", `\_`)
	like, back := "%"+escape.Replace(part)+"%", "%"+escape.Replace(text.Reversed(part))+"%"
	for _, q := range []struct {
		of    column
		query string
		args  []any
	}{
		{columnPlace, `SELECT id FROM place WHERE host IN (SELECT id FROM host WHERE rev LIKE ? ESCAPE '\') OR addr IN (SELECT id FROM addr WHERE text LIKE ? ESCAPE '\')`, []any{back, like}},
		{columnClient, `SELECT id FROM client WHERE peer LIKE ?1 ESCAPE '\' OR addr LIKE ?1 ESCAPE '\'`, []any{like}},
		{columnHow, `SELECT id FROM how WHERE rule IN (SELECT id FROM word WHERE text LIKE ?1 ESCAPE '\') OR category IN (SELECT id FROM word WHERE text LIKE ?1 ESCAPE '\')`, []any{like}},
	} {
		c, err := choose(ctx, tx, q.of, q.query, q.args...)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// Records returns a page of records.
func (s *Store) Records(ctx context.Context, q control.RecordQuery) (out control.Records, err error) {
	limit, err := pageSizeOf(q.Limit, defaultPage)
	if err == nil {
		err = checkFilter(q.RecordFilter)
	}
	if err != nil {
		return out, err
	}
	out.Records = []control.Record{}
	err = s.reading(ctx, func(ctx context.Context, tx *sql.Tx) error {
		var oldest sql.NullInt64
		if err := tx.QueryRowContext(ctx, "SELECT end FROM record ORDER BY id LIMIT 1").Scan(&oldest); err != nil && err != sql.ErrNoRows {
			return err
		}
		if oldest.Valid {
			out.Oldest = time.UnixMilli(oldest.Int64)
		}
		c, err := chooseRecords(ctx, tx, q.RecordFilter)
		if err != nil {
			return err
		}
		if q.Before > 0 {
			c.high = min(c.high, q.Before)
		}
		search := search{tx: tx, chosen: c, limit: limit + 1, until: time.Now().Add(cmp.Or(s.config.pageTime, pageTime))}
		if err := search.run(ctx); err != nil {
			return err
		}
		ids := search.found
		if len(ids) > limit {
			ids = ids[:limit]
			out.More, out.Next = true, ids[limit-1]
		} else if search.stopped > 0 {
			out.More, out.Next = true, search.stopped
			out.Searched = search.back
		}
		out.Records, err = fetch(ctx, tx, ids)
		return err
	})
	return out, err
}

// fetch reads records, newest first.
func fetch(ctx context.Context, tx *sql.Tx, ids []int64) ([]control.Record, error) {
	where, _ := choice{column: "r.id", ids: ids}.where()
	rows, err := tx.QueryContext(ctx, `SELECT r.id, r.end, r.tx, r.rx, r.rest, h.question, h.text, coalesce(c.peer, ''), coalesce(c.addr, ''), coalesce(n.rev, ''), coalesce(a.text, '')
		FROM record r JOIN how h ON h.id = r.how LEFT JOIN client c ON c.id = r.client
		LEFT JOIN place p ON p.id = r.place LEFT JOIN host n ON n.id = p.host LEFT JOIN addr a ON a.id = p.addr
		WHERE `+where+` ORDER BY r.id DESC`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := make([]control.Record, 0, len(ids))
	hows := make(map[string]circumstances)
	for rows.Next() {
		var id int64
		var e entry
		var how, host string
		if err := rows.Scan(&id, &e.end, &e.tx, &e.rx, &e.rest, &e.isQuestion, &how, &e.peer, &e.src, &host, &e.dst); err != nil {
			return nil, err
		}
		c, ok := hows[how]
		if !ok {
			c = parseCircumstances(how)
			hows[how] = c
		}
		e.how, e.host = c, text.Reversed(host)
		list = append(list, e.record(id))
	}
	return list, rows.Err()
}

func pageSizeOf(n, standard int) (int, error) {
	switch {
	case n == 0:
		return standard, nil
	case n < 0 || n > maxPage:
		return 0, fmt.Errorf("a limit of %d: ask for 1 to %d", n, maxPage)
	}
	return n, nil
}

// checkFilter bounds what comes from a client.
func checkFilter(f control.RecordFilter) error {
	if f.Kind != "" && f.Kind != "flow" && f.Kind != "question" {
		return fmt.Errorf("records of kind %q: there are flow and question", f.Kind)
	}
	for _, s := range []string{f.Text, f.Client, f.Host, f.Rule, f.Category} {
		if len(s) > 255 {
			return fmt.Errorf("a filter of %d characters: 255 are the most", len(s))
		}
	}
	return nil
}
