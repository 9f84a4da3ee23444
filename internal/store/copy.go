package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// copied is a table as Copy sees it: rows as the engine has them, in the order of their key.
type copied struct {
	name    string
	key     string // unique
	counted bool   // the engine gives the key, a number
	columns []string
	flags   []bool // which columns are booleans: numbers for SQLite
}

// copiedTables are those whose rows are an installation, in an order in which a row comes after
// those it refers to. Conductors and locks are not: they say who is there now.
func copiedTables() []copied {
	return []copied{
		copiedTable(&nodes, "id"), copiedTable(&ports, "id"), copiedTable(&histories, "id"),
		copiedTable(&leases, "mac"), copiedTable(&journal, "seq"),
		copiedTable(&pending, "id"), copiedTable(&bootFiles, "id"),
		{name: "inventories", key: "node_id", columns: []string{"node_id", "inventory", "updated_at"},
			flags: []bool{false, false, false}},
		{name: "bios_settings", key: "node_id", columns: []string{"node_id", "settings", "updated_at"},
			flags: []bool{false, false, false}},
		{name: "settings", key: "name", columns: []string{"name", "value"},
			flags: []bool{false, false}},
	}
}

func copiedTable[T any](t *table[T], key string) copied {
	c := copied{name: t.name, key: key}
	for _, column := range t.columns {
		if column.read != "" {
			continue
		}
		var flag bool
		switch column.at(new(T)).(type) {
		case *bool, **bool:
			flag = true
		}
		c.columns, c.flags = append(c.columns, column.name), append(c.flags, flag)
		c.counted = c.counted || column.name == key && column.use.has(given)
	}
	return c
}

// CopyProgress is told how many rows of a table are written, of how many.
type CopyProgress func(table string, done, total int64)

// Copy writes all rows of one store into another, an empty one, with their numbers and generations;
// conductors and locks excepted. It is one transaction there: after an error, or a crash, the other is as
// empty as before. Conflict if it is not empty, or if a conductor of either is alive; one that
// starts meanwhile waits for the end. Who serves a file is for the caller to find out. progress is
// called after each batch and may be nil.
func Copy(ctx context.Context, from, to *Store, progress CopyProgress) error {
	if from.outdated || to.outdated {
		return ingot.Errorf(ingot.Conflict, "the schema is newer than this program, which would leave "+
			"out what it does not know: copy with the newer program")
	}
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	if !to.shared {
		// All of the rows are one transaction, and need not stay in memory until its end.
		if _, err := to.writer.ExecContext(ctx, "PRAGMA cache_spill(1)"); err != nil {
			return explain("prepare the copy", err)
		}
		defer to.writer.ExecContext(context.WithoutCancel(ctx), "PRAGMA cache_spill(0)")
	}
	return from.read(ctx, "read what to copy", func(source *tx) error {
		if err := from.unserved(ctx, source, "source"); err != nil {
			return err
		}
		return to.write(ctx, "write the copy", func(target *tx) error {
			if err := to.unserved(ctx, target, "target"); err != nil {
				return err
			}
			for _, t := range copiedTables() {
				if err := t.empty(ctx, target); err != nil {
					return err
				}
			}
			for _, t := range copiedTables() {
				if err := t.copy(ctx, to, source, target, progress); err != nil {
					return fmt.Errorf("copy table %s: %w", t.name, err)
				}
				if err := t.advance(ctx, from, to, source, target); err != nil {
					return fmt.Errorf("copy the last number of table %s: %w", t.name, err)
				}
			}
			return nil
		})
	})
}

// unserved refuses a database that a conductor uses, and lets none join before the transaction
// ends. A file has a lock for that, which the process that serves it holds.
func (s *Store) unserved(ctx context.Context, tx *tx, which string) error {
	if err := s.lock(ctx, tx, `LOCK TABLE conductors IN SHARE MODE`); err != nil || !s.shared {
		return err
	}
	all, err := conductors.list(ctx, tx, where{}, Page{})
	if err != nil {
		return err
	}
	for _, c := range all {
		if s.alive(c, tx.now) {
			return ingot.Errorf(ingot.Conflict, "conductor %s works on the %s, its last heartbeat was at "+
				"%s: stop it, or if it is dead wait until %s after that", c.Hostname, which,
				c.UpdatedAt.Format("15:04:05Z"), s.lease)
		}
	}
	return nil
}

