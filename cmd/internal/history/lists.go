package history

import (
	"context"
	"slices"

	"penstock/cmd/internal/history/offsets"
)

// The kinds of table list.
const (
	listHow = iota
	listClient
	listPlace
	listKinds
)

const listValues = 4 // columns of table list

// span is some records that were written one after another. When it ends, table list gets which of them have what, all at once: an
// index would change a page of the file for nearly each record, and this adds to the end of a table. Who reads looks through the
// records of a span that is not listed.
type span struct {
	first, last, begin, until int64
	keys                      [listKinds][]int64 // of its records, 0 for none
}

// without returns those of some keys that no record of the span has.
func (s *span) without(kind int, keys []int64) []int64 {
	if len(keys) == 0 || len(s.keys[kind]) == 0 {
		return keys
	}
	has := make(map[int64]bool)
	for _, key := range s.keys[kind] {
		has[key] = true
	}
	return slices.DeleteFunc(keys, func(key int64) bool { return has[key] })
}

// grow makes the present span have a record that was added, or begins another one.
func (w *tables) grow(ctx context.Context, id, end int64, keys [listKinds]int64) error {
	s := &w.span
	begin, until := min(s.begin, end), max(s.until, end)
	if s.first > 0 && id-s.first < spanRecords && until-begin <= spanMillis {
		s.last, s.begin, s.until = id, begin, until
	} else {
		room := s.keys
		if err := w.endSpan(ctx); err != nil {
			return err
		}
		*s = span{first: id, last: id, begin: end, until: end}
		for kind := range keys {
			s.keys[kind] = room[kind][:0]
		}
	}
	for kind, key := range keys {
		s.keys[kind] = append(s.keys[kind], key)
	}
	return nil
}

// putSpan writes the present span down.
func (w *tables) putSpan(ctx context.Context, listed bool) error {
	if w.span.first == 0 {
		return nil
	}
	_, err := w.do.span.ExecContext(ctx, w.span.first, w.span.last, w.span.begin, w.span.until, listed)
	return err
}

// endSpan ends the present span and lists it.
func (w *tables) endSpan(ctx context.Context) error {
	if w.span.first == 0 {
		return nil
	}
	err := w.putSpan(ctx, true)
	if err == nil {
		err = w.list(ctx, w.span.first, w.span.keys)
	}
	w.span = span{}
	return err
}

// list fills table list with a span: the keys of its records by kind.
func (w *tables) list(ctx context.Context, first int64, keys [listKinds][]int64) error {
	var packed []byte
	var rows []any
	with := make([]uint64, 0, len(keys[0])) // keys, each with the offset of its record
	for kind, of := range keys {
		with = with[:0]
		for i, key := range of {
			if key > 0 {
				with = append(with, uint64(key)<<offsets.Bits|uint64(i))
			}
		}
		slices.Sort(with)
		for left := with; len(left) > 0; {
			key, n := left[0]>>offsets.Bits, 1
			for n < len(left) && left[n]>>offsets.Bits == key {
				n++
			}
			var at any
			at, packed = offsets.Pack(packed, left[:n])
			rows = append(rows, first, kind, int64(key), at)
			left = left[n:]
		}
	}
	for len(rows) >= insertRows*listValues {
		if _, err := w.do.lists.ExecContext(ctx, rows[:insertRows*listValues]...); err != nil {
			return err
		}
		rows = rows[insertRows*listValues:]
	}
	for row := range slices.Chunk(rows, listValues) {
		if _, err := w.do.list.ExecContext(ctx, row...); err != nil {
			return err
		}
	}
	for _, latest := range w.do.latest {
		if _, err := latest.ExecContext(ctx, first); err != nil {
			return err
		}
	}
	return nil
}

// relist lists the spans that the present writer has not begun, if that is not known to be done: those of a former version, and the last
// one before a start or an error.
func (w *tables) relist(ctx context.Context) error {
	if w.relisted {
		return nil
	}
	rows, err := w.conn.QueryContext(ctx, "SELECT first, last FROM span WHERE NOT listed AND first != ?", w.span.first)
	if err != nil {
		return err
	}
	var firsts, lasts []int64
	if err := columns(rows, &firsts, &lasts); err != nil {
		return err
	}
	for i, first := range firsts {
		var ids []int64
		var found, keys [listKinds][]int64
		last := min(lasts[i], first+spanRecords-1)
		rows, err := w.conn.QueryContext(ctx, "SELECT id, how, client, place FROM record WHERE id BETWEEN ? AND ?", first, last)
		if err == nil {
			err = columns(rows, &ids, &found[listHow], &found[listClient], &found[listPlace])
		}
		if err != nil {
			return err
		}
		for kind := range keys {
			keys[kind] = make([]int64, max(last-first+1, 0))
			for n, id := range ids {
				keys[kind][id-first] = found[kind][n]
			}
		}
		if err := w.list(ctx, first, keys); err != nil {
			return err
		}
		if _, err := w.conn.ExecContext(ctx, "UPDATE span SET listed = 1 WHERE first = ?", first); err != nil {
			return err
		}
	}
	w.relisted = true
	return nil
}

// dropSpan removes a span that is listed, and its records.
func (w *tables) dropSpan(ctx context.Context, first, last int64) error {
	for _, text := range []string{"DELETE FROM record WHERE id BETWEEN ? AND ?", "DELETE FROM span WHERE first BETWEEN ? AND ?"} {
		if _, err := w.conn.ExecContext(ctx, text, first, last); err != nil {
			return err
		}
	}
	rows, err := w.conn.QueryContext(ctx, "DELETE FROM list WHERE first = ? RETURNING kind, key", first)
	if err != nil {
		return err
	}
	var kinds, keys []int64
	if err := columns(rows, &kinds, &keys); err != nil {
		return err
	}
	var used [listKinds][]int64
	for i, kind := range kinds {
		used[kind] = append(used[kind], keys[i])
	}
	return w.release(ctx, used[listPlace], used[listClient], used[listHow], nil)
}
