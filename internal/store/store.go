// Package store keeps the rows: nodes, ports, conductors, leases and the journal, in SQLite or, for
// several conductors, in PostgreSQL. It is the only package with SQL. It decides who wins when two
// write the same row, and leaves what may be written to its callers.
//
// An exported method is one transaction: it begins, calls helpers that take the transaction,
// and commits. A method that returns nil has its change on the disk. Every row that is changed
// by reading, deciding and writing has a generation: a writer names the one it has read, and
// fails with ingot.Stale when somebody else has written since.
//
// Queries keep to the SQL that SQLite and PostgreSQL share; what differs is in sqlite.go and
// postgres.go. Times are stored as integers, microseconds since 1970 UTC: they sort and
// compare as numbers in any engine, lose nothing and need no conversion by a driver. Objects
// are stored as JSON text, with numbers kept as they were written (json.Number when read).
//
// Read this file first, then column.go and node.go.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"ingot/internal/ingot"
)

// Options says where the rows are. Only Path or URL is needed.
type Options struct {
	// Path is the database file; it is created with mode 0600 if it does not exist. Its
	// directory has to exist and to be writable: SQLite keeps two more files beside it.
	Path string
	// URL is a PostgreSQL database, postgres://USER:PASSWORD@HOST:PORT/DATABASE, in place of Path.
	// Several processes may open it at once.
	URL string
	// Connections bounds those to PostgreSQL; default 24.
	Connections int
	// ConductorLease is how long after a heartbeat a conductor counts as alive; default 60 s.
	// Longer survives slower disks, shorter notices a dead conductor earlier.
	ConductorLease time.Duration
	// JournalKeep is how many of the newest entries a node's journal keeps; default 2000, and
	// up to a tenth more between two trims.
	JournalKeep int
	// HistoryKeep is how many of the newest entries a node's history keeps; default 300.
	HistoryKeep int
	// Log receives migrations; default: nothing is logged.
	Log *slog.Logger
}

// Defaults of Options.
const (
	defaultConductorLease = 60 * time.Second
	defaultJournalKeep    = 2000
	defaultHistoryKeep    = 300
)

// Store is an open database. Its methods may be called concurrently.
type Store struct {
	writer *sql.DB // SQLite: one connection, writers queue here and never see "busy" of each other
	reader *sql.DB // several connections, each with its own snapshot; with PostgreSQL the writer
	// shared tells that other processes may write the rows, too.
	shared bool
	// connections is how many of them there are at most.
	connections int
	// outdated tells that a newer program has migrated the schema, which allows this one.
	outdated bool
	clock    clock

	// Statements of the busiest methods, prepared: parsing costs more than running them.
	machine, ahead, version, insertOne, insertMany *sql.Stmt

	lease time.Duration
	keep  int
	// keepHistory is Options.HistoryKeep.
	keepHistory int
	log         *slog.Logger

	findLeases *sql.Stmt
	putLease   *sql.Stmt
	machines   machines
	leases     leaseMemory
	// wanted has the sources of boot files that are on record, and since when, see wantOf.
	wanted atomic.Pointer[map[string]time.Time]

	trimMu sync.Mutex
	// untrimmed counts entries appended to the journal of a node since it was last trimmed, see
	// dueForTrim. Guarded by trimMu.
	untrimmed map[string]int
}