func (t copied) count(ctx context.Context, tx *tx) (n int64, err error) {
	err = tx.QueryRowContext(ctx, "SELECT COUNT(*) FROM "+t.name).Scan(&n)
	return n, err
}

func (t copied) empty(ctx context.Context, tx *tx) error {
	n, err := t.count(ctx, tx)
	if err == nil && n > 0 {
		return ingot.Errorf(ingot.Conflict, "the target is not empty, %s has %d rows: name a new file, "+
			"or a database made by createdb", t.name, n)
	}
	return err
}

// copyBatch is how many rows one statement reads; one that writes takes as many as have
// copyArguments.
const (
	copyBatch     = 500
	copyArguments = 2000
)

func (t copied) copy(ctx context.Context, to *Store, source, target *tx,
	progress CopyProgress) error {
	total, err := t.count(ctx, source)
	if err != nil {
		return err
	}
	key := slices.Index(t.columns, t.key)
	var after any
	for done := int64(0); ; {
		rows, err := t.read(ctx, source, after)
		if err != nil {
			return err
		}
		if len(rows) == 0 {
			return nil
		}
		for some := range slices.Chunk(rows, max(1, copyArguments/len(t.columns))) {
			_, err := target.ExecContext(ctx, to.insertSeveral(t.name, t.columns, len(some)),
				slices.Concat(some...)...)
			if err != nil {
				return err
			}
		}
		after = rows[len(rows)-1][key]
		done += int64(len(rows))
		progress(t.name, done, total)
	}
}

// read returns the rows after a key; nil is the start.
func (t copied) read(ctx context.Context, tx *tx, after any) ([][]any, error) {
	query := "SELECT " + strings.Join(t.columns, ", ") + " FROM " + t.name
	var args []any
	if after != nil {
		query += " WHERE " + t.key + " > $1"
		args = append(args, after)
	}
	found, err := tx.QueryContext(ctx, query+" ORDER BY "+t.key+" LIMIT "+
		strconv.Itoa(copyBatch), args...)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	var rows [][]any
	for found.Next() {
		row, into := make([]any, len(t.columns)), make([]any, len(t.columns))
		for i := range row {
			into[i] = &row[i]
		}
		if err := found.Scan(into...); err != nil {
			return nil, err
		}
		for i, v := range row {
			switch v := v.(type) {
			case string:
				row[i] = storable(v)
			case int64:
				if t.flags[i] {
					row[i] = v != 0
				}
			}
		}
		rows = append(rows, row)
	}
	return rows, found.Err()
}

// advance makes the target give numbers after the last one the source gave, which may have been
// that of a row that is gone: who pages or follows the journal must not meet a number twice.
func (t copied) advance(ctx context.Context, from, to *Store, source, target *tx) error {
	if !t.counted {
		return nil
	}
	last, err := t.lastNumber(ctx, from, source)
	if err != nil || last == 0 {
		return err
	}
	if to.shared {
		_, err = target.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence($1, $2), $3)`,
			t.name, t.key, last)
		return err
	}
	if _, err := target.ExecContext(ctx, `DELETE FROM sqlite_sequence WHERE name = $1`,
		t.name); err != nil {
		return err
	}
	_, err = target.ExecContext(ctx, `INSERT INTO sqlite_sequence (name, seq) VALUES ($1, $2)`,
		t.name, last)
	return err
}

// lastNumber is the greatest number the engine has given, 0 for none.
func (t copied) lastNumber(ctx context.Context, s *Store, tx *tx) (last int64, err error) {
	if !s.shared {
		err = tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) FROM sqlite_sequence
			WHERE name = $1`, t.name).Scan(&last)
		return last, err
	}
	var sequence string
	err = tx.QueryRowContext(ctx, `SELECT pg_get_serial_sequence($1, $2)`, t.name, t.key).
		Scan(&sequence)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx, `SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM `+
		sequence).Scan(&last)
	return last, err
}
