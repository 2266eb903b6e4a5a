package history

import (
	"container/heap"
	"context"
	"database/sql"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/text"
)

const (
	defaultPage = 200
	maxPage     = 5000
	fewChosen   = 20   // clients or circumstances whose spans are looked up before all records are looked through
	maxChosen   = 1000 // rows of one table that are looked up one by one, and not by looking through all records
)

// column is a column of records that can be looked up: places in an index, the others in the spans that have them.
type column string

const (
	columnHow    column = "how"
	columnClient column = "client"
	columnPlace  column = "place"
)

// The kinds of table seen.
const (
	seenHow = iota
	seenClient
)

// seen returns the kind in table seen, if a column is there.
func (c column) seen() (kind int, ok bool) {
	if c == columnHow {
		return seenHow, true
	}
	return seenClient, c == columnClient
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
	low, high int64    // IDs, exclusive
	drive     []choice // one of these must hold; empty: any record. They can be looked up one by one
	where     []string // all of these must hold, too
	also      []choice // those of them that tell which spans have no such record
	args      []any
}

func (c *chosen) and(where string, args ...any) {
	c.where, c.args = append(c.where, where), append(c.args, args...)
}

// condition is c as the condition of a query.
func (c chosen) condition() (string, []any) {
	where := append([]string{"id > ?", "id < ?"}, c.where...)
	args := append([]any{c.low, c.high}, c.args...)
	if len(c.drive) > 0 {
		var any []string
		for _, d := range c.drive {
			text, more := d.where()
			any, args = append(any, text), append(args, more...)
		}
		where = append(where, "("+strings.Join(any, " OR ")+")")
	}
	return strings.Join(where, " AND "), args
}

