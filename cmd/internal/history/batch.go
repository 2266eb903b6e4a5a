package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"time"

	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/offsets"
	"penstock/cmd/internal/history/text"
)

const (
	spanRecords = offsets.Most   // at most in a span
	spanMillis  = 10 * 60 * 1000 // between the first and the last end in a span
	cached      = 16384          // IDs of each kind that the writer remembers at least
	placesEach  = 2              // times as many of places, of which there are most
	insertRows  = 40             // records, or rows of table list, that one statement inserts
	rowValues   = 8              // columns of a record
)

// statements are those that the writer uses all the time.
type statements struct {
	begin, commit, record, records, total, span, list, lists, place, addPlace, client, addClient, how, addHow *sql.Stmt
	find, add                                                                                                 [3]*sql.Stmt // of words, hosts, addresses
	latest                                                                                                    [listKinds]*sql.Stmt
	all                                                                                                       []*sql.Stmt
}

func prepare(ctx context.Context, conn *sql.Conn) (do statements, err error) {
	for _, s := range []struct {
		to   **sql.Stmt
		text string
	}{
		{&do.begin, "BEGIN IMMEDIATE"},
		{&do.commit, "COMMIT"},
		{&do.record, "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)"},
		// Without "or rollback" SQLite would copy each page first, to be able to undo half a statement.
		{&do.records, "INSERT OR ROLLBACK INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?)" + strings.Repeat(", (?, ?, ?, ?, ?, ?, ?, ?)", insertRows-1)},
		{&do.total, "INSERT INTO total VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n, tx = tx + excluded.tx, rx = rx + excluded.rx"},
		{&do.span, "INSERT OR REPLACE INTO span VALUES (?, ?, ?, ?, ?)"},
		{&do.list, "INSERT INTO list VALUES (?, ?, ?, ?)"},
		{&do.lists, "INSERT OR ROLLBACK INTO list VALUES (?, ?, ?, ?)" + strings.Repeat(", (?, ?, ?, ?)", insertRows-1)},
		{&do.latest[listHow], "UPDATE how SET latest = ?1 WHERE id IN (SELECT key FROM list WHERE first = ?1 AND kind = 0)"},
		{&do.latest[listClient], "UPDATE client SET latest = ?1 WHERE id IN (SELECT key FROM list WHERE first = ?1 AND kind = 1)"},
		{&do.latest[listPlace], "UPDATE place SET latest = ?1 WHERE id IN (SELECT key FROM list WHERE first = ?1 AND kind = 2)"},
		{&do.place, "SELECT id FROM place WHERE host = ? AND addr = ?"},
		{&do.addPlace, "INSERT INTO place (host, addr) VALUES (?, ?)"},
		{&do.client, "SELECT id FROM client WHERE peer = ? AND addr = ?"},
		{&do.addClient, "INSERT INTO client (peer, addr) VALUES (?, ?)"},
		{&do.how, "SELECT id FROM how WHERE text = ?"},
		{&do.addHow, "INSERT INTO how (question, blocked, verdict, rule, category, text) VALUES (?, ?, ?, ?, ?, ?)"},
		{&do.find[0], "SELECT id FROM word WHERE text = ?"},
		{&do.add[0], "INSERT INTO word (text) VALUES (?)"},
		{&do.find[1], "SELECT id FROM host WHERE rev = ?"},
		{&do.add[1], "INSERT INTO host (rev) VALUES (?)"},
		{&do.find[2], "SELECT id FROM addr WHERE text = ?"},
		{&do.add[2], "INSERT INTO addr (text) VALUES (?)"},
	} {
		if *s.to, err = conn.PrepareContext(ctx, s.text); err != nil {
			return do, err
		}
		do.all = append(do.all, *s.to)
	}
	return do, nil
}

func (do *statements) close() {
	for _, s := range do.all {
		s.Close()
	}
	do.all = nil
}

// names are IDs that the writer remembers.
type names struct {
	words   memory[string, int64]
	clients memory[[2]string, int64]
	places  memory[[2]uint64, placed] // by two hashes of host and address: the texts themselves would take most of the memory
	hows    memory[circumstances, circumstance]
}

type placed struct{ id, host int64 }

type circumstance struct{ id, verdict, rule, category int64 }

// memory remembers what was used last: when young is full it becomes old, and what was old is forgotten.
type memory[K comparable, V any] struct {
	young, old map[K]V
	most       int // of each; 0: cached
}

func (m *memory[K, V]) get(k K) (v V, ok bool) {
	if v, ok = m.young[k]; ok {
		return v, true
	}
	if v, ok = m.old[k]; ok {
		m.put(k, v)
	}
	return v, ok
}

func (m *memory[K, V]) put(k K, v V) {
	if m.young == nil || len(m.young) >= cmp.Or(m.most, cached) {
		m.young, m.old = make(map[K]V), m.young
	}
	m.young[k] = v
}

// forget removes what has one of some IDs.
func (m *memory[K, V]) forget(ids []int64, id func(V) int64) {
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	gone := func(_ K, v V) bool {
		_, found := slices.BinarySearch(ids, id(v))
		return found
	}
	maps.DeleteFunc(m.young, gone)
	maps.DeleteFunc(m.old, gone)
}

// row returns the ID of the row that find finds, and otherwise adds one.
func row(ctx context.Context, find, add *sql.Stmt, key, values []any) (id int64, fresh bool, err error) {
	err = find.QueryRowContext(ctx, key...).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, false, err
	}
	id, err = addRow(ctx, add, values...)
	return id, true, err
}

