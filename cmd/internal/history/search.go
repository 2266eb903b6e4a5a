package history

import (
	"context"
	"database/sql"
	"fmt"
	"math/bits"
	"strings"
	"time"

	"penstock/cmd/internal/history/offsets"
)

const (
	pageTime   = 200 * time.Millisecond // for how long a page is searched, and a span more at most
	checkedIDs = 500                    // records that are checked together
)

// search finds records, the newest first: in each span those that table list says have everything that it can say, and of them those that
// match the rest. What is not listed is looked through.
type search struct {
	tx *sql.Tx
	chosen
	limit int       // records at most
	until time.Time // when to stop, after a span at least; zero: when all is searched

	found   []int64 // falling
	stopped int64   // all records from here on are searched, and time was up; 0 if there is nothing more to search
	back    time.Time

	lists   [][]*sql.Stmt // what table list has of each choice in listed
	waiting []int64       // found, but not checked
}

// segment is a row of table span.
type segment struct {
	first, last, begin int64
	listed             bool
}

func (s *search) run(ctx context.Context) error {
	for _, any := range s.listed {
		var list []*sql.Stmt
		for _, one := range any {
			if len(one.ids) == 0 {
				continue
			}
			where, _ := choice{column: "key", ids: one.ids}.where()
			stmt, err := s.tx.PrepareContext(ctx, fmt.Sprintf("SELECT at FROM list WHERE first = ? AND kind = %d AND %s", one.column.kind(), where))
			if err != nil {
				return err
			}
			defer stmt.Close()
			list = append(list, stmt)
		}
		if len(list) == 0 {
			return nil // nothing has it
		}
		s.lists = append(s.lists, list)
	}
	look, err := s.lookThrough(ctx)
	if err != nil {
		return err
	}
	defer look.Close()
	next, err := s.tx.PrepareContext(ctx, "SELECT first, last, begin, listed FROM span WHERE first < ? AND last > ? ORDER BY first DESC LIMIT 64")
	if err != nil {
		return err
	}
	defer next.Close()
	for below := s.high; ; {
		list, err := segments(ctx, next, below, s.low)
		if err != nil {
			return err
		}
		for _, one := range list {
			if s.stopped > 0 && !s.until.IsZero() && time.Now().After(s.until) {
				return s.check(ctx)
			}
			if one.listed && len(s.lists) > 0 {
				err = s.lookUp(ctx, one)
			} else if err = s.check(ctx); err == nil && len(s.found) < s.limit {
				err = s.through(ctx, look, one)
			}
			if err != nil || len(s.found) >= s.limit {
				return err
			}
			s.stopped, s.back = one.first, time.UnixMilli(one.begin)
			below = one.first
		}
		if len(list) == 0 {
			s.stopped = 0
			return s.check(ctx)
		}
	}
}

func segments(ctx context.Context, stmt *sql.Stmt, below, above int64) (list []segment, err error) {
	rows, err := stmt.QueryContext(ctx, below, above)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var one segment
		if err := rows.Scan(&one.first, &one.last, &one.begin, &one.listed); err != nil {
			return nil, err
		}
		list = append(list, one)
	}
	return list, rows.Err()
}

// lookThrough prepares the query for records between two IDs, and how many of them.
func (s *search) lookThrough(ctx context.Context) (*sql.Stmt, error) {
	where, _ := s.condition()
	return s.tx.PrepareContext(ctx, "SELECT id FROM record WHERE "+where+" ORDER BY id DESC LIMIT ?")
}

// through looks through the records of a span.
func (s *search) through(ctx context.Context, look *sql.Stmt, one segment) error {
	within := s.chosen
	within.low, within.high = max(s.low, one.first-1), min(s.high, one.last+1)
	_, args := within.condition()
	rows, err := look.QueryContext(ctx, append(args, s.limit-len(s.found))...)
	if err != nil {
		return err
	}
	list, err := numbers(rows, 0)
	s.found = append(s.found, list...)
	return err
}

// lookUp finds out which records of a span have what is listed.
func (s *search) lookUp(ctx context.Context, one segment) error {
	var all offsets.Set
	for i, list := range s.lists {
		var some offsets.Set
		for _, stmt := range list {
			if err := addListed(ctx, stmt, one.first, &some); err != nil {
				return err
			}
		}
		if i == 0 {
			all = some
		}
		if !all.And(&some) {
			return nil
		}
	}
	for i := len(all) - 1; i >= 0; i-- {
		for word := all[i]; word != 0; {
			bit := bits.Len64(word) - 1
			word &^= 1 << bit
			if id := one.first + int64(64*i+bit); id > s.low && id < s.high && id <= one.last {
				s.waiting = append(s.waiting, id)
			}
		}
	}
	if len(s.where) == 0 || len(s.waiting) >= checkedIDs {
		return s.check(ctx)
	}
	return nil
}

func addListed(ctx context.Context, stmt *sql.Stmt, first int64, to *offsets.Set) error {
	rows, err := stmt.QueryContext(ctx, first)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var at any
		if err := rows.Scan(&at); err != nil {
			return err
		}
		to.Add(at)
	}
	return rows.Err()
}

// check moves to what is found those of the records that wait which match.
func (s *search) check(ctx context.Context) error {
	for len(s.waiting) > 0 && len(s.found) < s.limit {
		list := s.waiting[:min(len(s.waiting), checkedIDs)]
		s.waiting = s.waiting[len(list):]
		if len(s.where) > 0 {
			ids, _ := choice{column: "id", ids: list}.where()
			rows, err := s.tx.QueryContext(ctx, "SELECT id FROM record WHERE "+ids+" AND "+strings.Join(s.where, " AND ")+" ORDER BY id DESC", s.args...)
			if err != nil {
				return err
			}
			if list, err = numbers(rows, 0); err != nil {
				return err
			}
		}
		s.found = append(s.found, list[:min(len(list), s.limit-len(s.found))]...)
	}
	return nil
}
