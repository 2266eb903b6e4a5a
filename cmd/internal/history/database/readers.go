package database

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"sync"
)

// MaxReaders is how many may read at once.
const MaxReaders = 2

// Readers lets few read at once, and nobody while the writer changes the file or the log has grown too large: a log can begin anew only
// while nobody reads an older state of the database.
type Readers struct {
	mu      sync.Mutex // guards below
	db      *sql.DB    // nil while the history is off
	why     error      // the reason
	active  int
	held    bool          // nobody may begin
	changed chan struct{} // closed when something changes
	stopped bool
}

// Init makes the zero Readers ready to use.
func (r *Readers) Init() {
	r.changed = make(chan struct{})
	r.why = errors.New("the history is not open yet: try again in a moment")
}

// changeLocked changes something.
func (r *Readers) changeLocked() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Enter returns the database when there is a place. leave must be called.
func (r *Readers) Enter(ctx context.Context) (db *sql.DB, leave func(), err error) {
	for {
		r.mu.Lock()
		switch {
		case r.db == nil || r.stopped:
			defer r.mu.Unlock()
			return nil, nil, cmp.Or(r.why, errors.New("penstock is stopping"))
		case !r.held && r.active < MaxReaders:
			defer r.mu.Unlock()
			r.active++
			return r.db, r.leave, nil
		}
		changed := r.changed
		r.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, errors.New("others read the history: try again in a moment")
		}
	}
}

func (r *Readers) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active--
	r.changeLocked()
}

// Hold keeps others from beginning, and reports whether nobody reads.
func (r *Readers) Hold(held bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held != held {
		r.held = held
		r.changeLocked()
	}
	return r.active == 0
}

// Use sets the database, or the reason why there is none, and returns the former one.
func (r *Readers) Use(db *sql.DB, why error) (former *sql.DB) {
	r.mu.Lock()
	defer r.mu.Unlock()
	former, r.db, r.why = r.db, db, why
	r.changeLocked()
	return former
}

// Stop lets nobody in any more.
func (r *Readers) Stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.stopped {
		r.stopped = true
		r.why = errors.New("penstock is stopping")
		r.changeLocked()
	}
}

// Reason is why the history is off.
func (r *Readers) Reason() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}
