package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"
)

const (
	hourMillis = 3600 * 1000
	hourNames  = 1000             // hosts, and clients, of which an hour has sums, as soon as there were twice as many
	sumRecords = 60_000           // records that are not in the sums of their hours yet, at most but for a batch
	sumEvery   = 30 * time.Second // and for how long
)

// The sums of an hour are by these. Their order is stored.
const (
	byVerdict = iota
	byClient
	byHost
	byRule
	byCategory
)

// totalKind is what a sum is by, and of what.
func totalKind(by int, question, blocked bool) int {
	kind := by << 2
	if question {
		kind |= 2
	}
	if blocked {
		kind |= 1
	}
	return kind
}

// sumKey is a row of the table total, and sum what is added to it.
type sumKey struct {
	kind      int
	hour, key int64
}

type sum struct{ n, tx, rx int64 }

func (s sum) plus(o sum) sum { return sum{s.n + o.n, s.tx + o.tx, s.rx + o.rx} }

// howKey is what three sums of an hour are of.
type howKey struct {
	hour                    int64
	question, blocked       bool
	verdict, rule, category int64
}

// sums are those of the records that are not in the table total yet. It would take as long to add to the table with each batch as to
// write the records. Who reads sums counts these records, and so does the writer after a start or an error.
type sums struct {
	pending map[sumKey]sum // nil: not counted
	hows    map[howKey]sum // what is to be added to the sums by verdict, rule and category: most records have these in common
	summed  int64          // the last record that is in the table
	since   time.Time      // when they were written last
	hour    hourly
}

// hourly is which hosts and clients have sums in an hour.
type hourly struct {
	hour int64
	has  [2]map[int64]bool // of clients, of hosts
}

// counted is what counts of a record.
type counted struct {
	end, tx, rx       int64
	question, blocked bool
	by                [byCategory + 1]int64
}

// count adds a record to the sums.
func (s *sums) count(c counted) {
	hour := c.end - (c.end%hourMillis+hourMillis)%hourMillis
	one := sum{1, c.tx, c.rx}
	how := howKey{hour, c.question, c.blocked, c.by[byVerdict], c.by[byRule], c.by[byCategory]}
	s.hows[how] = s.hows[how].plus(one)
	for _, by := range []int{byClient, byHost} {
		k := sumKey{totalKind(by, c.question, c.blocked), hour, c.by[by]}
		s.pending[k] = s.pending[k].plus(one)
	}
}

// divide adds what records have in common to the sums by verdict, rule and category.
func (s *sums) divide() {
	for h, some := range s.hows {
		for by, key := range map[int]int64{byVerdict: h.verdict, byRule: h.rule, byCategory: h.category} {
			k := sumKey{totalKind(by, h.question, h.blocked), h.hour, key}
			s.pending[k] = s.pending[k].plus(some)
		}
	}
	clear(s.hows)
}

// recount counts the records that are not in the table, if that is not known.
func (w *tables) recount(ctx context.Context) error {
	if w.pending != nil {
		return nil
	}
	w.sums = sums{since: time.Now()}
	err := w.conn.QueryRowContext(ctx, "SELECT value FROM note WHERE name = 'summed'").Scan(&w.summed)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	rows, err := w.conn.QueryContext(ctx, `SELECT r.end, r.tx, r.rx, h.question, h.blocked, h.verdict, r.client, coalesce(p.host, 0), h.rule, h.category
		FROM record r JOIN how h ON h.id = r.how LEFT JOIN place p ON p.id = r.place WHERE r.id > ?`, w.summed)
	if err != nil {
		return err
	}
	defer rows.Close()
	w.pending, w.hows = make(map[sumKey]sum), make(map[howKey]sum)
	for rows.Next() {
		var c counted
		if err := rows.Scan(&c.end, &c.tx, &c.rx, &c.question, &c.blocked, &c.by[byVerdict], &c.by[byClient], &c.by[byHost], &c.by[byRule], &c.by[byCategory]); err != nil {
			return err
		}
		w.count(c)
	}
	return rows.Err()
}

