package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"time"

	"modernc.org/sqlite" // registers the driver "sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// insertOrFail starts an insertion of several rows that is undone with its whole transaction. Other
// ones can be undone alone, for which SQLite copies every page they change.
const insertOrFail = "INSERT OR FAIL"

// busyTimeout is how long another process, such as a backup, is waited for.
const busyTimeout = 10 * time.Second

// connect opens the file for one writer and several readers.
func connect(ctx context.Context, path string) (writer, reader *sql.DB, err error) {
	if err := create(path); err != nil {
		return nil, nil, err
	}
	writer, err = sql.Open("sqlite", dsn(path, url.Values{
		// Begin takes the write lock at once: a transaction that reads before it writes would
		// otherwise fail with "busy" when somebody wrote in between.
		"_txlock": {"immediate"},
		"_pragma": {
			fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
			"journal_mode(WAL)", // readers do not wait for the writer
			"synchronous(FULL)", // commit returns when the change is on the disk
			"foreign_keys(1)",
			// Pages that do not fit into the cache stay there until the commit: those written to
			// the WAL before, and once more, cost the checksums of all that follow.
			"cache_spill(0)",
			"journal_size_limit(67108864)",
		},
	}))
	if err != nil {
		return nil, nil, err
	}
	writer.SetMaxOpenConns(1)
	if err := ping(ctx, writer); err != nil {
		writer.Close()
		return nil, nil, unusable(err)
	}
	reader, err = sql.Open("sqlite", dsn(path, url.Values{
		"_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "query_only(1)"},
	}))
	if err != nil {
		writer.Close()
		return nil, nil, err
	}
	readers := max(4, runtime.NumCPU())
	reader.SetMaxOpenConns(readers)
	reader.SetMaxIdleConns(readers)
	return writer, reader, nil
}

// ping opens the first connection, which reads the header and changes the file to WAL. For that
// change SQLite does not wait: of two that do it at once one is told that the file is locked.
func ping(ctx context.Context, db *sql.DB) error {
	for end := time.Now().Add(busyTimeout); ; {
		err := db.PingContext(ctx)
		if !busy(err) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// create makes the file if there is none, so that SQLite does not choose its mode. The files
// beside it inherit the mode. They hold BMC passwords.
func create(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w; [store] path has to name a file this user may write, in a "+
			"directory that exists", err)
	}
	return f.Close()
}

func dsn(path string, q url.Values) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(),
		RawQuery: q.Encode()}
	return u.String()
}

// unusable says what to do about a file or database that cannot be used.
func unusable(err error) error {
	if state(err) != "" {
		return unreachable(err)
	}
	switch code(err) & 0xff {
	case sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w; the file is damaged or no database of ours: restore a backup, "+
			"or move it away to start with an empty one", err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return fmt.Errorf("%w; this user has to be allowed to write the file and its directory",
			err)
	}
	return err
}

// code returns SQLite's extended result code, 0 for an error that is not SQLite's.
func code(err error) int {
	if e := (*sqlite.Error)(nil); errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// duplicate tells whether a row broke a unique index.
func duplicate(err error) bool {
	c := code(err)
	return c == sqlite3.SQLITE_CONSTRAINT_UNIQUE || c == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY ||
		state(err) == "23505"
}

// orphan tells whether a row names another one that does not exist.
func orphan(err error) bool {
	return code(err) == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY || state(err) == "23503"
}

// busy tells whether another process kept the database longer than busy_timeout.
func busy(err error) bool {
	return code(err)&0xff == sqlite3.SQLITE_BUSY
}

// obstacle says what to do about a file system that takes no writes, "" if that is not the
// problem. The same call works once the obstacle is gone.
func obstacle(err error) string {
	switch code(err) & 0xff {
	case sqlite3.SQLITE_FULL:
		return "the file system of the database is full: make room there"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM,
		sqlite3.SQLITE_IOERR:
		return "the database cannot be used: see to it that its file system is writable and " +
			"its disk sound"
	}
	return ""
}
