package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	"penstock/cmd/internal/clock"
	"penstock/cmd/internal/control"
	"penstock/cmd/internal/history/database"
	"penstock/cmd/internal/peerbook"
)

// writer is the goroutine that alone changes the database. Its fields are its own.
type writer struct {
	store *Store
	start time.Time // of the writer, with the monotonic clock
	retry time.Time // no attempt to open the file before
	tidy  time.Time // when old records are looked for next

	trouble
	tables
	unlock func()
	db     *sql.DB
	file   opened
	id     int64 // of the last record
	age    clock.Age
	noted  int64 // the time that was written down last, ms since 1970
	behind bool  // there are more records to remove
	recent int   // records in this minute
	most   int   // in the busiest minute since memory was freed
}

func newWriter(s *Store) *writer {
	return &writer{store: s, start: time.Now(), trouble: trouble{store: s}, tables: tables{seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}}}
}

// tables are what the writer does with the tables of the database, and what it remembers of them.
type tables struct {
	conn  *sql.Conn
	do    statements
	names names
	seeds [2]maphash.Seed // of places in names
	span  span

	relisted bool  // every span but the present one is in table list
	rows     []any // values of records that wait for others to be inserted with
	sums
}

// run writes until the store is closed and its queue is empty.
func (w *writer) run(ctx context.Context, opened chan<- error) {
	defer close(w.store.done)
	defer w.close(ctx)
	err := w.open(ctx)
	opened <- err
	if errors.Is(err, ErrInUse) && !w.store.late.Load() {
		return // Open says so
	}
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for more := true; more; {
		over := false
		select {
		case <-w.store.wake:
			w.gather()
		case <-tick.C:
			over = true
		}
		for again := true; again; { // a full queue is a batch after another
			var list []control.Record
			list, more = w.store.take()
			again = len(list) >= batchSize
			w.work(ctx, list)
		}
		if over {
			w.minuteIsOver(ctx)
		}
	}
}

// gather waits until there are enough records for a batch, or long enough.
func (w *writer) gather() {
	wait := time.NewTimer(batchWait)
	defer wait.Stop()
	w.store.mu.Lock()
	hurry := w.store.closed
	w.store.mu.Unlock()
	if hurry {
		return
	}
	select {
	case <-w.store.full:
	case <-wait.C:
	}
}

// work writes records, in batches, and tidies up.
func (w *writer) work(ctx context.Context, list []control.Record) {
	if w.store.damaged.Swap(false) && w.conn != nil {
		w.anew(ctx)
	}
	if w.conn == nil && !time.Now().Before(w.retry) {
		w.open(ctx)
	}
	w.recent += len(list)
	for batch := range slices.Chunk(list, batchSize) {
		w.batch(ctx, batch)
		w.store.took(batch)
		w.tidyUp(ctx)
	}
	if len(list) == 0 {
		w.tidyUp(ctx)
	}
	if cap(list) > 0 {
		w.store.again(list)
	}
}

// batch writes a batch, or counts it as lost.
func (w *writer) batch(ctx context.Context, batch []control.Record) {
	reason := "file"
	if w.conn != nil {
		err := w.write(ctx, batch)
		if err == nil {
			w.well()
			return
		}
		reason = w.fail(ctx, err)
	} else if database.NoRoom(w.store.readers.Reason()) {
		reason = "disk"
	}
	w.lost += len(batch)
	w.store.metrics.drop(reason, len(batch))
}

func (w *writer) tidyUp(ctx context.Context) {
	if w.conn != nil {
		if err := w.maintain(ctx); err != nil {
			w.fail(ctx, err)
		}
	}
}

const (
	quietMinute = 1000   // records: with fewer in a minute, it costs little to look all names up again
	burst       = 20_000 // records in a minute that leave behind so much memory that it is worth a collection
)

// minuteIsOver frees memory when there was less to do than before.
func (w *writer) minuteIsOver(ctx context.Context) {
	w.most = max(w.most, w.recent)
	if w.recent < quietMinute || w.recent <= w.most/2 {
		w.rest(ctx)
		if w.most >= burst {
			w.reconnect(ctx)
			debug.FreeOSMemory() // the runtime alone would give it back over minutes
		}
		w.most = w.recent
	}
	w.recent = 0
}

// rest frees memory.
func (w *writer) rest(ctx context.Context) {
	w.store.rest()
	if w.conn == nil {
		return
	}
	err := w.within(ctx, func() error {
		if w.span.last-w.span.first >= quietMinute {
			if err := w.endSpan(ctx); err != nil {
				return err
			}
		}
		return w.putSums(ctx)
	})
	if err != nil {
		w.fail(ctx, err)
		return
	}
	w.names, w.rows = names{}, nil
	w.pending, w.hows, w.hour = make(map[sumKey]sum), make(map[howKey]sum), hourly{}
	w.conn.ExecContext(ctx, "PRAGMA shrink_memory") // it can wait for another time
}

// reconnect opens the database again: SQLite alone leaves its memory in pieces.
func (w *writer) reconnect(ctx context.Context) {
	if w.conn == nil {
		return
	}
	w.disconnect(w.db)
	w.db = nil
	c := w.store.config
	var err error
	if w.db, w.conn, err = database.Connect(ctx, c.File, c.MaxSize); err == nil {
		w.do, err = prepare(ctx, w.conn)
	} else {
		w.db, w.conn = nil, nil
	}
	if err != nil {
		w.shut()
		w.off(err)
	}
}

