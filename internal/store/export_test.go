package store

import (
	"context"
	"sync"
)

// Plans is how the engine finds the nodes of a page, in its own words: a text for each of the
// statements of Nodes.
func Plans(ctx context.Context, s *Store, f NodeFilter, p Page) (plans []string, err error) {
	explain := "EXPLAIN QUERY PLAN "
	if s.shared {
		explain = "EXPLAIN ANALYZE "
	}
	err = s.read(ctx, "explain nodes", func(tx *tx) error {
		c, err := nodes.cursor(ctx, tx, f.where(), p)
		if err != nil {
			return err
		}
		for _, part := range c.parts() {
			query, args := nodes.query(part.of(f.where()), part.order, p.Limit)
			rows, err := tx.QueryContext(ctx, explain+query, args...)
			if err != nil {
				return err
			}
			plan := ""
			for rows.Next() {
				var line string
				into := []any{&line}
				if !s.shared {
					into = []any{new(int), new(int), new(int), &line}
				}
				if err := rows.Scan(into...); err != nil {
					return err
				}
				plan += line + "\n"
			}
			if err := rows.Close(); err != nil {
				return err
			}
			plans = append(plans, plan)
		}
		return nil
	})
	return plans, err
}

// Multiply makes a fleet of so many nodes out of the only one, which has no name.
func Multiply(ctx context.Context, s *Store, count int) error {
	return s.write(ctx, "multiply a node", func(tx *tx) error {
		var names string
		for _, c := range nodes.columns {
			if c.name != "id" && c.name != "uuid" {
				names += ", " + c.name
			}
		}
		_, err := tx.ExecContext(ctx, `WITH RECURSIVE i (i) AS
				(SELECT 2 UNION ALL SELECT i + 1 FROM i WHERE i < $1)
			INSERT INTO nodes (uuid`+names+`) SELECT '11111111-2222-4333-8444-' ||
				CAST(100000000000 + i AS text)`+names+` FROM i, nodes`, count)
		if err == nil && s.shared {
			_, err = tx.ExecContext(ctx, "ANALYZE nodes")
		}
		return err
	})
}

// Ask runs a statement as the reads do; it is told which time that is, for it may be asked again.
func Ask(ctx context.Context, s *Store, statement func(time int) string) error {
	times := 0
	return s.read(ctx, "ask", func(tx *tx) error {
		times++
		_, err := tx.ExecContext(ctx, statement(times))
		return err
	})
}

// HoldJournal has nobody append to the journal, from when it has closed held until it stands still no
// more, and again if it is done again.
func HoldJournal(ctx context.Context, s *Store, held chan<- struct{}, still <-chan struct{}) error {
	tell := sync.OnceFunc(func() { close(held) })
	return s.writeBeside(ctx, "hold the journal", func(tx *tx) error {
		err := s.lock(ctx, tx, lockJournal)
		tell()
		<-still
		return err
	})
}

// OldestSchema is oldestSchema.
const OldestSchema = oldestSchema

// Age has the lease of a conductor be over.
func Age(ctx context.Context, s *Store, hostname string) error {
	return s.writeBeside(ctx, "age "+hostname, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE conductors SET updated_at = $1 WHERE hostname = $2`,
			tx.now.Add(-s.lease).UnixMicro(), hostname)
		return err
	})
}
