package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"modernc.org/sqlite" // pure Go; measured with v1.62.0, 2026-11
)

const (
	// PageSize is the size of SQLite's pages, bytes.
	PageSize = 4096

	applicationID = 0x70656e73 // "pens": whose file it is
	keptAside     = 3          // files that were set aside
)

// migrations bring a database from the version that is their index to the next.
var migrations = []string{`
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE host (id INTEGER PRIMARY KEY, rev TEXT NOT NULL UNIQUE); -- the name backwards: all names below one stand together
CREATE TABLE addr (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE client (id INTEGER PRIMARY KEY, peer TEXT NOT NULL, addr TEXT NOT NULL, UNIQUE (peer, addr));
CREATE TABLE place (id INTEGER PRIMARY KEY, host INTEGER NOT NULL, addr INTEGER NOT NULL, UNIQUE (host, addr)); -- 0: none
CREATE INDEX place_addr ON place (addr);
CREATE TABLE how (id INTEGER PRIMARY KEY, question INTEGER NOT NULL, blocked INTEGER NOT NULL,
  verdict INTEGER NOT NULL, rule INTEGER NOT NULL, category INTEGER NOT NULL, -- words
  text TEXT NOT NULL UNIQUE); -- see circumstances
CREATE TABLE record (id INTEGER PRIMARY KEY, end INTEGER NOT NULL, -- ms since 1970
  how INTEGER NOT NULL, client INTEGER NOT NULL, place INTEGER NOT NULL, tx INTEGER NOT NULL, rx INTEGER NOT NULL, rest BLOB); -- see rest
CREATE INDEX record_how ON record (how);
CREATE INDEX record_client ON record (client);
CREATE INDEX record_place ON record (place);
CREATE TABLE span (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, begin INTEGER NOT NULL, until INTEGER NOT NULL); -- of records: their IDs and ends
CREATE TABLE total (kind INTEGER NOT NULL, hour INTEGER NOT NULL, key INTEGER NOT NULL, n INTEGER NOT NULL, tx INTEGER NOT NULL, rx INTEGER NOT NULL,
  PRIMARY KEY (kind, hour, key)) WITHOUT ROWID; -- hour: ms since 1970; kind: see totalKind; key: 0 is none, -1 the others
CREATE INDEX total_key ON total (key) WHERE kind BETWEEN 4 AND 11; -- clients and hosts
CREATE TABLE note (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
`, `
INSERT INTO note SELECT 'summed', coalesce(max(id), 0) FROM record; -- see sums
CREATE TABLE seen (kind INTEGER NOT NULL, key INTEGER NOT NULL, first INTEGER NOT NULL, PRIMARY KEY (kind, key, first)) WITHOUT ROWID;
-- which spans have which circumstances (0) and clients (1): a tenth of what indexes of all records cost
INSERT INTO seen SELECT DISTINCT 0, how, first FROM span JOIN record ON id BETWEEN first AND last;
INSERT INTO seen SELECT DISTINCT 1, client, first FROM span JOIN record ON id BETWEEN first AND last WHERE client > 0;
DROP INDEX record_how;
DROP INDEX record_client;
`, `
CREATE TABLE list (first INTEGER NOT NULL, kind INTEGER NOT NULL, key INTEGER NOT NULL, at BLOB NOT NULL, PRIMARY KEY (first, kind, key)) WITHOUT ROWID;
-- which records of a span have which circumstances (0), clients (1) and places (2); at: see package offsets
ALTER TABLE span ADD COLUMN listed INTEGER NOT NULL DEFAULT 0; -- whether table list has its records
ALTER TABLE how ADD COLUMN latest INTEGER NOT NULL DEFAULT 0; -- the last span in table list that has it
ALTER TABLE client ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE place ADD COLUMN latest INTEGER NOT NULL DEFAULT 0;
DROP TABLE seen;
DROP INDEX record_place;
`}

// ErrForeign is what is wrong with a file that is none of ours, and ErrDamaged with one that was.
var (
	ErrForeign = errors.New("it is not a history of penstock")
	ErrDamaged = errors.New("it is damaged")
)

// NewerError says that a later penstock has written the file.
type NewerError int

func (e NewerError) Error() string {
	return fmt.Sprintf("a newer penstock has written it (version %d, and this one knows %d): run that one, or move the file away", int(e), len(migrations))
}

// Source is the data source name of a file.
func Source(file string, options ...string) string {
	path := filepath.ToSlash(file)
	if filepath.VolumeName(file) != "" {
		path = "/" + path
	}
	query := url.Values{"_pragma": {"busy_timeout(2000)"}}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		query.Add(name, value)
	}
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
}

