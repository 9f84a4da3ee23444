package store

import (
	"context"
	"database/sql"
	"errors"
)

// leaseOf is the incarnation whose lease a conductor's row is: not that of the row where a process has taken the name of
// another one, which does not know yet.
const leaseOf = `CASE c.lease_of WHEN '' THEN c.incarnation ELSE c.lease_of END`

// Lock takes what one conductor at a time may have, for an incarnation, and tells whether that has it now. It has
// it until Unlock, or until its conductor lives no more by the clock of all, without another write: who is
// paused, or cut off, loses its locks with its lease. One that does not live gets none. It asks without writing
// unless the lock is free, and may be called again and again.
func (s *Store) Lock(ctx context.Context, name, incarnation string) (held bool, err error) {
	free := false
	err = s.read(ctx, "look at lock "+name, func(tx *tx) error {
		held, free, err = s.lockState(ctx, tx, name, incarnation)
		return err
	})
	if err != nil || held || !free {
		return held, err
	}
	err = s.writeBeside(ctx, "take lock "+name, func(tx *tx) error {
		count, err := changed(tx.ExecContext(ctx, `INSERT INTO locks (name, holder)
			SELECT $1, `+leaseOf+` FROM conductors c WHERE `+leaseOf+` = $2 AND c.updated_at > $3
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder WHERE NOT EXISTS (
				SELECT 1 FROM conductors c WHERE `+leaseOf+` = locks.holder AND c.updated_at > $3)`,
			name, incarnation, tx.now.Add(-s.lease).UnixMicro()))
		held = count > 0
		return err
	})
	return held && err == nil, err
}

// lockState tells whether an incarnation has a lock, or could take it.
func (s *Store) lockState(ctx context.Context, tx *tx, name, incarnation string) (held, free bool, err error) {
	var lives, mine, others bool
	err = tx.QueryRowContext(ctx, `SELECT
		EXISTS (SELECT 1 FROM conductors c WHERE `+leaseOf+` = $2 AND c.updated_at > $3),
		EXISTS (SELECT 1 FROM locks WHERE name = $1 AND holder = $2),
		EXISTS (SELECT 1 FROM locks l JOIN conductors c ON `+leaseOf+` = l.holder
			WHERE l.name = $1 AND l.holder <> $2 AND c.updated_at > $3)`,
		name, incarnation, tx.now.Add(-s.lease).UnixMicro()).Scan(&lives, &mine, &others)
	return lives && mine, lives && !others, err
}

// Unlock gives a lock back; one that the incarnation does not have is left alone.
func (s *Store) Unlock(ctx context.Context, name, incarnation string) error {
	return s.writeBeside(ctx, "give back lock "+name, func(tx *tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM locks WHERE name = $1 AND holder = $2`, name, incarnation)
		return err
	})
}

// LockHolder is the name of the conductor that has a lock, "" if none has it that is known.
func (s *Store) LockHolder(ctx context.Context, name string) (hostname string, err error) {
	err = s.read(ctx, "look who has lock "+name, func(tx *tx) error {
		err := tx.QueryRowContext(ctx, `SELECT c.hostname FROM locks l JOIN conductors c ON `+leaseOf+` = l.holder
			WHERE l.name = $1`, name).Scan(&hostname)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return hostname, err
}