// Open opens the database, creates it if needed, and brings its schema to the version this
// program knows. A schema of a newer program is refused, unless that has put on record that this
// one may work with it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Path == "" && o.URL == "" {
		return nil, ingot.Errorf(ingot.Invalid, "open store: no path; set path or url in [store]")
	}
	s := &Store{shared: o.URL != "", lease: o.ConductorLease, keep: o.JournalKeep, keepHistory: o.HistoryKeep,
		log: o.Log, untrimmed: map[string]int{}}
	if s.lease <= 0 {
		s.lease = defaultConductorLease
	}
	if s.keep <= 0 {
		s.keep = defaultJournalKeep
	}
	if s.keepHistory <= 0 {
		s.keepHistory = defaultHistoryKeep
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.machines.shared = s.shared
	if err := s.open(ctx, o); err != nil {
		s.Close()
		return nil, fmt.Errorf("open store %s: %w", o.Place(), err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context, o Options) (err error) {
	if s.shared {
		s.writer, err = s.connectPostgres(ctx, o)
		s.reader = s.writer
	} else {
		s.writer, s.reader, err = connect(ctx, o.Path)
	}
	if err != nil {
		return err
	}
	if err := s.readClock(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx); err != nil {
		return err
	}
	return s.prepare(ctx)
}

// prepare needs the migrated schema. Closing the databases closes the statements.
func (s *Store) prepare(ctx context.Context) error {
	for _, p := range []struct {
		into **sql.Stmt
		db   *sql.DB
		text string
	}{
		{&s.machine, s.reader, machineQuery},
		{&s.ahead, s.reader, machinesQuery},
		{&s.version, s.reader, versionQuery},
		{&s.findLeases, s.writer, leases.selectFrom() + " WHERE mac = $1 OR address = $2"},
		{&s.putLease, s.writer, putLease},
		{&s.insertOne, s.writer, s.insertEntries(1)},
		{&s.insertMany, s.writer, s.insertEntries(rowsOfInsert)},
	} {
		var err error
		if *p.into, err = p.db.PrepareContext(ctx, p.text); err != nil {
			return fmt.Errorf("prepare %q: %w", p.text, err)
		}
	}
	return nil
}

// Close waits for running transactions and closes the files or connections.
func (s *Store) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Shared tells whether other processes may have the store open, too.
func (s *Store) Shared() bool { return s.shared }

// ConductorLease is how long after a heartbeat a conductor counts as alive.
func (s *Store) ConductorLease() time.Duration { return s.lease }

// Ping tells whether rows can be read and written now.
func (s *Store) Ping(ctx context.Context) error {
	return s.writeBeside(ctx, "ping store", func(*tx) error { return nil })
}

// tx is a transaction, with the one time that everything in it happens at.
type tx struct {
	*sql.Tx
	now time.Time // UTC, whole microseconds
	// node is the id of the one node whose row is written, with no port but its own deleted with
	// it; 0: others may be.
	node int64
	// wanted is Store.wanted.
	wanted map[string]time.Time
}

// write runs fn in a transaction that nobody else writes beside, and commits it to the disk if
// fn returns nil. fn may be run twice, see inTx.
func (s *Store) write(ctx context.Context, doing string, fn func(*tx) error) error {
	var started int64
	defer func() { s.machines.ended.Add(started) }()
	return s.writeBeside(ctx, doing, func(tx *tx) error {
		err := fn(tx)
		if err == nil {
			started = 1
			s.machines.writing(tx.node)
		}
		return err
	})
}

// writeBeside is write for what changes no row of nodes or ports: what is remembered of them
// stays good.
func (s *Store) writeBeside(ctx context.Context, doing string, fn func(*tx) error) error {
	return s.inTx(ctx, s.writer, sql.TxOptions{}, doing, fn)
}

// read runs fn on one snapshot of all rows.
func (s *Store) read(ctx context.Context, doing string, fn func(*tx) error) error {
	o := sql.TxOptions{ReadOnly: true}
	if s.shared {
		o.Isolation = sql.LevelRepeatableRead // SQLite knows no other
	}
	return s.inTx(ctx, s.reader, o, doing, fn)
}

// inTx runs fn in a transaction, and again in another one if the connection is lost before anything can
// have been committed. What ends one connection (a restart, a failover) mostly ends all, and the pool
// does not know: it may take as many tries as it has.
func (s *Store) inTx(ctx context.Context, db *sql.DB, o sql.TxOptions, doing string,
	fn func(*tx) error) error {
	for try := 0; ; try++ {
		committing, err := s.once(ctx, db, o, fn)
		certain := !committing || o.ReadOnly || pgconn.SafeToRetry(err) // that nothing was committed
		switch {
		case err == nil:
			return nil
		case !s.shared || !hungUp(err) || !certain || try > s.connections || ctx.Err() != nil:
			return explain(doing, err)
		}
	}
}

// once runs fn in a transaction. committing tells whether the error came when fn had succeeded.
func (s *Store) once(ctx context.Context, db *sql.DB, o sql.TxOptions,
	fn func(*tx) error) (committing bool, err error) {
	t, err := db.BeginTx(ctx, &o)
	if err != nil {
		return false, err
	}
	defer t.Rollback() // after Commit it does nothing
	x := &tx{Tx: t, now: s.Now()}
	if wanted := s.wanted.Load(); wanted != nil {
		x.wanted = *wanted
	}
	if err := fn(x); err != nil {
		return false, err
	}
	return true, t.Commit()
}

// errUnreachable is in the errors of a store that cannot be reached.
var errUnreachable = errors.New("PostgreSQL cannot be reached")

// Unreachable tells whether an error is that the store could not be reached: it says nothing of what
// was to be done, which may be done again.
func Unreachable(err error) bool { return errors.Is(err, errUnreachable) }

// explain adds what was being done to an error of the database. An error with a kind was made
// here, for the one who asked, and stays as it is.
func explain(doing string, err error) error {
	if e := (*ingot.Error)(nil); errors.As(err, &e) {
		return err
	}
	if busy(err) {
		return ingot.Errorf(ingot.Unavailable, "%s: %w; try again", doing, err)
	}
	if state(err) == "22021" {
		return ingot.Errorf(ingot.Invalid, "a text has bytes that cannot be stored: %w", err)
	}
	if cutOff(err) {
		return ingot.Errorf(ingot.Unavailable, "%s: %w: %w; try again", doing, errUnreachable, err)
	}
	if remedy := obstacle(err); remedy != "" {
		return ingot.Errorf(ingot.Unavailable, "%s: %w; %s, then try again", doing, err, remedy)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