// examine says what is wrong with a file, before anybody opens it: closing it later would give up SQLite's locks.
func examine(file string) error {
	info, err := os.Lstat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode()&os.ModeSymlink != 0:
		return errors.New("it is a symbolic link: name the file itself in history.file")
	case !info.Mode().IsRegular():
		return ErrForeign
	case info.Size() == 0:
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, 100)
	n, _ := f.Read(head)
	switch {
	case string(head[68:72]) == "pens" && (n < 100 || string(head[:16]) != "SQLite format 3\x00"), n == 100 && strings.Trim(string(head), "\x00") == "":
		return ErrDamaged
	case string(head[:16]) != "SQLite format 3\x00" || string(head[68:72]) != "pens":
		return ErrForeign
	}
	return nil
}

// create makes sure that there is a file, and that only its owner may read it.
func create(ctx context.Context, file string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Chmod(0o600), f.Close()); err != nil || info.Size() > 0 {
		return err
	}
	// Whose file it is must be in the file itself, and not in its log, before there is anything else in it.
	db, err := sql.Open("sqlite", Source(file, "_pragma=auto_vacuum(2)"))
	if err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d", applicationID))
	return errors.Join(err, db.Close())
}

// Open opens or makes the database of a file for the writer.
func Open(ctx context.Context, file string, maxSize int64) (*sql.DB, *sql.Conn, error) {
	if err := examine(file); err != nil {
		return nil, nil, err
	}
	if err := create(ctx, file); err != nil {
		return nil, nil, err
	}
	return Connect(ctx, file, maxSize)
}

// Connect opens the database of a file that is known to be good. Unlike Open, it may be called while others read.
func Connect(ctx context.Context, file string, maxSize int64) (*sql.DB, *sql.Conn, error) {
	db, err := sql.Open("sqlite", Source(file, "_pragma=cache_size(-2048)", "_pragma=temp_store(memory)", "_pragma=journal_mode(wal)", "_pragma=synchronous(normal)",
		fmt.Sprintf("_pragma=wal_autocheckpoint(%d)", WALSize(maxSize)/PageSize), fmt.Sprintf("_pragma=journal_size_limit(%d)", WALSize(maxSize))))
	if err != nil {
		return nil, nil, err
	}
	db.SetMaxOpenConns(1)
	conn, err := db.Conn(ctx)
	if err == nil {
		err = migrate(ctx, conn)
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, nil, errors.Join(err, db.Close())
	}
	return db, conn, nil
}

// WALSize is how large the write-ahead log becomes, bytes, unless somebody reads all the time.
func WALSize(maxSize int64) int64 { return min(maxSize/8, 4<<20) }

// migrate brings a database to the present version.
func migrate(ctx context.Context, conn *sql.Conn) error {
	var version int
	if err := conn.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return NewerError(version)
	}
	for i, script := range migrations[version:] {
		script = fmt.Sprintf("BEGIN IMMEDIATE; %s; PRAGMA user_version = %d; COMMIT", script, version+i+1)
		if _, err := conn.ExecContext(ctx, script); err != nil {
			conn.ExecContext(ctx, "ROLLBACK")
			return fmt.Errorf("bring it from version %d to %d: %w", version+i, version+i+1, err)
		}
	}
	return nil
}

// IsDamage tells whether an error means that the file must be begun anew.
func IsDamage(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return e.Code()&0xff == 11 || e.Code()&0xff == 26 // SQLITE_CORRUPT, SQLITE_NOTADB
	}
	return errors.Is(err, ErrForeign) || errors.Is(err, ErrDamaged)
}

// NoRoom tells whether an error means that the disk is full or may not be written.
func NoRoom(err error) bool {
	var e *sqlite.Error
	if errors.As(err, &e) {
		return slices.Contains([]int{8, 10, 13, 14}, e.Code()&0xff) // SQLITE_READONLY, IOERR, FULL, CANTOPEN
	}
	var path *fs.PathError
	return errors.As(err, &path)
}

// SetAside renames a file that cannot be used. The oldest of our own are removed, those of others never.
func SetAside(file string, foreign bool, now time.Time) (to string, err error) {
	word := ".damaged-"
	if foreign {
		word = ".foreign-"
	}
	before, err := filepath.Glob(globEscape(file) + word + "*")
	if err != nil {
		return "", err
	}
	slices.Sort(before)
	for ; len(before) >= keptAside; before = before[1:] {
		if foreign {
			return "", fmt.Errorf("%w, and %d files like it are set aside beside it already: move them away", ErrForeign, len(before))
		}
		if err := os.Remove(before[0]); err != nil {
			return "", err
		}
	}
	to = file + word + now.UTC().Format("20060102T150405.000")
	if err := os.Rename(file, to); err != nil {
		return "", err
	}
	for _, part := range []string{"-wal", "-shm"} { // they belong to the file, and would spoil the next one
		os.Remove(file + part)
	}
	return to, nil
}

// globEscape makes a path mean itself in filepath.Glob.
func globEscape(path string) string {
	if os.PathSeparator == '\\' {
		return path // there is no way to escape
	}
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}
