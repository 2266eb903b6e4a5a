package history

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"penstock/cmd/internal/clock"

	"penstock/cmd/internal/history/database"
)

const (
	step     = 1000                 // rows that one statement removes
	steps    = 6                    // spans that are removed between two batches
	keepSums = 366 * 24 * time.Hour // how long the sums of hours stay
	fewNames = 100                  // hosts, and clients, of which an hour has sums when its records are gone
	sumBytes = 40                   // of a row of table total with its index, about
)

// maintain removes what is too old or too much, in small steps. What is left to do is done when the writer comes by again, soon.
func (w *writer) maintain(ctx context.Context) error {
	if err := w.shrinkLog(ctx); err != nil {
		return err
	}
	now := w.age.Now(w.store.config.now(), time.Since(w.start))
	free, used, err := w.size(ctx)
	if err != nil {
		return err
	}
	limit := w.store.config.MaxSize - 2*database.WALSize(w.store.config.MaxSize)
	again := false
	due := !time.Now().Before(w.tidy) || w.store.soon.Swap(false)
	if due {
		w.tidy = time.Now().Add(tidyEvery)
		if w.file.replaced() {
			w.store.log.Warn("the history is begun anew: somebody has moved or removed its file", "file", w.store.config.File)
			w.shut()
			w.open(ctx)
			return nil
		}
		if err := w.tidySums(ctx, now, used > limit, limit); err != nil {
			return err
		}
	}
	if due || used > limit || w.behind {
		for range steps {
			if again, err = w.removeOldest(ctx, now, used > limit); err != nil {
				return err
			}
			if _, used, err = w.size(ctx); err != nil || !again {
				break
			}
		}
		w.behind = again
	}
	if err == nil && (free > limit/8 || free > 0 && free+used > limit) {
		_, err = w.conn.ExecContext(ctx, "PRAGMA incremental_vacuum(256)")
		again = true
	}
	if again {
		poke(w.store.wake)
	}
	if m := w.store.metrics; m != nil {
		m.size.Set(float64(used))
	}
	return err
}

// size returns how many bytes of the file are free, and in use.
func (w *tables) size(ctx context.Context) (free, used int64, err error) {
	var pages, unused int64
	if err = w.conn.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err == nil {
		err = w.conn.QueryRowContext(ctx, "PRAGMA freelist_count").Scan(&unused)
	}
	return unused * database.PageSize, (pages - unused) * database.PageSize, err
}

// opened is a file as it was opened.
type opened struct {
	path string
	info os.FileInfo
}

// look returns a file that has just been opened.
func look(path string) (opened, error) {
	info, err := os.Stat(path)
	return opened{path, info}, err
}

// replaced tells whether the file is another one by now.
func (o opened) replaced() bool {
	info, err := os.Stat(o.path)
	return errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(info, o.info)
}

// shrinkLog lets the write-ahead log begin anew if it has become large, because somebody has read all the time.
func (w *writer) shrinkLog(ctx context.Context) error {
	info, err := os.Stat(w.store.config.File + "-wal")
	if err != nil || info.Size() <= 2*database.WALSize(w.store.config.MaxSize) {
		w.store.readers.Hold(false)
		return nil
	}
	if !w.store.readers.Hold(true) {
		poke(w.store.wake) // nobody begins to read until those who do have finished
		return nil
	}
	_, err = w.conn.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	w.store.readers.Hold(false)
	return err
}