func addRow(ctx context.Context, add *sql.Stmt, values ...any) (id int64, err error) {
	result, err := add.ExecContext(ctx, values...)
	if err != nil {
		return 0, err
	}
	return result.LastInsertId()
}

const (
	ofWord = iota
	ofHost
	ofAddr
)

// text returns the ID of a text, 0 for none, and whether it was added.
func (w *tables) text(ctx context.Context, of int, s string) (id int64, fresh bool, err error) {
	if s == "" {
		return 0, false, nil
	}
	if of == ofWord { // hosts and addresses are remembered as places
		if id, ok := w.names.words.get(s); ok {
			return id, false, nil
		}
	}
	key := []any{s}
	if of == ofHost {
		key[0] = text.Reversed(s)
	}
	id, fresh, err = row(ctx, w.do.find[of], w.do.add[of], key, key)
	if err == nil && of == ofWord {
		w.names.words.put(s, id)
	}
	return id, fresh, err
}

func (w *tables) client(ctx context.Context, e entry) (int64, error) {
	if !e.hasClient {
		return 0, nil
	}
	key := [2]string{e.peer, e.src}
	if id, ok := w.names.clients.get(key); ok {
		return id, nil
	}
	args := []any{e.peer, e.src}
	id, _, err := row(ctx, w.do.client, w.do.addClient, args, args)
	if err == nil {
		w.names.clients.put(key, id)
	}
	return id, err
}

func (w *tables) place(ctx context.Context, e entry) (p placed, err error) {
	if e.host == "" && e.dst == "" {
		return placed{}, nil
	}
	names := [2]string{e.host, e.dst}
	key := [2]uint64{maphash.Comparable(w.seeds[0], names), maphash.Comparable(w.seeds[1], names)}
	if p, ok := w.names.places.get(key); ok {
		return p, nil
	}
	var newHost, newAddr bool
	if p.host, newHost, err = w.text(ctx, ofHost, e.host); err != nil {
		return p, err
	}
	addr, newAddr, err := w.text(ctx, ofAddr, e.dst)
	if err != nil {
		return p, err
	}
	args := []any{p.host, addr}
	if newHost || newAddr { // no need to look for it
		p.id, err = addRow(ctx, w.do.addPlace, args...)
	} else {
		p.id, _, err = row(ctx, w.do.place, w.do.addPlace, args, args)
	}
	if err == nil {
		w.names.places.most = placesEach * cached
		w.names.places.put(key, p)
	}
	return p, err
}

func (w *tables) how(ctx context.Context, e entry) (c circumstance, err error) {
	if c, ok := w.names.hows.get(e.how); ok {
		return c, nil
	}
	for _, of := range []struct {
		text string
		to   *int64
	}{{e.how.verdict, &c.verdict}, {e.how.rule, &c.rule}, {e.how.category, &c.category}} {
		if *of.to, _, err = w.text(ctx, ofWord, of.text); err != nil {
			return c, err
		}
	}
	text := e.how.text()
	c.id, _, err = row(ctx, w.do.how, w.do.addHow, []any{text}, []any{e.isQuestion, e.how.blocked(), c.verdict, c.rule, c.category, text})
	if err == nil {
		w.names.hows.put(e.how, c)
	}
	return c, err
}

// write writes a batch in one transaction.
func (w *writer) write(ctx context.Context, batch []control.Record) error {
	return w.within(ctx, func() error {
		if err := w.recount(ctx); err != nil {
			return err
		}
		if err := w.relist(ctx); err != nil {
			return err
		}
		w.rows = w.rows[:0]
		for _, r := range batch {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// To be able to end each of so many statements would cost as much again: between them is often enough.
			if err := w.add(context.WithoutCancel(ctx), w.store.kept.entry(r)); err != nil {
				return err
			}
		}
		if err := w.insert(ctx); err != nil {
			return err
		}
		if err := w.putSpan(ctx, false); err != nil {
			return err
		}
		if w.id-w.summed < sumRecords && time.Since(w.since) < sumEvery {
			return nil
		}
		return w.putSums(ctx)
	})
}

// add inserts a record, together with others.
func (w *writer) add(ctx context.Context, e entry) error {
	how, err := w.how(ctx, e)
	if err != nil {
		return err
	}
	client, err := w.client(ctx, e)
	if err != nil {
		return err
	}
	place, err := w.place(ctx, e)
	if err != nil {
		return err
	}
	w.id++
	tx, rx := int64(min(e.tx, 1<<62)), int64(min(e.rx, 1<<62))
	if w.rows = append(w.rows, w.id, e.end, how.id, client, place.id, tx, rx, e.rest); len(w.rows) == insertRows*rowValues {
		if _, err := w.do.records.ExecContext(ctx, w.rows...); err != nil {
			return err
		}
		w.rows = w.rows[:0]
	}
	w.count(counted{e.end, tx, rx, e.isQuestion, e.how.blocked(), [...]int64{how.verdict, client, place.host, how.rule, how.category}})
	return w.grow(ctx, w.id, e.end, [listKinds]int64{how.id, client, place.id})
}

// insert inserts the records that are too few to be inserted together.
func (w *tables) insert(ctx context.Context) error {
	for list := range slices.Chunk(w.rows, rowValues) {
		if _, err := w.do.record.ExecContext(ctx, list...); err != nil {
			return err
		}
	}
	clear(w.rows[:cap(w.rows)])
	w.rows = w.rows[:0]
	return nil
}

// numbers reads numbers, at most max of them if that is not 0.
func numbers(rows *sql.Rows, max int) (list []int64, err error) {
	defer rows.Close()
	for (max == 0 || len(list) < max) && rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, rows.Err()
}
