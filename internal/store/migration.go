package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// migrations holds the steps from an empty database to today's schema, NNNN_what.sql, in the
// dialect of SQLite. A step that was ever released is never edited; the next one changes
// what it made, so that a program one version older still runs: add, then use, then drop. A step
// adds tables, indexes and columns that may be left out; one that does more raises oldestSchema
// to its number, and belongs into a version all of whose predecessors in use do without what it takes
// away.
//
//go:embed migrations/*.sql
var migrations embed.FS

// oldestSchema is the version that a program has to know to work with today's schema. It is on
// record in the database, so that an older program, which knows nothing of later steps, can tell
// whether it may run. The first that asks knows version 7.
const oldestSchema = 7

// migration is one step.
type migration struct {
	version int
	name    string // of the file
	sql     string
}

// steps returns the migrations in order; their numbers have no gaps.
func steps(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	all := make([]migration, len(names))
	for i, name := range names {
		number, _, _ := strings.Cut(path.Base(name), "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s should have number %04d", name, i+1)
		}
		text, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		all[i] = migration{version, path.Base(name), string(text)}
	}
	return all, nil
}

// migrate applies the steps that are missing, all of them or none. It may run in several
// processes at once: the transaction holds a lock.
func (s *Store) migrate(ctx context.Context) error {
	all, err := steps(migrations)
	if err != nil {
		return err
	}
	var applied []migration
	err = s.write(ctx, "migrate", func(tx *tx) error {
		if err := s.lock(ctx, tx, lockMigrations); err != nil {
			return err
		}
		if s.shared {
			all = translated(all)
		}
		applied, err = migrate(ctx, tx, all)
		if err != nil || len(applied) > 0 {
			return err
		}
		have, err := schemaVersion(ctx, tx)
		s.outdated = have > len(all)
		return err
	})
	if s.outdated && err == nil {
		s.log.WarnContext(ctx, "the schema is newer than this program, and allows it; bring it up to "+
			"the version of the others", "knows", len(all))
	}
	for _, m := range applied {
		s.log.InfoContext(ctx, "schema migrated", "version", m.version, "name", m.name)
	}
	return err
}

// translated are migrations in the words of PostgreSQL.
func translated(all []migration) []migration {
	out := slices.Clone(all)
	for i := range out {
		out[i].sql = postgresDialect.Replace(out[i].sql)
	}
	return out
}

func migrate(ctx context.Context, tx *tx, all []migration) ([]migration, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (
		version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)`)
	if err == nil {
		_, err = tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_oldest (
			id INTEGER PRIMARY KEY, version INTEGER NOT NULL)`)
	}
	if err != nil {
		return nil, unusable(err)
	}
	have, err := schemaVersion(ctx, tx)
	if err != nil {
		return nil, err
	}
	if have >= len(all) {
		return nil, permitted(ctx, tx, have, len(all))
	}
	for _, m := range all[have:] {
		if _, err := tx.ExecContext(ctx, m.sql); err != nil {
			return nil, fmt.Errorf("apply %s: %w", m.name, err)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version, name, applied_at)
			VALUES ($1, $2, $3)`, m.version, m.name, tx.now.UnixMicro())
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", m.name, err)
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO schema_oldest (id, version) VALUES (1, $1)
		ON CONFLICT (id) DO UPDATE SET version = excluded.version`, oldestSchema)
	return all[have:], err
}

// permitted refuses a program that knows versions up to known only if the schema is newer and does
// not say that such a program may work with it.
func permitted(ctx context.Context, tx *tx, have, known int) error {
	if have == known {
		return nil
	}
	var oldest int
	err := tx.QueryRowContext(ctx, `SELECT version FROM schema_oldest WHERE id = 1`).Scan(&oldest)
	if err == nil && oldest <= known {
		return nil
	}
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return ingot.Errorf(ingot.Conflict, "the schema has version %d, but this program knows only "+
		"versions up to %d: run the newer program that made it, or restore the backup from before "+
		"its start", have, known)
}

// SchemaVersion returns the number of the last migration that was applied.
func (s *Store) SchemaVersion(ctx context.Context) (version int, err error) {
	err = s.read(ctx, "read schema version", func(tx *tx) error {
		version, err = schemaVersion(ctx, tx)
		return err
	})
	return version, err
}

func schemaVersion(ctx context.Context, tx *tx) (version int, err error) {
	err = tx.QueryRowContext(ctx,
		`SELECT COALESCE(MAX(version), 0) FROM schema_version`).Scan(&version)
	return version, err
}