// removeOldest removes some records that are too old, or the oldest if there is no room. more tells whether others may follow.
func (w *writer) removeOldest(ctx context.Context, now time.Time, noRoom bool) (more bool, err error) {
	// The time of a span after now is wrong. It goes with the next one that is old, so that a clock that was ahead for a while does not
	// keep records for ever.
	const old = `SELECT first, last, until FROM span s WHERE until < ?1
		OR until > ?2 AND EXISTS (SELECT 1 FROM span WHERE first > s.first AND until < ?1) ORDER BY first LIMIT 1`
	text, args := old, []any{now.Add(-w.store.config.Keep).UnixMilli(), now.Add(clock.Slack).UnixMilli()}
	if noRoom {
		text, args = "SELECT first, last, until FROM span ORDER BY first LIMIT 1", nil
	}
	var first, last, until int64
	err = w.conn.QueryRowContext(ctx, text, args...).Scan(&first, &last, &until)
	if errors.Is(err, sql.ErrNoRows) {
		if noRoom {
			return w.removeSums(ctx)
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = w.within(ctx, func() error {
		if err := w.recount(ctx); err != nil {
			return err
		}
		if w.summed < last { // their sums stay
			if err := w.putSums(ctx); err != nil {
				return err
			}
		}
		if err := w.relist(ctx); err != nil {
			return err
		}
		if w.span.first == first {
			if err := w.endSpan(ctx); err != nil {
				return err
			}
		}
		if err := w.dropSpan(ctx, first, last); err != nil {
			return err
		}
		if until <= now.Add(clock.Slack).UnixMilli() { // else its time is wrong
			_, err := w.conn.ExecContext(ctx, "INSERT INTO note VALUES ('gone', ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)", until)
			if err != nil {
				return err
			}
		}
		return w.put(ctx, "id", w.id)
	})
	return err == nil, err
}

// removeSums removes the sums of the oldest hour.
func (w *writer) removeSums(ctx context.Context) (more bool, err error) {
	err = w.within(ctx, func() error {
		w.hour = hourly{}
		n, err := w.dropSums(ctx, "hour <= (SELECT min(hour) FROM total WHERE kind < 4)")
		more = n > 0
		return err
	})
	return more, err
}

// tidySums thins out the sums of hours whose records are gone, and removes those that are too old or take the room of records.
func (w *writer) tidySums(ctx context.Context, now time.Time, noRoom bool, limit int64) error {
	if time.Duration(now.UnixMilli()-w.noted)*time.Millisecond >= time.Hour {
		if err := w.note(ctx); err != nil {
			return err
		}
	}
	var rows int64
	if noRoom {
		if err := w.conn.QueryRowContext(ctx, "SELECT count(*) FROM total").Scan(&rows); err != nil {
			return err
		}
	}
	for n := 0; rows*sumBytes > limit/3 && n < 24; n++ {
		before := rows
		if _, err := w.removeSums(ctx); err != nil {
			return err
		}
		if err := w.conn.QueryRowContext(ctx, "SELECT count(*) FROM total").Scan(&rows); err != nil || rows == before {
			return err
		}
	}
	return w.within(ctx, func() error {
		for kind := range totalKind(byCategory, true, true) + 1 { // a day of them at most
			if _, err := w.dropSums(ctx, "kind = ?1 AND hour < ?2 AND hour < (SELECT min(hour) FROM total WHERE kind = ?1) + ?3",
				kind, now.Add(-keepSums).UnixMilli(), 24*hourMillis); err != nil {
				return err
			}
		}
		var thinned int64
		err := w.conn.QueryRowContext(ctx, "SELECT value FROM note WHERE name = 'thinned'").Scan(&thinned)
		for n := 0; (err == nil || errors.Is(err, sql.ErrNoRows)) && n < 24; n++ {
			err = w.conn.QueryRowContext(ctx, "SELECT hour FROM total WHERE kind = 0 AND hour > ?1 AND hour < ?2 UNION SELECT hour FROM total WHERE kind = 2 AND hour > ?1 AND hour < ?2 ORDER BY hour LIMIT 1",
				thinned, now.Add(-w.store.config.Keep).UnixMilli()-hourMillis).Scan(&thinned)
			if errors.Is(err, sql.ErrNoRows) {
				return nil
			}
			for _, by := range []int{byClient, byHost} {
				if err == nil {
					err = w.thin(ctx, by, thinned, fewNames)
				}
			}
			if err == nil {
				err = w.put(ctx, "thinned", thinned)
			}
		}
		return err
	})
}

// note writes down what must be known after a restart.
func (w *writer) note(ctx context.Context) error {
	if w.age.Seen.IsZero() {
		return nil
	}
	w.noted = w.age.Seen.UnixMilli()
	return errors.Join(w.put(ctx, "seen", w.noted), w.put(ctx, "id", w.id))
}

func (w *tables) put(ctx context.Context, name string, value int64) error {
	_, err := w.conn.ExecContext(ctx, "INSERT OR REPLACE INTO note VALUES (?, ?)", name, value)
	return err
}

// dropSums removes sums of hours, and names that nothing else needs.
func (w *tables) dropSums(ctx context.Context, where string, args ...any) (n int, err error) {
	rows, err := w.conn.QueryContext(ctx, "DELETE FROM total WHERE "+where+" RETURNING kind, key", args...)
	if err != nil {
		return 0, err
	}
	var kinds, keys, clients, hosts []int64
	if err := columns(rows, &kinds, &keys); err != nil {
		return 0, err
	}
	for i, kind := range kinds {
		switch kind >> 2 {
		case byClient:
			clients = append(clients, keys[i])
		case byHost:
			hosts = append(hosts, keys[i])
		}
	}
	return len(kinds), w.release(ctx, nil, clients, nil, hosts)
}

// release removes those of some names that nothing needs any more.
func (w *tables) release(ctx context.Context, places, clients, hows, hosts []int64) error {
	var gone [4][]int64
	var addrs []int64
	if err := w.relist(ctx); err != nil {
		return err
	}
	// A name that no record has is neither in the span that had it last nor in one before it.
	unlisted := func(kind int) string {
		return fmt.Sprintf(`NOT EXISTS (SELECT 1 FROM span WHERE first = t.latest) AND NOT EXISTS
			(SELECT 1 FROM span s CROSS JOIN list l ON l.first = s.first AND l.kind = %d AND l.key = t.id WHERE s.first < t.latest)`, kind)
	}
	for kind, ids := range map[int]*[]int64{listPlace: &places, listClient: &clients, listHow: &hows} {
		*ids = w.span.without(kind, *ids)
	}
	const inSums = "NOT EXISTS (SELECT 1 FROM total WHERE key = t.id AND kind BETWEEN 4 AND 11 AND kind BETWEEN "
	for _, r := range []struct {
		ids    *[]int64
		table  string
		unused string
		then   string
		to     []*[]int64
	}{
		{&places, "place", unlisted(listPlace), "id, host, addr", []*[]int64{&gone[0], &hosts, &addrs}},
		{&hosts, "host", "NOT EXISTS (SELECT 1 FROM place WHERE host = t.id) AND " + inSums + "8 AND 11)", "id", []*[]int64{&gone[3]}},
		{&addrs, "addr", "NOT EXISTS (SELECT 1 FROM place WHERE addr = t.id)", "id", []*[]int64{&gone[3]}},
		{&clients, "client", unlisted(listClient) + " AND " + inSums + "4 AND 7)", "id", []*[]int64{&gone[1]}},
		{&hows, "how", unlisted(listHow), "id", []*[]int64{&gone[2]}},
	} {
		slices.Sort(*r.ids)
		for list := range slices.Chunk(slices.Compact(*r.ids), step) {
			where, _ := choice{column: "id", ids: list}.where()
			rows, err := w.conn.QueryContext(ctx, fmt.Sprintf("DELETE FROM %s AS t WHERE %s AND %s RETURNING %s", r.table, where, r.unused, r.then))
			if err != nil {
				return err
			}
			if err := columns(rows, r.to...); err != nil {
				return err
			}
		}
	}
	w.names.places.forget(gone[0], func(p placed) int64 { return p.id })
	w.names.clients.forget(gone[1], func(id int64) int64 { return id })
	w.names.hows.forget(gone[2], func(c circumstance) int64 { return c.id })
	return nil
}

// columns appends the columns of rows to lists.
func columns(rows *sql.Rows, lists ...*[]int64) error {
	defer rows.Close()
	values, to := make([]int64, len(lists)), make([]any, len(lists))
	for i := range values {
		to[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(to...); err != nil {
			return err
		}
		for i, list := range lists {
			*list = append(*list, values[i])
		}
	}
	return rows.Err()
}
