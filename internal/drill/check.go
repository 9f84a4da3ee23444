package drill

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// audit has the database record each change of a node's row, and who made it: a judge that knows
// nothing of what the conductors think. Whose BMC it is is written beside the row's generations.
const audit = `
CREATE TABLE audit (id BIGSERIAL, node TEXT, before BIGINT, generation BIGINT,
	reserved_before TEXT, reserved TEXT, writer TEXT);
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO audit (node, before, generation, reserved_before, reserved, writer)
	VALUES (NEW.uuid, OLD.generation, NEW.generation, OLD.reservation, NEW.reservation,
		current_setting('application_name'));
	RETURN NEW;
END $$;
CREATE TRIGGER record_change AFTER UPDATE ON nodes FOR EACH ROW
	WHEN (OLD.bmc IS NOT DISTINCT FROM NEW.bmc OR OLD.generation <> NEW.generation OR
		OLD.reservation IS DISTINCT FROM NEW.reservation)
	EXECUTE FUNCTION record_change()`

// watch begins the record.
func (c *cluster) watch(ctx context.Context) error {
	return c.query(ctx, func(db *pgx.Conn) error {
		if _, err := db.Exec(ctx, audit); err != nil {
			return fmt.Errorf("have the database record changes: %w", err)
		}
		return nil
	})
}

// query connects to the database, past the wire that the servers use.
func (c *cluster) query(ctx context.Context, fn func(*pgx.Conn) error) error {
	db, err := pgx.Connect(ctx, c.postgres.URL)
	if err != nil {
		return fmt.Errorf("connect to the database of the drill: %w", err)
	}
	defer db.Close(context.WithoutCancel(ctx))
	return fn(db)
}

// judge finds what no conductor may have done, and journals that do not tell all.
func (c *cluster) judge(ctx context.Context, r *Report) error {
	return c.query(ctx, func(db *pgx.Conn) (err error) {
		if err := writers(ctx, db, r); err != nil {
			return err
		}
		storms := 1
		if r.Undisturbed != nil {
			storms = 2
		}
		r.Holes, err = mended(ctx, func() ([]string, error) { return journals(ctx, db, storms) })
		return err
	})
}

// mended looks for holes in journals until there is none, or none will be filled any more: what a
// conductor had no time to put on record others do, some time after its death.
func mended(ctx context.Context, look func() ([]string, error)) (holes []string, err error) {
	for end := time.Now().Add(mendTime); ; {
		holes, err = look()
		if err != nil || len(holes) == 0 || time.Now().After(end) {
			return holes, err
		}
		if err := wait(ctx, time.Second); err != nil {
			return nil, err
		}
	}
}

// mendTime is how long journals may take to be complete.
const mendTime = 40 * time.Second

// writers checks that no generation was written twice, and that what was reserved was written by who
// had reserved it and nobody else.
func writers(ctx context.Context, db *pgx.Conn, r *Report) error {
	var twice int
	err := db.QueryRow(ctx, `SELECT count(*), count(*) - count(DISTINCT (node, before)) FROM audit`).
		Scan(&r.Writes, &twice)
	if err != nil {
		return fmt.Errorf("read who wrote: %w", err)
	}
	if twice > 0 {
		r.Faults = append(r.Faults, fmt.Sprintf("%d generations of nodes were written twice", twice))
	}
	rows, err := db.Query(ctx, `SELECT node || ' generation ' || generation || ', reserved for ' ||
		COALESCE(reserved, 'nobody') || ', was written by ' || writer FROM audit
		WHERE reserved IS NOT NULL AND reserved <> writer
		OR reserved_before IS NOT NULL AND reserved IS NOT NULL AND reserved_before <> reserved`)
	if err != nil {
		return fmt.Errorf("read who wrote: %w", err)
	}
	foreign, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read who wrote: %w", err)
	}
	r.Faults = append(r.Faults, foreign...)
	return nil
}

// journals checks that each machine that arrived has on record how it began and how it ended, as often
// as it was deployed, and that each state that it left is the one that it had come to.
func journals(ctx context.Context, db *pgx.Conn, storms int) ([]string, error) {
	rows, err := db.Query(ctx, `WITH changes AS (SELECT node, seq, text,
			data::json->>'from' AS from_, data::json->>'to' AS to_,
			lag(data::json->>'to') OVER (PARTITION BY node ORDER BY seq) AS was
		FROM journal WHERE source = 'state')
		SELECT n.name || ': ' || COALESCE(string_agg(text, '; ' ORDER BY seq), 'nothing')
		FROM nodes n LEFT JOIN changes ON node = n.uuid
		WHERE n.provision_state = 'active' GROUP BY n.name
		HAVING count(*) FILTER (WHERE from_ = 'available') <> $1
		OR count(*) FILTER (WHERE to_ = 'active') <> $1
		OR count(*) FILTER (WHERE was <> from_) > 0`, storms)
	if err != nil {
		return nil, fmt.Errorf("read the journals: %w", err)
	}
	holes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the journals: %w", err)
	}
	return holes, nil
}