// rows is what to select records from before condition: those of the spans that have some, if few are chosen.
func (c chosen) rows() string {
	if len(c.drive) == 1 && len(c.drive[0].ids) <= fewChosen {
		if kind, ok := c.drive[0].column.seen(); ok {
			where, _ := choice{column: "key", ids: c.drive[0].ids}.where()
			return fmt.Sprintf("(SELECT DISTINCT first AS f FROM seen WHERE kind = %d AND %s) CROSS JOIN span ON first = f CROSS JOIN record NOT INDEXED ON id BETWEEN first AND last", kind, where)
		}
	}
	return "record"
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
		var texts []string
		many := false
		n := 0
		for _, one := range any {
			text, args := one.where()
			many = many || one.many
			n += len(one.ids)
			texts = append(texts, text)
			c.args = append(c.args, args...)
		}
		if len(c.drive) == 0 && !many && n <= maxChosen {
			c.drive = any
			continue
		}
		c.where = append(c.where, "("+strings.Join(texts, " OR ")+")")
		if _, ok := any[0].column.seen(); ok && len(any) == 1 && !many {
			c.also = append(c.also, any[0])
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

// newest is the highest IDs that were found.
type newest []int64

func (n newest) Len() int           { return len(n) }
func (n newest) Less(i, j int) bool { return n[i] < n[j] }
func (n newest) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *newest) Push(x any)        { *n = append(*n, x.(int64)) }
func (n *newest) Pop() any {
	last := (*n)[len(*n)-1]
	*n = (*n)[:len(*n)-1]
	return last
}

// find is the highest IDs of records, each once, and at most limit of them.
type find struct {
	limit int
	ids   newest
	has   map[int64]bool
}

func (f *find) add(list []int64) {
	for _, id := range list {
		if f.has[id] {
			continue
		}
		f.has[id] = true
		if heap.Push(&f.ids, id); len(f.ids) > f.limit {
			delete(f.has, heap.Pop(&f.ids).(int64))
		}
	}
}

// low is the ID that others must be above: no lower ones are needed when there are enough.
func (f *find) low(c chosen) int64 {
	if len(f.ids) == f.limit {
		return max(c.low, f.ids[0])
	}
	return c.low
}

// page returns the highest IDs of what is chosen, in no order. It looks up each row of c.drive, so that it never sorts nor passes by many
// records that do not match.
func page(ctx context.Context, tx *sql.Tx, c chosen, limit int) (newest, error) {
	if len(c.drive) == 0 {
		where, args := c.condition()
		rows, err := tx.QueryContext(ctx, "SELECT id FROM record NOT INDEXED WHERE "+where+" ORDER BY id DESC LIMIT ?", append(args, limit)...)
		if err != nil {
			return nil, err
		}
		return numbers(rows, 0)
	}
	for _, a := range c.also {
		if len(a.ids) == 0 {
			return nil, nil
		}
	}
	f := find{limit: limit, has: make(map[int64]bool)}
	for _, d := range c.drive {
		search := f.spans
		if d.column == columnPlace {
			search = f.places
		}
		if err := search(ctx, tx, c, d); err != nil {
			return nil, err
		}
	}
	return f.ids, nil
}

// places adds the records of some places.
func (f *find) places(ctx context.Context, tx *sql.Tx, c chosen, d choice) error {
	where := strings.Join(append([]string{"place = ? AND id > ? AND id < ?"}, c.where...), " AND ")
	find, err := tx.PrepareContext(ctx, "SELECT id FROM record INDEXED BY record_place WHERE "+where+" ORDER BY id DESC LIMIT ?")
	if err != nil {
		return err
	}
	defer find.Close()
	for _, id := range d.ids {
		args := append([]any{id, f.low(c), c.high}, c.args...)
		list, err := queryNumbers(ctx, find, append(args, f.limit)...)
		if err != nil {
			return err
		}
		f.add(list)
	}
	return nil
}

// spans adds the records of some circumstances or clients: it looks through the spans that have any, the last first.
func (f *find) spans(ctx context.Context, tx *sql.Tx, c chosen, d choice) error {
	texts := []string{
		"SELECT first FROM seen WHERE kind = ? AND key = ? AND first < ? ORDER BY first DESC LIMIT 1",
		"", "SELECT 1",
	}
	text, _ := d.where()
	texts[1] = "SELECT id FROM record NOT INDEXED WHERE id BETWEEN ? AND (SELECT last FROM span WHERE first = ?1) AND " +
		strings.Join(append([]string{text, "id > ? AND id < ?"}, c.where...), " AND ") + " ORDER BY id DESC LIMIT ?"
	for _, a := range c.also {
		kind, _ := a.column.seen()
		text, _ := choice{column: "key", ids: a.ids}.where()
		word := " AND"
		if texts[2] == "SELECT 1" {
			word = " WHERE"
		}
		texts[2] += fmt.Sprintf("%s EXISTS (SELECT 1 FROM seen WHERE kind = %d AND %s AND first = ?1)", word, kind, text)
	}
	var find [3]*sql.Stmt
	for i, text := range texts {
		stmt, err := tx.PrepareContext(ctx, text)
		if err != nil {
			return err
		}
		defer stmt.Close()
		find[i] = stmt
	}
	kind, _ := d.column.seen()
	next := make(map[int64]int64, len(d.ids)) // the last span of each that was not looked through
	below := c.high
	for _, id := range d.ids {
		next[id] = below
	}
	for {
		last := int64(0)
		for id, first := range next {
			if first >= below {
				list, err := queryNumbers(ctx, find[0], kind, id, below)
				if err != nil {
					return err
				}
				if len(list) == 0 {
					delete(next, id)
					continue
				}
				first = list[0]
				next[id] = first
			}
			last = max(last, first)
		}
		if len(next) == 0 {
			return nil
		}
		below = last
		if len(c.also) > 0 {
			if list, err := queryNumbers(ctx, find[2], last); err != nil {
				return err
			} else if len(list) == 0 {
				continue
			}
		}
		args := append([]any{last, f.low(c), c.high}, c.args...)
		list, err := queryNumbers(ctx, find[1], append(args, f.limit)...)
		if err != nil {
			return err
		}
		if f.add(list); last <= f.low(c) {
			return nil
		}
	}
}

func queryNumbers(ctx context.Context, stmt *sql.Stmt, args ...any) ([]int64, error) {
	rows, err := stmt.QueryContext(ctx, args...)
	if err != nil {
		return nil, err
	}
	return numbers(rows, 0)
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
		ids, err := page(ctx, tx, c, limit+1)
		if err != nil {
			return err
		}
		if out.More = len(ids) > limit; out.More {
			lowest := 0
			for i := range ids {
				if ids[i] < ids[lowest] {
					lowest = i
				}
			}
			ids = append(ids[:lowest], ids[lowest+1:]...)
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