// putSums adds to the table what is not in it yet.
func (w *writer) putSums(ctx context.Context) error {
	if err := w.recount(ctx); err != nil || w.id == w.summed {
		return err
	}
	w.divide()
	hours := make(map[int64]bool)
	for k := range w.pending {
		hours[k.hour] = true
	}
	for _, hour := range slices.Sorted(maps.Keys(hours)) {
		for _, by := range []int{byClient, byHost} {
			if err := w.few(ctx, by, hour); err != nil {
				return err
			}
		}
	}
	keys := slices.SortedFunc(maps.Keys(w.pending), func(a, b sumKey) int { // in the order of the table
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(a.hour, b.hour), cmp.Compare(a.key, b.key))
	})
	for _, k := range keys {
		s := w.pending[k]
		if _, err := w.do.total.ExecContext(ctx, k.kind, k.hour, k.key, s.n, s.tx, s.rx); err != nil {
			return err
		}
	}
	clear(w.pending)
	w.summed, w.since = w.id, time.Now()
	return w.put(ctx, "summed", w.summed)
}

// few makes sure that an hour does not have too many hosts or clients: those with the fewest records become one sum.
func (w *tables) few(ctx context.Context, by int, hour int64) error {
	if w.hour.hour != hour {
		w.hour = hourly{hour: hour}
	}
	has := &w.hour.has[by-byClient]
	if *has == nil {
		rows, err := w.conn.QueryContext(ctx, "SELECT DISTINCT key FROM total WHERE kind BETWEEN ? AND ? AND hour = ?", by<<2, by<<2|3, hour)
		if err != nil {
			return err
		}
		list, err := numbers(rows, 0)
		if err != nil {
			return err
		}
		*has = make(map[int64]bool)
		for _, key := range list {
			(*has)[key] = true
		}
	}
	fresh := make(map[int64]int64) // keys that the hour has no sum of, and their records
	for k, s := range w.pending {
		if k.kind>>2 == by && k.hour == hour && k.key > 0 && !(*has)[k.key] {
			fresh[k.key] += s.n
		}
	}
	if len(*has)+len(fresh) >= 2*hourNames && len(*has) > hourNames+2 { // with none and the others
		*has = nil
		if err := w.thin(ctx, by, hour, hourNames); err != nil {
			return err
		}
		return w.few(ctx, by, hour)
	}
	keys := slices.SortedFunc(maps.Keys(fresh), func(a, b int64) int { return cmp.Or(cmp.Compare(fresh[b], fresh[a]), cmp.Compare(a, b)) })
	room := max(2*hourNames-len(*has), 0)
	for _, key := range keys[:min(room, len(keys))] {
		(*has)[key] = true
	}
	for _, key := range keys[min(room, len(keys)):] {
		for kind := by << 2; kind <= by<<2|3; kind++ {
			k := sumKey{kind, hour, key}
			if s, ok := w.pending[k]; ok {
				others := sumKey{kind, hour, -1}
				w.pending[others] = w.pending[others].plus(s)
				delete(w.pending, k)
			}
		}
	}
	return nil
}

// thin leaves the largest sums of an hour, and makes one of the others.
func (w *tables) thin(ctx context.Context, by int, hour int64, leave int) error {
	const these = `kind BETWEEN ?1 AND ?2 AND hour = ?3 AND key > 0 AND key NOT IN
		(SELECT key FROM total WHERE kind BETWEEN ?1 AND ?2 AND hour = ?3 AND key > 0 GROUP BY key ORDER BY sum(n) DESC, key LIMIT ?4)`
	args := []any{by << 2, by<<2 | 3, hour, leave}
	_, err := w.conn.ExecContext(ctx, "INSERT INTO total SELECT kind, hour, -1, sum(n), sum(tx), sum(rx) FROM total WHERE "+these+` GROUP BY kind
		ON CONFLICT DO UPDATE SET n = n + excluded.n, tx = tx + excluded.tx, rx = rx + excluded.rx`, args...)
	if err == nil {
		_, err = w.dropSums(ctx, these, args...)
	}
	return err
}