// open opens the file. What cannot be used is set aside, and a file begun anew.
func (w *writer) open(ctx context.Context) error {
	err := w.tryOpen(ctx)
	if database.IsDamage(err) {
		to, failed := database.SetAside(w.store.config.File, errors.Is(err, database.ErrForeign), w.store.config.now())
		if failed == nil {
			w.store.log.Warn("the history is begun anew: its file cannot be used", "file", w.store.config.File, "err", err, "moved", to)
			failed = w.tryOpen(ctx)
		}
		err = failed
	}
	if err != nil {
		w.off(err)
		return err
	}
	db, err := sql.Open("sqlite", database.Source(w.store.config.File, "mode=ro", "_pragma=query_only(1)", "_pragma=cache_size(-1024)"))
	if err != nil {
		w.off(err)
		return err
	}
	db.SetMaxOpenConns(database.MaxReaders)
	db.SetMaxIdleConns(1)
	db.SetConnMaxIdleTime(tidyEvery / 2)
	w.store.readers.Use(db, nil)
	w.store.state("")
	w.tidy = time.Time{}
	return nil
}

func (w *writer) tryOpen(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			w.shut()
		}
	}()
	c := w.store.config
	if err := os.MkdirAll(filepath.Dir(c.File), 0o700); err != nil { // at a first start nobody else may have made it yet
		return err
	}
	if w.unlock == nil {
		wait, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		if w.unlock, err = peerbook.LockFile(wait, c.File+".lock"); err != nil {
			w.unlock = nil
			if errors.Is(err, context.DeadlineExceeded) {
				return ErrInUse
			}
			return err
		}
	}
	if w.db, w.conn, err = database.Open(ctx, c.File, c.MaxSize); err != nil {
		w.db, w.conn = nil, nil
		return err
	}
	if w.file, err = look(c.File); err != nil {
		return err
	}
	if w.do, err = prepare(ctx, w.conn); err != nil {
		return err
	}
	var seen sql.NullInt64
	err = w.conn.QueryRowContext(ctx, `SELECT coalesce(max(id), 0), (SELECT value FROM note WHERE name = 'seen') FROM record`).Scan(&w.id, &seen)
	w.age = clock.Age{}
	if seen.Valid {
		w.age.Seen = time.UnixMilli(seen.Int64)
	}
	w.names, w.span, w.relisted, w.sums, w.noted, w.behind = names{}, span{}, false, sums{}, 0, false
	var last sql.NullInt64 // IDs are never used again, so that a page that somebody reads does not change
	if err == nil {
		err = w.conn.QueryRowContext(ctx, `SELECT value FROM note WHERE name = 'id'`).Scan(&last)
		if errors.Is(err, sql.ErrNoRows) {
			err = nil
		}
		w.id = max(w.id, last.Int64)
	}
	return err
}

// shut closes the database, but keeps the lock.
func (w *writer) shut() {
	if former := w.store.readers.Use(nil, errors.New("the history is not open")); former != nil {
		former.Close() // waits for nobody: who reads gets an error
	}
	w.disconnect(w.db)
	w.db = nil
}

// disconnect closes the database.
func (w *tables) disconnect(db *sql.DB) {
	if w.conn != nil {
		w.do.close()
		w.conn.Close()
	}
	if db != nil {
		db.Close()
	}
	w.conn = nil
}

// close frees everything.
func (w *writer) close(ctx context.Context) {
	if w.conn != nil {
		w.within(ctx, func() error { return errors.Join(w.endSpan(ctx), w.putSums(ctx)) }) // else the next start lists and counts
		w.note(ctx)
	}
	w.shut()
	if w.unlock != nil {
		w.unlock()
	}
}

// fail decides what follows from an error, and returns the reason that records are lost for.
func (w *writer) fail(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "stop"
	case database.IsDamage(err):
		w.anew(ctx)
		return "file"
	}
	w.tell(err)
	if w.conn != nil && !database.NoRoom(err) {
		w.shut() // whatever it is, it may be over after a new beginning
		w.off(err)
	}
	return "disk"
}

// anew sets a damaged file aside and begins another one.
func (w *writer) anew(ctx context.Context) {
	w.shut()
	to, err := database.SetAside(w.store.config.File, false, w.store.config.now())
	if err != nil {
		w.off(err)
		return
	}
	w.store.log.Warn("the history is begun anew: its file is damaged", "file", w.store.config.File, "moved", to)
	w.open(ctx)
}

// off says why there is no history.
func (w *writer) off(err error) {
	if !errors.Is(err, ErrInUse) || w.store.late.Load() {
		w.tell(err)
	}
	w.retry = time.Now().Add(cmp.Or(w.store.config.retry, retryWait))
	w.store.readers.Use(nil, fmt.Errorf("the history %s is off: %w", w.store.config.File, err))
}

// trouble is why records are lost.
type trouble struct {
	store *Store
	told  string // that was logged last
	lost  int    // records since then
}

// tell logs a trouble once.
func (w *trouble) tell(err error) {
	text := err.Error()
	w.store.state(text)
	if text != w.told {
		w.told = text
		w.store.log.Warn("the history cannot be written: records are lost", "file", w.store.config.File, "err", err)
	}
}

// well notes that a batch was written.
func (w *trouble) well() {
	if w.told == "" {
		return
	}
	w.store.log.Info("the history is written again", "file", w.store.config.File, "lost", w.lost)
	w.store.state("")
	w.told, w.lost = "", 0
}

// within runs f in a transaction. What is remembered of the database is forgotten if it fails.
func (w *writer) within(ctx context.Context, f func() error) error {
	id := w.id
	_, err := w.do.begin.ExecContext(ctx)
	if err == nil {
		if err = f(); err == nil {
			_, err = w.do.commit.ExecContext(ctx)
		}
		if err != nil {
			w.conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}
	if err != nil {
		w.names, w.sums, w.span, w.relisted, w.id = names{}, sums{}, span{}, false, id
	}
	return err
}
